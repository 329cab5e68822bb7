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

Every tick must be recorded, every image predicted and finite. Resident memory is read fifty times on the way; what it
does after a tenth of the frames is growth. Writes docs/benchmarks/soak.json and docs/benchmarks/soak.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import shlex
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._faults import KINDS, Faults, Witness
from benchmarks._random_stream import RandomStream
from benchmarks._timing import resident_mb
from benchmarks.tiny_run import command, write_inputs
from online_uda.cli import parser
from online_uda.inputs import open_inputs
from online_uda.reports import jsonl
from online_uda.reports.environment import describe_environment
from online_uda.reports.record import FrameRecord
from online_uda.reports.sinks import Sink
from online_uda.resolve import resolve
from online_uda.run import start
from streams.frame import StreamItem

SHORT_RESTS = ("guards.rest=1",)
"""So many bad weights would keep the guards at rest, and a method that rests meets no fault."""
PART_BYTES = 4 * 2**20
KEPT_PARTS = 4
READINGS = 50
"""Of resident memory in a run."""


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
    memory: dict[int, float] = {}
    take = runner._take

    def measured(item: StreamItem) -> FrameRecord:
        if item.index % max(1, arguments.frames // READINGS) == 0:
            gc.collect()
            memory[item.index] = resident_mb()
            print(item.index, f"{memory[item.index]:.1f}", flush=True)
        return take(item)

    runner._take = measured  # type: ignore[method-assign]
    begun = time.monotonic()
    with faults.installed():
        summary = runner.run()
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


def settled(memory: dict[int, float], frames: int) -> dict[int, float]:
    """The readings of resident memory from a tenth of the frames on."""
    return {int(frame): value for frame, value in memory.items() if int(frame) >= frames // 10}


def slope(memory: dict[int, float]) -> float:
    """MiB a frame, by least squares."""
    return float(np.polyfit(list(memory), list(memory.values()), 1)[0]) if len(memory) > 1 else 0.0


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    machine, got = report["environment"], report["result"]
    memory = settled(got["memory_mb"], got["frames"])
    first, *_, last = [*memory.values()] * 2  # one reading is both
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
        f"| resident memory after a tenth, at the end (MiB) | {first:.0f}, {last:.0f} | flat |",
        f"| lowest and highest in between (MiB) | {min(memory.values()):.0f}, {max(memory.values()):.0f} | flat |",
        f"| growth by a line through all readings (MiB in 10 000 frames) | {1e4 * slope(memory):.2f} | 0 |",
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
        "command": shlex.join(["python", "-m", "benchmarks.soak", *sys.argv[1:]]),
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
