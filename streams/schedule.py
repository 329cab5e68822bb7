"""Domain schedules: which source under which weather, for how many frames, in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from streams.classes import CITYSCAPES_19, CLASS_SETS, find_classes
from streams.datasets.base import DatasetSettings
from streams.datasets.registry import DATASETS, DatasetKeys
from streams.errors import StreamError
from streams.frame import ClassSet
from streams.live.feed import parse_feed
from streams.sources.folder import scan_folder
from streams.yaml_config import ConfigModel, KeyedError, KeyedErrors, Located, build, load_yaml, unknown_name

SCHEDULES = Path(__file__).resolve().parents[1] / "configs" / "schedules"
LIST_COMMAND = "run_stream.py --list schedules"
SOURCE_KEYS = ("folder", "town", "stream")
MIN_SIDE, MAX_SIDE = 32, 4096
Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE)]


class Town(ConfigModel):
    """The built-in town as a source.

    Attributes:
        route: ``shared``: every visit drives the same streets with the same traffic, so that only the weather differs;
            ``per_visit``: each visit has streets of its own.
        seed: Chooses the route; None takes the run's seed.
    """

    route: Literal["shared", "per_visit"] = "shared"
    seed: int | None = Field(None, ge=0, lt=2**31)


def _town(value: Any) -> Any:
    if value is False:
        raise ValueError("write 'town: true' or name another source")
    return {} if value is True else value


class Visit(DatasetKeys):
    """One stay in a domain: a source, a weather, a length.

    A data set (`streams.datasets`) is named by its key, as in ``cityscapes: {root: DIR, split: val}``.

    Attributes:
        domain: Name under which scores are kept, such as ``rain50``.
        folder: Folder of frames (``images/`` and optional ``labels/``, or images alone); absolute once loaded.
        town: The built-in town, unlimited.
        stream: Camera, address, video file or images (`streams.live.feed`); the only visit of its schedule.
        weather: Events in the order of application, such as ``{rain: 50}``; empty is clear. Numbers may change over
            the visit (``{rain: {from: 0, to: 100}}``) or wander (``{rain: {walk: [0, 150]}}``).
        frames: Length; None takes the schedule's, or the whole folder or data set.
    """

    domain: str = Field(min_length=1)
    folder: Path | None = None
    town: Annotated[Town | None, BeforeValidator(_town)] = None
    stream: str | None = None
    weather: dict[str, Any] = Field(default_factory=dict)
    frames: int | None = Field(None, ge=1)

    @field_validator("folder")
    @classmethod
    def _resolve(cls, folder: Path | None, info: ValidationInfo) -> Path | None:
        if folder is None:
            return None
        with suppress(RuntimeError):  # ~name of nobody on this machine: then it is a folder's own name
            folder = folder.expanduser()
        folder = Path((info.context or {}).get("base", ".")).absolute() / folder
        scan_folder(folder)
        return folder

    @field_validator("stream")
    @classmethod
    def _find_stream(cls, stream: str | None, info: ValidationInfo) -> str | None:
        if stream is None:
            return None
        return parse_feed(stream, Path((info.context or {}).get("base", "."))).where

    @field_validator("weather")
    @classmethod
    def _check_weather(cls, weather: dict[str, Any]) -> dict[str, Any]:
        if not weather:
            return weather
        from streams.weather import EVENTS, parse_weather  # compiled code: only where there is weather

        errors = []
        for event, options in weather.items():
            if event not in EVENTS:
                errors.append(KeyedError(unknown_name("weather", event, EVENTS), event, at_key=True))
                continue
            try:
                parse_weather({event: options})
            except StreamError as error:
                errors.append(KeyedError(str(error), event))
        if errors:
            raise KeyedErrors(errors)
        return weather

    @model_validator(mode="after")
    def _check_source(self) -> Visit:
        given = [key for key in (*SOURCE_KEYS, *DATASETS) if getattr(self, key) is not None]
        if len(given) != 1:
            found = f"got {' and '.join(given)}" if given else "got none"
            raise ValueError(f"a visit names one source ({', '.join(SOURCE_KEYS)} or a data set), {found}")
        if self.stream is not None and self.weather:
            raise KeyedError("is rendered on folders and the town; a stream has its own", "weather")
        if self.folder is not None and self.frames is not None:
            available = len(scan_folder(self.folder).images)
            if self.frames > available:
                raise KeyedError(f"asks for {self.frames} frames, {self.folder} has {available}", "frames")
        return self

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A key for each data set that the visit does not name would bury what it does say.
        return {key: value for key, value in handler(self).items() if key not in DATASETS or value is not None}


class Schedule(ConfigModel):
    """A stream as written in a YAML file.

    Attributes:
        name: For reports; the file's name where the file gives none.
        description: One line for ``--list schedules``.
        classes: Class set of labels and scores: a key of `streams.classes.CLASS_SETS`, or a YAML file.
        size: Height and width of frames; None: folders keep their own, the town takes 256 x 512.
        fps: Frames per second; the clock of weather and traffic.
        frames: Length of visits that give none; a folder with fewer is taken whole.
        visits: At least one.
        rounds: How often the visits are played, one after the other; 1 once loaded: `visits` then holds all of them.
        methods: Settings by name of the program that plays the stream, scaled to these visits; not read here.
    """

    name: str = ""
    description: str = ""
    classes: str = CITYSCAPES_19.name
    size: tuple[Side, Side] | None = None
    fps: float = Field(10.0, gt=0, le=1000)
    frames: int | None = Field(None, ge=1)
    visits: tuple[Visit, ...]
    rounds: int = Field(1, ge=1, le=1000)
    methods: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @property
    def class_set(self) -> ClassSet:
        """Names and ids of `classes`."""
        return find_classes(self.classes)

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, name: str, info: ValidationInfo) -> str:
        base = Path((info.context or {}).get("base", "."))
        try:
            find_classes(name, base)
        except StreamError as error:
            raise ValueError(str(error)) from None
        return name if name in CLASS_SETS else str((base / Path(name).expanduser()).absolute())

    @model_validator(mode="after")
    def _check_visits(self) -> Schedule:
        if not self.visits:
            raise KeyedError("a schedule needs at least one visit", "visits")
        errors = []
        for index, visit in enumerate(self.visits):
            if visit.stream is not None and len(self.visits) > 1:
                errors.append(KeyedError("a stream stands alone; give it to --stream", "visits", index, "stream"))
            if visit.town is None:
                continue
            if self.classes != CITYSCAPES_19.name:
                message = f"the town is labelled in {CITYSCAPES_19.name}, this schedule in {self.classes}"
                errors.append(KeyedError(message, "visits", index, "town"))
            if visit.frames is None and self.frames is None:
                errors.append(
                    KeyedError("the town has no end; give 'frames' here or for the schedule", "visits", index)
                )
        if errors:
            raise KeyedErrors(errors)
        return self

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if key != "rounds" or value != 1}


def load_schedule(
    name_or_path: str | Path, overrides: Sequence[str] = (), data: Mapping[str, DatasetSettings] | None = None
) -> Schedule:
    """Reads a schedule by name or file; folders are relative to the file and are checked to hold frames.

    Args:
        name_or_path: Name in configs/schedules, or path of a YAML file.
        overrides: ``dotted.key=value`` texts, such as ``visits.0.frames=20``.
        data: Where data sets lie, by name; see `streams.bound_data.bind_data`.

    Raises:
        ConfigError: Every fault of the file, one a line.
        StreamError: No such schedule, or a data set without a folder.
    """
    path = find_schedule(name_or_path)
    return build_schedule(load_yaml(path), path, overrides, data)


def build_schedule(
    document: Located,
    path: Path,
    overrides: Sequence[str] = (),
    data: Mapping[str, DatasetSettings] | None = None,
) -> Schedule:
    """The schedule of a document, ready to play: named, its rounds written out, its data sets found.

    Args:
        document: What the schedule says.
        path: Its file: relative paths start from there, and it lends its name.
        overrides: As in `load_schedule`.
        data: As in `load_schedule`.

    Raises:
        ConfigError: Every fault of the document.
        StreamError: A data set without a folder, or data that no visit takes.
    """
    from streams.bound_data import bind_data

    schedule = build(Schedule, document, overrides, context={"base": path.absolute().parent})
    if schedule.rounds > 1:
        schedule = schedule.model_copy(update={"visits": schedule.visits * schedule.rounds, "rounds": 1})
    schedule = bind_data(schedule, data or {})
    return schedule if schedule.name else schedule.model_copy(update={"name": path.stem})


def find_schedule(name_or_path: str | Path) -> Path:
    """The file of a schedule: a path where it looks like one, else a name in configs/schedules.

    Raises:
        StreamError: Neither; names near matches and the command that lists all.
    """
    text = str(name_or_path)
    path = Path(text).expanduser()
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        with suppress(OSError, ValueError):
            if path.exists():
                return path
        raise StreamError(f"{text!r}: no such schedule file")
    named = {file.stem: file for file in SCHEDULES.glob("*.yaml")}
    if text not in named:
        raise StreamError(unknown_name("schedule", text, named, f"{LIST_COMMAND} shows all"))
    return named[text]


def list_schedules() -> list[tuple[str, str]]:
    """Name and description of every schedule in configs/schedules, by name."""
    named = sorted(SCHEDULES.glob("*.yaml"))
    return [(file.stem, str(load_yaml(file).data.get("description", ""))) for file in named]
