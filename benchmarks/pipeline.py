"""Frames a second from the source to the score: decode or draw, render the weather, count both predictions.

    taskset -c 0,1 python -m benchmarks.pipeline --out docs/benchmarks/pipeline

No network: its answers are made up, so that what remains is what the house spends around one. Processor time a frame
is that of the run and its workers together; what other work on the machine takes is not in it. A further figure is how
long a runner waits for a frame when a network takes ``--network-ms`` of its core. Then the renderers, on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from online_uda.evaluation.confusion import confusion_matrix
from streams.schedule import Schedule, load_schedule
from streams.stream import Stream
from streams.weather.timing import measure

CLASSES = 19
TARGETS = {"rain 100 on PNG files, 1024x512": 25.0, "town, 512x256": 60.0}
RENDER_TARGETS_MS = {"fog": 60.0, "smog": 60.0, "rain": 150.0}
_PICTURES = 8
_AHEAD = 4


def schedules(folder: Path, frames: int) -> dict[str, Schedule]:
    """The measured streams by name; writes the pictures of the first."""
    from streams.city import Drive

    for part in ("images", "labels"):
        (folder / "day" / part).mkdir(parents=True)
    drive = Drive("stream", 5, (512, 1024), 10.0)
    for index in range(_PICTURES):
        scene = drive.render(index * 10)
        cv2.imwrite(str(folder / "day" / "images" / f"{index}.png"), scene.image[..., ::-1])
        cv2.imwrite(str(folder / "day" / "labels" / f"{index}.png"), scene.label)
    visits = "".join("  - {domain: rain, folder: day, weather: {rain: 100}}\n" for _ in range(frames // _PICTURES))
    (folder / "rain.yaml").write_text(f"visits:\n{visits}")
    town = f"size: [256, 512]\nvisits:\n  - {{domain: clear, town: true, frames: {frames}}}\n"
    (folder / "town.yaml").write_text(town)
    names = dict(zip(TARGETS, ("rain.yaml", "town.yaml"), strict=True))
    return {name: load_schedule(folder / file) for name, file in names.items()}


def play(schedule: Schedule, workers: int, network_ms: float = 0.0) -> dict[str, float]:
    """Plays a stream once the workers are up, and scores every frame twice, as a run does.

    Returns:
        Frames a second, processor milliseconds a frame, and percentiles of the milliseconds for which the next frame
        was waited.
    """
    waited_ms: list[float] = []
    start_cpu = took_s = took_cpu_s = 0.0
    with Stream(schedule, prefetch=_AHEAD, workers=workers) as stream:
        last = len(stream) - 2 * _AHEAD  # by then all is asked for, and workers that have ended have no time to tell
        items = stream.iterate()
        start = None
        while True:
            asked = time.perf_counter()
            item = next(items, None)
            if item is None or item.index >= last:
                break
            got = time.perf_counter()
            if start is not None:
                waited_ms.append(1000 * (got - asked))
            assert item.truth.label is not None
            answer = np.minimum(item.truth.label, CLASSES - 1)
            for _ in ("adapted", "frozen"):
                confusion_matrix(item.truth.label, answer, CLASSES)
            busy_until = time.process_time() + network_ms / 1000
            while time.process_time() < busy_until:
                np.sqrt(answer)
            if start is None and stream.warm:
                start, start_cpu = time.perf_counter(), stream_cpu_s()
            elif start is not None:
                took_s, took_cpu_s = time.perf_counter() - start, stream_cpu_s() - start_cpu
        assert start is not None, "the workers did not come up in time; give more --frames"
    p50, p95 = np.percentile(waited_ms, (50, 95)).tolist()
    return {
        "frames": len(waited_ms),
        "frames_per_s": len(waited_ms) / took_s,
        "cpu_ms": 1000 * took_cpu_s / len(waited_ms),
        "wait_p50_ms": p50,
        "wait_p95_ms": p95,
    }


def stream_cpu_s() -> float:
    """Processor time so far of this process and its running children."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    ticks = 0
    for child in children:
        fields = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])  # user and system time, proc(5)
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write OUT.json and OUT.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="written with .json and .md")
    parser.add_argument("--frames", type=int, default=400, help="frames of a stream (default: 400)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="worker processes (default: 0 1 2)")
    parser.add_argument("--network-ms", type=float, default=75.0, help="the network's share for the wait (default: 75)")
    parser.add_argument("--render-frames", type=int, default=20, help="frames of each renderer (default: 20)")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        streams = schedules(Path(folder), options.frames)
        played: dict[str, Any] = {
            name: {
                str(workers): {
                    "alone": play(schedule, workers),
                    "with_network": play(schedule, workers, options.network_ms),
                }
                for workers in options.workers
            }
            for name, schedule in streams.items()
        }
    found = {
        "command": shlex.join(["python", "-m", "benchmarks.pipeline", *(arguments or sys.argv[1:])]),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "load": [load, os.getloadavg()[0]],
        "network_ms": options.network_ms,
        "streams": played,
        "renderers_1024x512": dict(measure(1024, 512, options.render_frames)),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(as_markdown(found))


def as_markdown(found: dict[str, Any]) -> str:
    """The tables."""
    before, after = found["load"]
    lines = [
        "# From the source to the score", "",
        f"Made by `{found['command']}` on {found['machine']}; load of the machine {before:.1f} before and "
        f"{after:.1f} after.",
        "",
        "| stream | workers | frames/s | processor ms | of two free cores | target | wait p50 ms | wait p95 ms |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, by_workers in found["streams"].items():
        for workers, figures in by_workers.items():
            alone, wait = figures["alone"], figures["with_network"]
            lines.append(
                f"| {name} | {workers} | {alone['frames_per_s']:.1f} | {alone['cpu_ms']:.1f} "
                f"| {2000 / alone['cpu_ms']:.0f} | ≥ {TARGETS[name]:g} "
                f"| {wait['wait_p50_ms']:.1f} | {wait['wait_p95_ms']:.1f} |"
            )
    lines += [
        "", f"Waits are those beside a network that takes {found['network_ms']:g} ms of a core a frame; frames are "
        "scored twice. Two free cores: 2000 / processor ms, computed, where the machine had other work to do.",
        "", "## Renderers, 1024x512, one core", "",
        "| weather | p50 ms | p95 ms | processor ms | target |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for case, took in found["renderers_1024x512"].items():
        target = RENDER_TARGETS_MS.get(case.split(":")[0])
        limit = f"≤ {target:g}" if target else ""
        lines.append(f"| {case} | {took['p50']:.1f} | {took['p95']:.1f} | {took['cpu']:.1f} | {limit} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
