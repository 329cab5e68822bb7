"""What viewers of the live page cost a run, and how soon and how often they see a picture.

    python -m benchmarks.live_page --out docs/benchmarks/live_page

The command itself plays a video of the town with its real network and serves its page; stretches without a viewer and
stretches with some take turns, so that slow changes of the machine meet both. Viewers are threads of this process that
read what a browser asks for (pictures and curves) and draw nothing: a browser is on another machine. Frame times are
those of ``frames.jsonl``. Chance is what a difference must be held against: what comes when stretches are dealt anew.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks._page_viewers import Viewer, health
from streams.city import Drive

WARM_UP = 40
"""Frames before the first stretch."""
SETTLE = 5
"""Frames left out after viewers come or go."""
TARGETS = {"first_picture_s": 2.0, "pictures_per_s": 10.0}
SIZE = (256, 512)
_DRAWN = 100
_GLANCE_S = 0.05
_ROOT = Path(__file__).parents[1]


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Plays a run with viewers that come and go.

    Returns:
        ``without`` and ``with``: lists of stretches, each a list of frame times in ms; ``first_picture_s`` and
        ``pictures_per_s`` of every viewer of every stretch.
    """
    stretches = 2 * options.pairs
    frames = WARM_UP + stretches * options.stretch
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    write_video(folder / "town.mp4", frames)
    command = [
        sys.executable, "run_stream.py", "--stream", str(folder / "town.mp4"), "--method", options.method, "--backend",
        options.backend, "--serve", str(port), "--out", str(folder / "run"), "run.tensorboard=false",
        "run.report=false", "run.snapshot_every=100000",
    ]  # fmt: skip
    found: dict[str, Any] = {"first_picture_s": [], "pictures_per_s": []}
    bounds = []
    with open(folder / "log", "wb") as log:
        run = subprocess.Popen(command, stdout=log, stderr=log, cwd=_ROOT)
        try:
            for number in range(stretches + 1):
                at = _wait(run, port, WARM_UP + number * options.stretch, number == stretches)
                bounds.append(at)
                if number == stretches:
                    break
                if number % 2:
                    with ExitStack() as stack:
                        viewers = [stack.enter_context(Viewer(port)) for _ in range(options.viewers)]
                        # The next stretch begins when they have left.
                        _wait(run, port, WARM_UP + (number + 1) * options.stretch - SETTLE, number == stretches - 1)
                        for viewer in viewers:
                            found["first_picture_s"].append(viewer.first_picture_s)
                            found["pictures_per_s"].append(viewer.pictures_per_s())
            run.wait()
        finally:
            run.kill()
            run.wait()
    rows = [json.loads(line) for line in (folder / "run" / "frames.jsonl").read_text().splitlines()]
    times = [row["frame_ms"] for row in rows]
    parts = [times[start + SETTLE : end - SETTLE] for start, end in pairwise(bounds)]
    return {**found, "without": parts[::2], "with": parts[1::2]}


def write_video(path: Path, frames: int) -> None:
    """A drive through the town at 512x256 that turns back again and again."""
    drive = Drive("stream", 5, SIZE, 10.0)
    pictures = [drive.render(index).image for index in range(min(_DRAWN, frames))]
    there_and_back = pictures + pictures[-2:0:-1]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.options = {"preset": "ultrafast", "crf": "16"}
        for index in range(frames):
            picture = there_and_back[index % len(there_and_back)]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def _wait(run: subprocess.Popen[bytes], port: int, frames: int, to_the_end: bool) -> int:
    """Waits until so many frames are played; the number that then are."""
    while True:
        said = health(port)
        if said is not None and int(str(said["frames"])) >= frames:
            return int(str(said["frames"]))
        if run.poll() is not None:
            if run.returncode == 0 and to_the_end:
                return frames
            raise RuntimeError(f"the run ended with status {run.returncode}: see its log")
        time.sleep(_GLANCE_S)


def figures(found: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """Percentiles with and without viewers, their difference, and what differences come by chance.

    Chance: stretches of both kinds are dealt anew into two halves a thousand times; the middle 95 % of the differences.
    """
    kinds = {kind: [np.array(part) for part in found[kind]] for kind in ("without", "with")}
    result: dict[str, Any] = {}
    generator = np.random.default_rng(seed)
    every = [*kinds["without"], *kinds["with"]]
    half = len(kinds["without"])
    for share in (50, 95, 99):
        without, watched = (float(np.percentile(np.concatenate(kinds[kind]), share)) for kind in ("without", "with"))
        dealt = []
        for _ in range(1000):
            order = generator.permutation(len(every))
            one, other = (np.concatenate([every[i] for i in part]) for part in (order[:half], order[half:]))
            dealt.append(float(np.percentile(one, share) - np.percentile(other, share)))
        low, high = np.percentile(dealt, (2.5, 97.5)).tolist()
        result[f"p{share}"] = {
            "without_ms": without, "with_ms": watched, "difference_ms": watched - without, "by_chance_ms": [low, high],
        }  # fmt: skip
    result["frames"] = {kind: sum(map(len, parts)) for kind, parts in kinds.items()}
    result["first_picture_s"] = max(found["first_picture_s"], key=lambda value: np.inf if value is None else value)
    result["pictures_per_s"] = min(found["pictures_per_s"], key=lambda value: -np.inf if value is None else value)
    return result


def as_markdown(report: dict[str, Any]) -> str:
    """The tables."""
    lines = [
        "# The live page", "",
        f"Made by `{report['command']}` on {report['machine']}; load of the machine {report['load'][0]:.1f} before and "
        f"{report['load'][1]:.1f} after. {report['method']} by {report['backend']} on a video of the town at 512x256, "
        f"{report['pairs']} pairs of stretches, {report['viewers']} viewers in every second one.",
        "", "| frame | without viewers, ms | with, ms | difference | by chance (95 %) |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for share in ("p50", "p95", "p99"):
        row = report["figures"][share]
        low, high = row["by_chance_ms"]
        lines.append(
            f"| {share} | {row['without_ms']:.1f} | {row['with_ms']:.1f} | {row['difference_ms']:+.1f} "
            f"| {low:+.1f} to {high:+.1f} |"
        )
    counted = report["figures"]["frames"]
    lines += [
        "", f"{counted['without']} frames without and {counted['with']} with viewers.", "",
        "| page | target | worst of all viewers |", "|---|---|---|",
        f"| first picture | ≤ {TARGETS['first_picture_s']:g} s | {report['figures']['first_picture_s']:.2f} s |",
        f"| pictures a second | ≥ {TARGETS['pictures_per_s']:g} | {report['figures']['pictures_per_s']:.1f} |",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write OUT.json and OUT.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.live_page", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="written with .json and .md")
    parser.add_argument("--method", default="frozen", help="how the run learns (default: frozen)")
    parser.add_argument("--backend", default="onnxruntime", help="what predicts (default: onnxruntime)")
    parser.add_argument("--pairs", type=int, default=8, help="pairs of stretches without and with viewers (default: 8)")
    parser.add_argument("--stretch", type=int, default=150, help="frames of a stretch (default: 150)")
    parser.add_argument("--viewers", type=int, default=3, help="viewers at a time (default: 3)")
    options = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, Path(folder))
    report = {
        "command": shlex.join(["python", "-m", "benchmarks.live_page", *(arguments or sys.argv[1:])]),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "load": [load, os.getloadavg()[0]],
        "method": options.method, "backend": options.backend, "pairs": options.pairs, "viewers": options.viewers,
        "figures": figures(found),
        "stretches_p99_ms": {
            kind: [round(float(np.percentile(part, 99)), 2) for part in found[kind]] for kind in ("without", "with")
        },
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(as_markdown(report))


if __name__ == "__main__":
    main()
