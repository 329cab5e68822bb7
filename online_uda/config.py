"""What a user asks for, and the plan of a run that it becomes: typed, frozen, with every key checked."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator
from typing_extensions import Self

from online_uda.adaptation.cost import cost_of
from online_uda.adaptation.settings import MethodSettings
from online_uda.errors import USER_ERRORS, UserError
from online_uda.networks.catalogue import DEFAULT_NETWORK
from online_uda.networks.inference import WHOLE, InferenceSettings
from online_uda.seed_names import preset
from streams.schedule import Schedule, Side
from streams.yaml_config import ConfigError, ConfigModel, KeyedError, KeyedErrors, build, load_yaml, unknown_name

METHODS = Path(__file__).resolve().parents[1] / "configs" / "methods"
NUMBERS_UNTOUCHED = (
    "out", "snapshot_every", "tensorboard", "stream_timeout", "save_video", "save_masks", "mask_ids", "show",
    "report", "serve", "workers", "beside",
)  # fmt: skip
"""Run keys that may differ when a run is resumed: no score depends on them."""

Backend = Literal["auto", "torch", "compile", "onnxruntime"]


def parse_size(value: Any) -> Any:
    """``256x512`` as ``(256, 512)``: height, then width, as in a tensor's shape; lists become tuples."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9]{1,5})x([0-9]{1,5})\s*", value)
        if match is None:
            raise ValueError(f"expected HEIGHTxWIDTH such as 256x512, got {value!r}")
        return int(match[1]), int(match[2])
    return tuple(value) if isinstance(value, list) else value


def _port_as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class RunConfig(ConfigModel):
    """What a user asks for; the key names are those of the command line's flags.

    Attributes:
        schedule: Name in configs/schedules, or a YAML file.
        stream: Camera, address, video file, folder or images to play in place of a schedule (`streams.live.feed`).
        method: Name in configs/methods, or a YAML file.
        network: Registered name, encoder with head, or folder; None takes the network trained on the built-in town.
        init: Where the weights of an untrained network come from: ``random``, or ``pretrained`` for its encoder.
        init_head: ``random`` where an untrained head is meant.
        classes: Class set that the network was trained on, where it is not the stream's: a name or a YAML file.
        data: Where data sets lie: ``NAME=DIR`` or ``NAME=DIR,key=value`` each (`streams.bound_data`).
        source: Labelled source images for replay: a folder, or ``NAME=DIR`` of a data set; None takes what the network
            was trained on: the built-in town, or Cityscapes where that plays and another network is named.
        frames: Upper bound on the frames of each visit.
        size: Height and width that frames are brought to; None keeps the schedule's or their own.
        seed: Of stream, weather, method and augmentation.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: CPU threads of torch; None leaves one core to the stream.
        workers: Processes that make frames ahead; 0 leaves it to a thread of the run. None takes one a core but one, up
            to 4, and none for streams of less than a hundred frames of 256 x 512.
        beside: Whether the frozen network answers in a thread of its own while the adapted one works, where the stream
            waits for learning. Latencies grow where threads share what a core has. None does so where a core is free
            and frames are worth it.
        precision: ``fp32``; ``bf16`` autocast; ``auto`` measures both at the start and takes bf16 where it is faster.
        backend: What predicts: ``torch``; ``compile`` (torch.compile); ``onnxruntime``; ``auto`` measures torch and
            ONNX Runtime at the start and takes the faster one. Learning is torch's in any case.
        snapshot_every: Frames between two snapshots; one more is written at the end.
        tensorboard: Whether TensorBoard files are written.
        fps: Frames a second of a camera that does not wait; None lets the stream wait for learning.
        budget_ms: Milliseconds from a frame's arrival to its mask's deadline; None takes the time between two frames,
            and without ``fps`` frames come that far apart.
        learn: ``sync``, ``interleaved`` or ``async``: when a stream that does not wait is learned from; None takes
            interleaved.
        clock: ``real``, or a file of costs (`online_uda.runtime.costs`) that time is made up from.
        constant_speed: Speed of the stream over that of a plain forward pass, in (0, 1], for the protocol of Alfarra et
            al. (`online_uda.runtime.constant_speed`); None for no such protocol.
        stream_timeout: Seconds of silence after which a live stream counts as lost.
        serve: Port, or host and port, of the live page; None serves none.
        report: Whether ``report.html`` is written, and pictures are kept for it.
        save_video: MP4 file of the overlay, frozen beside adapted; None writes none.
        save_masks: Folder of predicted masks, a PNG a frame; None writes none.
        mask_ids: What these hold: ``train`` ids, ``label`` ids as in label files, ``colour``: train ids with a palette.
        show: Whether the overlay is shown in a window.
        inference: Whether frames are answered whole or in tiles, at which scales, mirrored too.
        out: Folder of the run; None makes ``runs/SCHEDULE-METHOD-TIME``.
    """

    schedule: str = Field("cs2rain", min_length=1)
    stream: str | None = Field(None, min_length=1)
    method: str = Field("default", min_length=1)
    network: str | None = Field(None, min_length=1)
    init: Literal["random", "pretrained"] | None = None
    init_head: Literal["random"] | None = None
    classes: str | None = Field(None, min_length=1)
    data: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    source: str | None = Field(None, min_length=1)
    frames: int | None = Field(None, ge=1)
    size: Annotated[tuple[Side, Side] | None, BeforeValidator(parse_size)] = None
    seed: int = Field(0, ge=0, lt=2**31)
    device: str = "auto"
    threads: int | None = Field(None, ge=1, le=1024)
    workers: int | None = Field(None, ge=0, le=64)
    beside: bool | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    backend: Backend = "torch"
    snapshot_every: int = Field(100, ge=1)
    tensorboard: bool = True
    fps: float | None = Field(None, ge=0.01, le=10_000.0, allow_inf_nan=False)
    budget_ms: float | None = Field(None, ge=0.1, le=100_000.0, allow_inf_nan=False)
    learn: Literal["sync", "interleaved", "async"] | None = None
    clock: str = Field("real", min_length=1)
    constant_speed: float | None = Field(None, gt=0.0, le=1.0)
    stream_timeout: float = Field(5.0, ge=0.1, le=3600.0)
    report: bool = True
    serve: Annotated[str | None, BeforeValidator(_port_as_text)] = Field(None, min_length=1)
    save_video: str | None = Field(None, min_length=1)
    save_masks: str | None = Field(None, min_length=1)
    mask_ids: Literal["train", "label", "colour"] = "train"
    show: bool = False
    inference: InferenceSettings = WHOLE
    out: str | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _deadlines_fit(self) -> Self:
        if self.has_deadlines and self.constant_speed is not None:
            raise KeyedError("is another protocol than fps and budget_ms; give one of them", "constant_speed")
        if not self.has_deadlines:
            faults = [
                KeyedError("needs a rate of frames; add --fps F", key)
                for key, given in (("learn", self.learn is not None), ("clock", self.clock != "real"))
                if given
            ]
            if faults:
                raise KeyedErrors(faults)
        return self

    @property
    def has_deadlines(self) -> bool:
        """Whether the stream does not wait."""
        return self.fps is not None or self.budget_ms is not None

    @property
    def camera(self) -> tuple[float, float]:
        """Frames a second and milliseconds to a deadline, of a run that has deadlines."""
        if self.fps is None:
            assert self.budget_ms is not None
            return 1000.0 / self.budget_ms, self.budget_ms
        return self.fps, 1000.0 / self.fps if self.budget_ms is None else self.budget_ms

    @property
    def learn_mode(self) -> Literal["sync", "interleaved", "async"]:
        """When a stream that does not wait is learned from."""
        return self.learn or "interleaved"

    @field_validator("device")
    @classmethod
    def _check_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", device):
            raise ValueError(f"expected auto, cpu, cuda or cuda:N, got {device!r}")
        return device


@dataclass(frozen=True)
class RunPlan:
    """A run with nothing left to look up: names are found, paths absolute, every key checked.

    Attributes:
        run: The user's wishes; ``network`` is set.
        schedule: The stream to play.
        method: Settings of the method with the schedule's and the command line's changes.
        method_name: For reports.
    """

    run: RunConfig
    schedule: Schedule
    method: MethodSettings
    method_name: str

    @property
    def network_name(self) -> str:
        """For reports: the registered name, or the folder's."""
        return Path(self.run.network or DEFAULT_NETWORK).name.removeprefix("timm:")

    @property
    def is_frozen(self) -> bool:
        """Whether no prediction can differ from the source network's."""
        return self.method.keeps_the_source

    def on_machine(
        self, device: str, threads: int, precision: Literal["fp32", "bf16"], *, beside: bool = False
    ) -> RunPlan:
        """The plan with what was found out about the machine, so that a resumed run does as this one."""
        return self._with_run(device=device, threads=threads, precision=precision, beside=beside)

    def predicted_by(self, backend: str) -> RunPlan:
        """The plan with the backend that was chosen, for the same reason."""
        return self._with_run(backend=backend)

    def _with_run(self, **values: Any) -> RunPlan:
        return replace(self, run=self.run.model_copy(update=values))

    def as_dict(self) -> dict[str, Any]:
        """The resolved configuration: what ``config.yaml`` holds and `resume_plan` reads."""
        return {
            "run": self.run.model_dump(mode="json", exclude={"out"}),
            "schedule": self.schedule.model_dump(mode="json", exclude={"methods"}),
            "method": self.method.model_dump(mode="json"),
        }

    def digest(self) -> str:
        """SHA-256 of everything in `as_dict` that scores depend on."""
        content = self.as_dict()
        content["run"] = {key: value for key, value in content["run"].items() if key not in NUMBERS_UNTOUCHED}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass
class Faults:
    """Collects what is wrong, so that the user hears of everything at once."""

    lines: list[str] = field(default_factory=list)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """A user's error inside the block is kept and the block left; others pass."""
        try:
            yield
        except USER_ERRORS as error:
            self.lines += str(error).splitlines()

    def raise_any(self) -> None:
        """Raises `ConfigError` with every line so far, in the order found; nothing if there is none."""
        if self.lines:
            raise ConfigError(list(dict.fromkeys(self.lines)))


def differences(stored: Any, wanted: Any, path: str = "") -> list[str]:
    """``key.path: OLD in the run, NEW now`` for every leaf that differs between two plain values."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        lines = []
        for key in dict.fromkeys([*stored, *wanted]):
            lines += differences(stored.get(key), wanted.get(key), f"{path}.{key}" if path else str(key))
        return lines
    if isinstance(stored, list) and isinstance(wanted, list) and len(stored) == len(wanted):
        pairs = enumerate(zip(stored, wanted, strict=True))
        return [line for i, (old, new) in pairs for line in differences(old, new, f"{path}.{i}")]
    if stored == wanted:
        return []
    old, new = (text if len(text := json.dumps(value)) <= 60 else f"{text[:57]}..." for value in (stored, wanted))
    return [f"{path}: {old} in the run, {new} now"]


def named_methods() -> dict[str, Path]:
    """Files in configs/methods by the name that ``--method`` takes."""
    return {file.stem: file for file in sorted(METHODS.glob("*.yaml"))}


def list_methods() -> list[tuple[str, str]]:
    """Name of every method in configs/methods, with what learns from what, and what that costs a frame."""
    rows = []
    for name, file in named_methods().items():
        settings = build(MethodSettings, load_yaml(file))
        rows.append((name, f"{settings.description} [{cost_of(settings)}]"))
    return rows


def find_method(name_or_path: str) -> Path:
    """The file of a method: a path where it looks like one, else a name in configs/methods or of seed 004.

    Raises:
        UserError: Neither, with near matches and the command that lists all; or a name of seed 004 that has no recipe.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        with suppress(OSError, ValueError):
            if path.exists():
                return path
        raise UserError(f"{name_or_path!r}: no such method file")
    named = named_methods()
    known = preset(name_or_path)
    if known is not None and known.method is not None:
        return named[known.method]
    if name_or_path not in named:
        raise UserError(unknown_name("method", name_or_path, named, "run_stream.py --list methods shows all"))
    return named[name_or_path]
