"""One cell of the method table: a method on a schedule with a network and a seed, played offline and on time."""

from __future__ import annotations

import hashlib
import json
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import harmonic_mean, mean
from typing import Any

import yaml

from benchmarks._player import cpu_time, without_waiting
from benchmarks._remembered import RememberedSource, RememberedStream
from online_uda.adaptation.cost import cost_of
from online_uda.config import RunConfig
from online_uda.inputs import RunInputs, open_inputs
from online_uda.reports.run_folder import write_atomically
from online_uda.resolve import resolve
from online_uda.run import start
from streams.schedule import find_schedule
from streams.yaml_config import load_yaml

RATES = (5.0, 10.0, 30.0)
"""Frames a second of a camera that does not wait (specs/protocols.md 2.2)."""
ROUNDS_OF_SLOPE = 10


@dataclass(frozen=True)
class Cell:
    """What is played.

    Attributes:
        schedule: Name or file.
        network: Name or folder; None takes the default.
        method: Name or file.
        seed: Of the run.
        source: Folder of labelled source images; None takes the town.
        frames: At most this many of a visit.
        size: ``HxW``; None keeps the schedule's.
        rounds: How often the schedule is played in a row.
        on_time: Frames a second of the runs on time.
        record_frames: Frames of a visit of the run that costs are recorded in.
        overrides: ``key=value`` of every run.
    """

    schedule: str
    network: str | None
    method: str
    seed: int
    source: str | None
    frames: int | None
    size: str | None
    rounds: int
    on_time: tuple[float, ...]
    record_frames: int
    overrides: tuple[str, ...]

    @property
    def title(self) -> str:
        """Short name of the network for people."""
        return Path(self.network or "town").name

    def path(self, folder: Path) -> Path:
        """Where its result is kept: another cell, or other settings of the method, have another place."""
        plan = resolve(self.config(), self.overrides).as_dict()
        # Slots that a method does not fill say nothing: a new slot leaves the results of methods without it alone.
        content = json.dumps([asdict(self), *(_filled(plan[key]) for key in ("method", "schedule"))], sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()[:10]
        return folder / f"{Path(self.schedule).stem}-{self.title}-{Path(self.method).stem}-{self.seed}-{digest}.json"

    def config(self, **changes: Any) -> RunConfig:
        """A run of it."""
        return RunConfig.model_validate(
            {
                "schedule": self.schedule, "method": self.method, "network": self.network, "source": self.source,
                "frames": self.frames, "size": self.size, "seed": self.seed, "device": "cpu", "threads": 1,
                "precision": "fp32", "workers": 0, "beside": False, "tensorboard": False, "report": False,
                "snapshot_every": 10**6, **changes,
            }
        )  # fmt: skip


_streams: dict[str, RememberedStream] = {}
_sources: dict[str, RememberedSource] = {}


def play_cell(cell: Cell, folder: Path) -> dict[str, Any]:
    """Plays a cell, or reads it where it has been played before."""
    path = cell.path(folder)
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as root:
        result = {**asdict(cell), "title": cell.title, **_play(_repeated(cell, Path(root)), Path(root))}
    write_atomically(path, json.dumps(result, indent=1) + "\n")
    return result


def _play(cell: Cell, root: Path) -> dict[str, Any]:
    _forget_peak()
    with cpu_time(True):
        offline = _run(cell, root / "offline")
        timed = {}
        if cell.on_time:
            # A step fits between two frames of a slow camera, so that every stage is met and its cost recorded.
            with without_waiting():
                _run(cell, root / "costs", fps=0.05, learn="interleaved", frames=cell.record_frames)
            costs = root / "costs" / "costs.json"
            for rate in cell.on_time:
                summary = _run(cell, root / f"{rate:g}", fps=rate, learn="interleaved", clock=str(costs))
                timed[f"{rate:g}"] = {
                    key: summary[key]
                    for key in (
                        "hmean",
                        "hmean_frozen",
                        "streaming_miou",
                        "deadline_miss_rate",
                        "dropped",
                        "adapted_ratio",
                    )
                }
    return {**figures(offline), "passes": str(cost_of(resolve(cell.config(), cell.overrides).method)), "timed": timed}


def figures(summary: dict[str, Any]) -> dict[str, Any]:
    """What the table says of an offline run."""
    visits, latency = summary["visits"], summary["latency_ms"]
    gaps = [gap["adapted"] for gap in summary["return_gap"].values() if gap["adapted"] is not None]
    return {
        "mean": summary["mean"], "mean_frozen": summary["mean_frozen"],
        "hmean": summary["hmean"], "hmean_frozen": summary["hmean_frozen"],
        "worst": summary["worst"]["miou"], "worst_frozen": summary["worst_frozen"]["miou_frozen"],
        "worst_visit_gain": summary["harm"]["worst_visit_gain"], "harmed_frames": summary["harm"]["frame_share"],
        "return_gap": mean(gaps) if gaps else None, "slope": round_slope(visits),
        "visits": [{key: visit[key] for key in ("domain", "miou", "miou_frozen")} for visit in visits],
        "frames": summary["frames"], "updates": summary["updates"],
        "predict_ms": latency["predict"]["p50"], "adapt_ms": latency.get("adapt", {}).get("p50"),
        "frame_ms": latency["frame"]["mean"], "peak_memory_mb": summary["peak_memory_mb"],
    }  # fmt: skip


def round_slope(visits: list[dict[str, Any]]) -> float | None:
    """Change of the gain over frozen in ten rounds, in points: least squares over rounds; None without two rounds."""
    gains = round_gains(visits)
    if len(gains) < 2:
        return None
    middle = (len(gains) - 1) / 2
    spread = sum((i - middle) ** 2 for i in range(len(gains)))
    return ROUNDS_OF_SLOPE * sum((i - middle) * gain for i, gain in enumerate(gains)) / spread


def round_gains(visits: list[dict[str, Any]]) -> list[float]:
    """Harmonic mean over frozen of every round, in points; empty where nothing comes back.

    A round is the shortest sequence of domains that the schedule repeats as a whole.
    """
    domains = [visit["domain"] for visit in visits]
    period = next(
        (p for p in range(1, len(domains)) if len(domains) % p == 0 and domains == domains[:p] * (len(domains) // p)),
        None,
    )
    if period is None:
        return []
    gains = []
    for first in range(0, len(visits), period):
        part = visits[first : first + period]
        gains.append(harmonic_mean([v["miou"] for v in part]) - harmonic_mean([v["miou_frozen"] for v in part]))
    return gains


def _filled(value: Any) -> Any:
    """A document without the keys that are None, at any depth."""
    if isinstance(value, dict):
        return {key: _filled(part) for key, part in value.items() if part is not None}
    return [_filled(part) for part in value] if isinstance(value, list | tuple) else value


def _repeated(cell: Cell, root: Path) -> Cell:
    """The cell with its schedule written out as many times as there are rounds."""
    if cell.rounds == 1:
        return cell
    path = find_schedule(cell.schedule)
    document = dict(load_yaml(path).data)
    visits = [dict(visit) for visit in document["visits"]]
    for visit in visits:
        if "folder" in visit:
            visit["folder"] = str((path.absolute().parent / visit["folder"]).resolve())
    document["visits"] = visits * cell.rounds
    written = root / f"{path.stem}.yaml"
    written.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return replace(cell, schedule=str(written))


def _run(cell: Cell, folder: Path, **changes: Any) -> dict[str, Any]:
    inputs = open_inputs(resolve(cell.config(**changes), cell.overrides))
    return start(_remembered(cell, inputs), folder, console=False).run()


def _remembered(cell: Cell, inputs: RunInputs) -> RunInputs:
    """The same frames and source images for every method: rendered once a process, the last streams kept."""
    run = inputs.plan.run
    key = json.dumps(
        [inputs.plan.schedule.model_dump(mode="json", exclude={"methods", "name"}), run.seed, run.size, run.frames],
        default=str,
    )
    if key not in _streams:
        while len(_streams) > 3:
            _streams.pop(next(iter(_streams)))
        _streams[key] = RememberedStream(inputs.stream)
    stream: Any = _streams[key]
    source: Any = inputs.source
    if source is not None:
        name = json.dumps([run.source, run.seed, inputs.size, len(source)])
        source = _sources.setdefault(name, RememberedSource(source))
    return replace(inputs, stream=stream, source=source)


def _forget_peak() -> None:
    """Lets the peak of this process's memory begin anew (Linux); elsewhere it is that of all cells so far."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
