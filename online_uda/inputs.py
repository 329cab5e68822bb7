"""What a run reads: its stream and its labelled source images, opened and checked before anything heavy starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from online_uda.config import Faults, RunPlan
from online_uda.errors import UserError
from online_uda.networks.catalogue import DEFAULT_NETWORK, NETWORK_DESCRIPTIONS
from online_uda.networks.spec import (
    ADAPTERS_FILE,
    adapters_alone,
    form_of,
    function_parts,
    holds_adapters,
    parse_architecture,
    read_description,
    with_adapters,
)
from online_uda.reports.outputs import check_outputs
from online_uda.reports.run_folder import RunFolder
from online_uda.runtime.costs import StageCosts
from streams._workers import worker_count
from streams.bound_data import named_data
from streams.datasets.cityscapes import Cityscapes
from streams.errors import StreamError
from streams.frame import LabelledSet
from streams.live.stream import FeedStream
from streams.sources.labelled import TOWN, open_labelled
from streams.sources.town import TOWN_SIZE
from streams.stream import Stream
from streams.yaml_config import unknown_name

FRAMES_AHEAD = 4
TOWN_IMAGES = 256


@dataclass(frozen=True)
class RunInputs:
    """Opened inputs of a run.

    Attributes:
        plan: The run.
        stream: Plays the schedule; frames are made ahead in a thread.
        source: Labelled source images, or None where the method replays none.
        size: Height and width of the first visit's frames.
    """

    plan: RunPlan
    stream: Stream | FeedStream
    source: LabelledSet | None
    size: tuple[int, int]


def open_inputs(plan: RunPlan, new_folder: Path | None = None) -> RunInputs:
    """Opens stream and source of a run; nothing is written, torch is not imported.

    Args:
        plan: The run.
        new_folder: Where a new run would write; None when a run is continued.

    Raises:
        ConfigError: A line for everything that is wrong with stream, source, network name or folder.
    """
    faults = Faults()
    if new_folder is not None:
        with faults.collecting():
            RunFolder.check_new(new_folder)
    _check_network(plan, faults)
    if plan.run.clock != "real":
        with faults.collecting():
            StageCosts.read(Path(plan.run.clock))
    with faults.collecting():
        check_outputs(plan, resumed=new_folder is None)
    stream: Stream | FeedStream | None = None
    source = None
    size = TOWN_SIZE
    with faults.collecting():
        run = plan.run
        if plan.schedule.visits[0].stream is not None:
            stream = FeedStream(plan.schedule, size=run.size, frames=run.frames, timeout_s=run.stream_timeout)
            size = stream.size
            _check_live(plan, stream)
        else:
            stream = Stream(plan.schedule, seed=run.seed, size=run.size, frames=run.frames, prefetch=FRAMES_AHEAD)
            size = stream.frame_size
    if stream is not None or plan.run.source is not None:  # else it lies where the stream was not found either
        with faults.collecting():
            source = _open_source(plan, size)
    if faults.lines and isinstance(stream, FeedStream):
        stream.close()
    faults.raise_any()
    assert stream is not None
    if isinstance(stream, Stream):
        wanted = plan.run.workers
        stream.workers = worker_count(size[0] * size[1], len(stream)) if wanted is None else wanted
    return RunInputs(plan, stream, source, size)


def _check_live(plan: RunPlan, stream: FeedStream) -> None:
    if not stream.is_live:
        return
    for flag, given in (("--clock", plan.run.clock != "real"), ("run.constant_speed", plan.run.constant_speed)):
        if given:
            raise UserError(f"{flag} makes up the time of recorded frames; a live stream has the wall's, leave it out")


def frame_size(plan: RunPlan) -> tuple[int, int]:
    """Height and width of the first visit's frames.

    Raises:
        StreamError: The first visit's folder is faulty.
    """
    visit = plan.schedule.visits[0]
    if visit.stream is not None:
        return plan.run.size or plan.schedule.size or TOWN_SIZE
    first = plan.schedule.model_copy(update={"visits": (visit,)})
    return Stream(first, size=plan.run.size, frames=1).frame_size


def _open_source(plan: RunPlan, size: tuple[int, int]) -> LabelledSet | None:
    run, method = plan.run, plan.method
    if run.source is None and not method.needs_source:
        return None
    wanted = run.source or _own_source(plan)
    of_town = wanted in (None, TOWN)
    # The town can be drawn at any size and in any number: as the stream's frames, as many as the buffer holds.
    try:
        return open_labelled(
            wanted,
            plan.schedule.class_set,
            size if of_town else run.size or plan.schedule.size,
            seed=run.seed,
            length=method.replay.frames if method.replay is not None else TOWN_IMAGES,
        )
    except StreamError as error:
        if run.source is None:
            raise
        raise UserError(f"--source: {error}") from None


def _own_source(plan: RunPlan) -> str | None:
    """Cityscapes' training images for a network that is not the town's, where a part of Cityscapes plays."""
    played = named_data(plan.run.data).get(Cityscapes.NAME)
    if not isinstance(played, Cityscapes) or plan.run.network == DEFAULT_NETWORK:
        return None
    if played.split == "train":
        raise UserError("--source: the stream plays Cityscapes' training images; replay must not draw from them")
    return f"{Cityscapes.NAME}={played.root},split=train"


def _check_network(plan: RunPlan, faults: Faults) -> None:
    """What can be told without torch; what is in a folder or a file is checked when it is loaded."""
    if plan.run.network is not None:
        _check_name(plan.run.network, faults)


def _check_name(name: str, faults: Faults) -> None:
    form = form_of(name)
    adapters = with_adapters(name)
    if adapters is not None:
        _check_name(adapters[0], faults)
    with faults.collecting():
        if form == "architecture":
            parse_architecture(name)
        elif form == "description":
            read_description(name)
    if form == "function":
        weights = function_parts(name)[1]
        if weights is not None and not Path(weights).exists():
            faults.lines.append(f"--network {name}: no folder or file {weights!r} with its weights")
    if form != "path":
        return
    folder = Path(name)
    if not folder.exists():
        known = unknown_name("network", folder.name, NETWORK_DESCRIPTIONS, "run_stream.py --list networks shows all")
        faults.lines.append(f"{known}; and there is no folder {folder}")
    elif holds_adapters(folder / ADAPTERS_FILE) and not (folder / "config.json").is_file():
        faults.lines.append(adapters_alone(folder))
    elif folder.is_dir() and not (folder / "config.json").is_file():
        faults.lines.append(
            f"--network {folder}: has no config.json; give a folder with config.json and model.safetensors"
        )
