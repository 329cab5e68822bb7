"""A poisoned stream, with and without guards: how far below the frozen network does the adapted one fall?

    python -m benchmarks.poison

Rain in the built-in town. From frame 60 on, for 200 frames, the stream or the method is poisoned; then it recovers.

    black       every frame is black
    white       every frame is white
    saturated   eight times the exposure, clipped
    labels      the teacher names every class by another one's name (HAMLET's slots, learning on every frame)

A window of 50 frames counts from `every` steps of the guard after the poison began: before that no candidate has been
looked at. Writes docs/benchmarks/poison.json and docs/benchmarks/poison.md.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from online_uda.adaptation.recipe import Recipe
from online_uda.adaptation.settings import AlwaysTrigger, GuardSettings, MethodSettings
from online_uda.config import RunPlan
from online_uda.evaluation.windows import ClassCounts, window_miou
from online_uda.inputs import open_inputs
from online_uda.reports.environment import describe_environment
from online_uda.resolve import resolve
from online_uda.run import start
from online_uda.runtime.runner import Runner
from streams.frame import StreamItem
from streams.schedule import Schedule

Image = NDArray[np.uint8]
Result = dict[str, Any]

IMAGES: dict[str, Callable[[Image], Image]] = {
    "black": np.zeros_like,
    "white": lambda image: np.full_like(image, 255),
    "saturated": lambda image: np.clip(image.astype(np.int32) * 8, 0, 255).astype(np.uint8),
}
LABELS = "labels"
POISONS = (*IMAGES, LABELS)
WINDOW = 50
ALLOWED = 2.0


class PoisonedStream:
    """A stream whose images are changed in some frames; everything else is the stream's own."""

    def __init__(self, stream: Any, change: Callable[[Image], Image], frames: range) -> None:
        self._stream, self._change, self._frames = stream, change, frames

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __len__(self) -> int:
        return len(self._stream)

    def __enter__(self) -> PoisonedStream:
        self._stream.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stream.__exit__(*error)

    def iterate(self, start: int = 0) -> Iterator[StreamItem]:
        """Items from ``start`` on."""
        for item in self._stream.iterate(start):
            if item.index in self._frames and item.frame is not None:
                item = replace(item, frame=replace(item.frame, image=self._change(item.frame.image)))
            yield item


def poison_teacher(runner: Runner, frames: range, seed: int) -> None:
    """Lets the teacher take every class for another one while a frame of ``frames`` is learned from."""
    assert isinstance(runner.method, Recipe)
    objective = runner.method._gradients._mixed
    assert objective is not None
    order = torch.randperm(len(runner.stream.classes), generator=torch.Generator().manual_seed(seed)).roll(1)
    mix = objective.mix

    def shuffled(images: Tensor, labels: Tensor, target: Tensor, logits: Tensor, *rest: Any) -> Any:
        # Sure of itself, too: the weight of pseudo-labels must not dilute the poison.
        return mix(images, labels, target, 50.0 * logits[:, order] if runner.next_frame in frames else logits, *rest)

    objective.mix = shuffled  # type: ignore[method-assign]


def settings(poison: str, plan: RunPlan, guards: GuardSettings | None) -> MethodSettings:
    """The default method; for poisoned labels HAMLET's slots on every frame at its highest rate."""
    changes: Result = {"guards": guards}
    if poison == LABELS:
        rate = plan.method.optimizer.model_copy(update={"learning_rate": 6e-5})
        changes |= {"trigger": AlwaysTrigger(), "optimizer": rate}
    return plan.method.model_copy(update=changes)


def run(poison: str, guarded: bool, arguments: argparse.Namespace) -> Result:
    """One run over clean, poisoned and clean frames."""
    before, poisoned, after = arguments.frames
    frames = range(before, before + poisoned)
    options = {
        "schedule": "quick", "method": "hamlet" if poison == LABELS else "default", "seed": arguments.seed,
        "device": arguments.device, "threads": arguments.threads, "precision": "fp32", "tensorboard": False,
        "snapshot_every": 10**6, "size": list(arguments.size),
    }  # fmt: skip
    plan = resolve({key: value for key, value in options.items() if value is not None})
    visit = {"domain": f"rain{arguments.rain:g}", "town": True, "weather": {"rain": arguments.rain}}
    schedule = Schedule.model_validate({"name": "poison", "visits": [{**visit, "frames": before + poisoned + after}]})
    guards = GuardSettings() if guarded else None
    plan = replace(plan, schedule=schedule, method=settings(poison, plan, guards))
    inputs = open_inputs(plan)
    if poison in IMAGES:
        inputs = replace(inputs, stream=PoisonedStream(inputs.stream, IMAGES[poison], frames))
    with tempfile.TemporaryDirectory() as folder:
        runner = start(inputs, Path(folder) / "run", console=False, argv=["benchmarks.poison"])
        if poison == LABELS:
            poison_teacher(runner, frames, arguments.seed)
        summary = runner.run()
        rows = [json.loads(line) for line in runner.folder.frames.read_text(encoding="utf-8").splitlines()]
    grace = GuardSettings().every
    adapted, frozen = runner.evaluator.history.counts()
    deficit = window_miou(frozen, WINDOW) - window_miou(adapted, WINDOW)
    return {
        "poison": poison,
        "guarded": guarded,
        "worst_deficit": float(np.nanmax(deficit[before + grace :])),
        "worst_deficit_before": float(np.nanmax(deficit[: max(1, before - WINDOW)])),
        "gain_before": gain(adapted, frozen, range(before)),
        "gain_poisoned": gain(adapted, frozen, frames),
        "gain_last_50": gain(adapted, frozen, range(len(adapted) - WINDOW, len(adapted))),
        "rollbacks": summary["rollbacks"],
        "guards": summary["guards"],
        "updates": sum(row["updated"] for row in rows),
        "updates_poisoned": sum(row["updated"] for row in rows if row["frame"] in frames),
        "frame_ms": summary["latency_ms"]["frame"],
    }


def gain(adapted: ClassCounts, frozen: ClassCounts, frames: range) -> float:
    """Points of mIoU over frozen in some frames."""

    def miou(counts: ClassCounts) -> float:
        every = (counts.intersection, counts.union, counts.truth)
        part = ClassCounts(*(values[frames.start : frames.stop] for values in every))
        return float(window_miou(part, len(part))[0])

    return miou(adapted) - miou(frozen)


def markdown(report: Result) -> str:
    """The report for people."""
    machine, asked = report["environment"], report["arguments"]
    before, poisoned, after = asked["frames"]
    lines = [
        "# A poisoned stream",
        "",
        f"Made by `{report['command']}`; see its head for the poisons. Rain of {asked['rain']:g} mm/h in the town at "
        f"{asked['size'][0]}×{asked['size'][1]}, {before} clean frames, {poisoned} poisoned, {after} clean; seed "
        f"{asked['seed']}. {machine['cpu']}, torch {machine['torch']['version']}. Not run on a GPU.",
        "",
        "Points of mIoU against the frozen network on the same frames; the deficit is the deepest of any "
        f"{WINDOW} frames after the guard's first look (target: at most {ALLOWED:g}).",
        "",
        "| poison | guards | deepest deficit | gain before | gain in the poison | gain in the last 50 | rollbacks "
        "| what the guards did |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in report["runs"]:
        deeds = ", ".join(f"{name} {count}" for name, count in row["guards"]["actions"].items()) or "–"
        causes = ", ".join(row["guards"]["causes"])
        lines.append(
            f"| {row['poison']} | {'on' if row['guarded'] else 'off'} | {row['worst_deficit']:.1f} "
            f"| {row['gain_before']:+.1f} | {row['gain_poisoned']:+.1f} | {row['gain_last_50']:+.1f} "
            f"| {row['rollbacks']} | {deeds}{f' ({causes})' if causes else ''} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Runs what the arguments ask for and writes both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--poisons", nargs="+", choices=POISONS, default=list(POISONS))
    parser.add_argument("--frames", nargs=3, type=int, default=[60, 200, 100], metavar="N", help="before, in, after")
    parser.add_argument("--size", nargs=2, type=int, default=[256, 512], metavar="N", help="height and width")
    parser.add_argument("--rain", type=float, default=150.0, help="mm/h")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--guards", choices=("on", "off", "both"), default="both")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "benchmarks")
    arguments = parser.parse_args()
    sides = {"on": [True], "off": [False], "both": [True, False]}[arguments.guards]
    runs = []
    for poison in arguments.poisons:
        for guarded in sides:
            runs.append(run(poison, guarded, arguments))
            print(json.dumps(runs[-1]), flush=True)
    asked = {key: value for key, value in vars(arguments).items() if key != "out"}
    command = shlex.join(["python", "-m", "benchmarks.poison", *sys.argv[1:]])
    report = {
        "schema": "online_uda.poison/1", "command": command, "arguments": asked,
        "environment": describe_environment(), "runs": runs,
    }  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "poison.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "poison.md").write_text(markdown(report), encoding="utf-8")


if __name__ == "__main__":
    main()
