"""Many frames and random faults on a tiny network: no lost prediction, no unhandled exception, no growth.

    python -m benchmarks.soak

Plays a stream of random frames from memory. At random frames it injects faults, `--faults` of each kind:

    bad_frame      the stream has no image at this tick
    black          the image is black
    nan_weights    a weight becomes NaN after the step
    memory         memory runs out in the step
    disk           there is no space for the snapshot that is due next
    report         a report fails to write; it is switched off for good, so this fault has a report of its own each time
    clock          the clock jumps by up to an hour, either way

Every tick must be recorded, every image predicted and finite. Resident memory is read after a tenth of the frames and
at the end. Writes docs/benchmarks/soak.json and docs/benchmarks/soak.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.tiny_run import SIZE, command, write_inputs
from online_uda.adaptation import frame_pass
from online_uda.adaptation import step as steps
from online_uda.adaptation.recipe import Recipe
from online_uda.cli import parser
from online_uda.inputs import open_inputs
from online_uda.reports import jsonl
from online_uda.reports.environment import describe_environment
from online_uda.reports.record import FrameRecord
from online_uda.reports.sinks import Sink
from online_uda.resolve import resolve
from online_uda.run import start
from online_uda.runtime import clock as clocks
from online_uda.runtime import runner as runners
from streams.classes import CAMVID_11
from streams.frame import Frame, StreamItem, Truth
from streams.stream import VisitPlan

KINDS = ("bad_frame", "black", "nan_weights", "memory", "disk", "report", "clock")
SHORT_RESTS = ("guards.rest=1",)
"""So many bad weights would keep the guards at rest, and a method that rests meets no fault."""
PART_BYTES = 4 * 2**20
KEPT_PARTS = 4


class RandomStream:
    """Frames from memory, a new domain name every ``visit`` frames; some ticks are bad, some images black."""

    classes = CAMVID_11

    def __init__(self, frames: int, visit: int, faults: dict[int, str]) -> None:
        self._frames, self._faults = frames, faults
        self.visits = tuple(
            VisitPlan(("day", "dusk")[number % 2], number, first, min(visit, frames - first))
            for number, first in enumerate(range(0, frames, visit))
        )
        self._visit = visit
        generator = np.random.default_rng(0)
        self._images = generator.integers(0, 256, (16, *SIZE, 3), np.uint8)
        self._labels = generator.integers(0, len(CAMVID_11), (16, *SIZE), np.uint8)

    def __len__(self) -> int:
        return self._frames

    @property
    def length(self) -> int:
        """Frames."""
        return self._frames

    def stop(self) -> None:
        """It never waits."""

    def figures(self) -> None:
        """The summary has nothing to say of it."""

    def __enter__(self) -> RandomStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing runs beside it."""

    def iterate(self, first: int = 0) -> Iterator[StreamItem]:
        """Items from ``first`` on."""
        for index in range(first, self._frames):
            plan, fault = self.visits[index // self._visit], self._faults.get(index)
            truth = Truth(plan.domain, plan.visit, self._labels[index % 16])
            if fault == "bad_frame":
                yield StreamItem(index, None, replace(truth, label=None), "soak")
                continue
            image = self._images[index % 16] // (1 + plan.visit % 2)
            if fault == "black":
                image = np.zeros_like(image)
            yield StreamItem(index, Frame(index, image, index / 10), truth)


class Witness:
    """A report that counts what arrives, and fails at the frame it is told to."""

    name = "witness"

    def __init__(self, fails_at: int | None = None) -> None:
        self.frames = 0
        self._fails_at = fails_at

    def __enter__(self) -> Witness:
        return self

    def write(self, record: FrameRecord) -> None:
        """Counts a record."""
        if self._fails_at is not None and record.frame >= self._fails_at:
            raise OSError(28, "No space left on device")
        self.frames += 1

    def finish(self, summary: dict[str, Any]) -> None:
        """Nothing to add."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to close."""


class Faults:
    """Injects the faults of the frame at hand at the places where they happen."""

    def __init__(self, runner: runners.Runner, plan: dict[int, str], seed: int) -> None:
        self._runner = runner
        self._ahead = {kind: deque(sorted(frame for frame, what in plan.items() if what == kind)) for kind in KINDS}
        self._random = random.Random(seed)
        self._jump_s = 0.0
        self.done: Counter[str] = Counter()
        self.predictions = self.not_finite = 0

    def _due(self, kind: str) -> bool:
        """Whether a fault is due; one whose frame brought no opportunity waits for the next."""
        ahead = self._ahead[kind]
        due = bool(ahead) and ahead[0] <= self._runner.next_frame
        if due:
            ahead.popleft()
        self.done[kind] += due
        return due

    def install(self) -> None:
        """Wraps what can fail."""
        method, backward, write = self._runner.method, steps.backward_pieces, runners.write_snapshot
        assert isinstance(method, Recipe)
        predict, pull, tell = method.predict, method._anchor.pull, time.perf_counter

        def counted(frames: Tensor) -> Any:
            prediction = predict(frames)
            self.predictions += 1
            self.not_finite += not bool(prediction.logits.isfinite().all())
            if self._due("clock"):
                self._jump_s += self._random.uniform(-3600.0, 3600.0)
            return prediction

        def short(*given: Any) -> Any:
            if self._due("memory"):
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return backward(*given)

        def spoilt(share: float) -> bool:
            if self._due("nan_weights"):
                next(method.student.head.parameters()).data.view(-1)[0] = float("nan")
            return pull(share)

        def full(folder: Path, state: Any) -> Path:
            if self._due("disk"):
                raise OSError(28, "No space left on device")
            return write(folder, state)

        method.predict = counted  # type: ignore[method-assign]
        method._anchor.pull = spoilt  # type: ignore[method-assign]
        steps.backward_pieces = frame_pass.backward_pieces = short
        runners.write_snapshot = full
        clocks.time = _Jumping(tell, lambda: self._jump_s)  # type: ignore[assignment]


class _Jumping:
    """The time module with a clock that jumps."""

    def __init__(self, tell: Callable[[], float], ahead_s: Callable[[], float]) -> None:
        self.perf_counter = lambda: tell() + ahead_s()


def resident_mb() -> float:
    """Resident memory of this process now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def soak(root: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The run, and what it came to."""
    draw = random.Random(arguments.seed)
    at = draw.sample(range(1, arguments.frames), len(KINDS) * arguments.faults)
    plan = {frame: KINDS[number % len(KINDS)] for number, frame in enumerate(at)}
    write_inputs(root, 2)
    words = command(
        root, "run", f"run.snapshot_every={arguments.snapshot_every}", "guards.every=16", *SHORT_RESTS, method="tent"
    )
    flags, overrides = parser().parse_known_args(words)
    options = {key: value for key, value in vars(flags).items() if value is not None and key not in ("overrides",)}
    inputs = open_inputs(resolve({k: v for k, v in options.items() if v}, [*flags.overrides, *overrides]))
    stream: Any = RandomStream(arguments.frames, arguments.visit, plan)
    runner = start(replace(inputs, stream=stream), root / "run", console=False, argv=["benchmarks.soak"])
    faults, witness = Faults(runner, plan, arguments.seed), Witness()
    sinks = runner._sinks()
    sinks[0] = jsonl.JsonlSink(runner.folder.frames, part_bytes=PART_BYTES, kept_parts=KEPT_PARTS)
    failing = [Witness(frame) for frame, kind in plan.items() if kind == "report"]
    everything: list[Sink] = [*sinks, witness, *failing]
    runner._sinks = lambda: everything  # type: ignore[method-assign]
    faults.install()
    memory: dict[int, float] = {}
    take = runner._take

    def measured(item: StreamItem) -> FrameRecord:
        if item.index % max(1, arguments.frames // 10) == 0:
            memory[item.index] = resident_mb()
            print(item.index, round(memory[item.index]), flush=True)
        return take(item)

    runner._take = measured  # type: ignore[method-assign]
    begun = time.monotonic()
    summary = runner.run()
    memory[arguments.frames] = resident_mb()
    faults.done["bad_frame"] = summary["faults"]
    faults.done["black"] = sum(kind == "black" for frame, kind in plan.items() if frame < summary["frames"])
    faults.done["report"] = len(summary["sink_failures"])
    folder = sum(file.stat().st_size for file in runner.folder.path.rglob("*") if file.is_file()) / 2**20
    return {
        "frames": summary["frames"],
        "recorded": witness.frames,
        "predicted": faults.predictions,
        "not_finite": faults.not_finite,
        "updates": summary["updates"],
        "injected": dict(faults.done),
        "guards": summary["guards"]["actions"],
        "causes": summary["guards"]["causes"],
        "snapshot_failures": summary["snapshot_failures"],
        "memory_mb": memory,
        "folder_mb": folder,
        "seconds": time.monotonic() - begun,
    }


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    machine, got, asked = report["environment"], report["result"], report["arguments"]
    memory = {int(frame): value for frame, value in got["memory_mb"].items()}
    tenth = memory[asked["frames"] // 10]
    images = got["frames"] - got["injected"]["bad_frame"]
    injected = ", ".join(f"{kind} {count}" for kind, count in got["injected"].items())
    return "\n".join([
        "# Soak",
        "",
        f"Made by `{report['command']}`; see its head. {machine['cpu']}, torch {machine['torch']['version']}; "
        f"{got['seconds'] / 60:.0f} minutes.",
        "",
        "| what | figure | target |",
        "|---|---|---|",
        f"| frames | {got['frames']} | 100000 |",
        f"| faults injected | {injected} | 1000 of each |",
        f"| ticks recorded | {got['recorded']} | {got['frames']} |",
        f"| images predicted | {got['predicted']} | {images} |",
        f"| predictions that are not finite | {got['not_finite']} | 0 |",
        "| unhandled exceptions | 0 | 0 |",
        f"| resident memory after a tenth, at the end (MiB) | {tenth:.0f}, {memory[asked['frames']]:.0f} | flat |",
        f"| run folder at the end (MiB) | {got['folder_mb']:.0f} | bounded |",
        f"| learning steps | {got['updates']} | – |",
        f"| what guards did | {', '.join(f'{name} {count}' for name, count in got['guards'].items())} | – |",
        "",
    ])  # fmt: skip


def main() -> None:
    """Runs what the arguments ask for and writes both files."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--frames", type=int, default=100_000)
    flags.add_argument("--faults", type=int, default=1000, help="of each kind")
    flags.add_argument("--visit", type=int, default=2000, help="frames of a visit")
    flags.add_argument("--snapshot-every", type=int, default=50)
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "benchmarks")
    arguments = flags.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        got = soak(Path(place), arguments)
    asked = {key: value for key, value in vars(arguments).items() if key != "out"}
    report = {
        "schema": "online_uda.soak/1",
        "command": f"python -m benchmarks.soak --frames {arguments.frames} --faults {arguments.faults}",
        "arguments": asked,
        "environment": describe_environment(),
        "result": got,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "soak.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "soak.md").write_text(markdown(report), encoding="utf-8")
    print(json.dumps(got))


if __name__ == "__main__":
    main()
