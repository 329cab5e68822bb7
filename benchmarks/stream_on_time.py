"""A storm at several frame rates: learning in the frame's own time, in the slack, and beside the stream.

    python -m benchmarks.stream_on_time                         # costs measured here first, then played at every rate
    python -m benchmarks.stream_on_time --costs ALONE.json BESIDE.json
    python -m benchmarks.stream_on_time --real                  # on the wall clock; wants an idle machine

Costs of every stage are recorded on this machine, in a run that learns in the slack and, for async, in one whose worker
is always busy; then they are played on a simulated clock: which frames are late, dropped or learned from follows from
the costs alone and comes out the same every time. Predictions and learning are computed in full, so the scores are
real. Rates are given as the slack that prediction leaves, so that the figures say the same on a fast machine and on a
slow one. With --cpu-time a stage costs the CPU time of its thread, which others on the machine change little; what a
worker costs the stream is then what it takes from shared caches, not from a core. All frames are drawn before the first
run. The costs are kept as costs_alone.json and costs_beside.json for --costs.

With --real nothing is simulated, and the costs kept are those met. Writes docs/benchmarks/NAME.json, NAME.md and
NAME.png, NAME being stream_on_time, or stream_on_time_real with --real.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks._idle_method import IdleMethod, overhead_of
from benchmarks._on_time_report import MODES, markdown, plot
from benchmarks._player import Player, cpu_time
from online_uda.reports.environment import describe_environment
from online_uda.runtime.camera import BareTimeline, Camera

OUT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks"
TARGETS = {"p99_ratio": 1.25, "deadline_miss_rate": 0.01, "gain_kept": 0.8, "overhead_ms": 0.2}
LEAST_GAIN = 0.5
"""Points of harmonic mean from which on it makes sense to say which share of them was kept."""
Costs = tuple[Path, Path]
"""Of stages that run alone, and of stages beside a busy worker."""


def arguments() -> argparse.Namespace:
    """The command line."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--schedule", default="cs2rain")
    flags.add_argument("--method", default="default")
    flags.add_argument("--network", default=None)
    flags.add_argument("--source", default=None)
    flags.add_argument("--size", default=None, help="HEIGHTxWIDTH of frames")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--frames", type=int, default=None, help="at most this many frames of a visit")
    flags.add_argument("--slack", type=float, nargs="+", default=[0.2, 0.4, 0.6, 0.8], help="shares of a period")
    flags.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    flags.add_argument("--costs", type=Path, nargs=2, default=None, help="costs.json of earlier runs, alone and beside")
    flags.add_argument("--record-frames", type=int, default=6, help="frames of a visit in the recording runs")
    flags.add_argument("--cpu-time", action="store_true", help="record CPU time, on a machine that others use too")
    flags.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    flags.add_argument("--backend", choices=("torch", "compile", "onnxruntime"), default="torch", help="what predicts")
    flags.add_argument("--record-only", action="store_true", help="write the costs and play nothing")
    flags.add_argument("--add", action="store_true", help="go on with the result that is there")
    flags.add_argument("--real", action="store_true", help="play on the wall clock")
    flags.add_argument("--threads", type=int, default=None)
    flags.add_argument("--out", type=Path, default=OUT)
    return flags.parse_args()


def record_predict(player: Player) -> Path:
    """What predictions cost alone."""
    player.play("frozen", method="frozen", frames=1, fps=4, learn="sync")
    return player.root / "frozen" / "costs.json"


def record(player: Player, frames: int, by_cpu_time: bool) -> Costs:
    """Costs of every stage: from a run whose step fits between two frames, and from one whose worker never rests."""
    with cpu_time(by_cpu_time):
        predict_ms = likely_predict_ms(record_predict(player))
        player.play("alone", frames=frames, fps=50.0 / predict_ms, learn="interleaved")
        player.play("beside", frames=frames, fps=400.0 / predict_ms, learn="async")
    alone, beside = player.root / "alone" / "costs.json", player.root / "beside" / "costs.json"
    # A worker that never rests takes few steps: what it did not come to costs what it costs alone.
    content = json.loads(beside.read_text())
    content["stages_ms"] = json.loads(alone.read_text())["stages_ms"] | content["stages_ms"]
    beside.write_text(json.dumps(content, separators=(",", ":")) + "\n")
    return alone, beside


def earlier(options: argparse.Namespace, predict_ms: float) -> dict[str, Any] | None:
    """The result that rows are to be added to; None without one."""
    if not options.add:
        return None
    file = options.out / "stream_on_time.json"
    result: dict[str, Any] = json.loads(file.read_text())
    asked = {"schedule": options.schedule, "method": options.method, "seed": options.seed}
    other = [f"{key} {result[key]}" for key, value in asked.items() if result[key] != value]
    if options.real or other:
        raise SystemExit(f"{file} is of another run ({', '.join(other) or 'not on the wall clock'}); leave out --add")
    # Without deadlines costs make no difference; rows of other costs are of another machine.
    return result if result["predict_ms"] == predict_ms else {**result, "rows": []}


def bare_misses(samples_ms: list[float], fps: float, frames: int) -> float:
    """Share of the deadlines that predictions alone miss on a simulated clock."""
    camera, timeline = Camera(fps, 1.0 / fps), BareTimeline()
    finished = [
        timeline.take(camera, index, samples_ms[index % len(samples_ms)], last=index + 1 == frames)
        for index in range(frames)
    ]
    late = (moment is None or moment > camera.deadline_s(index) for index, moment in enumerate(finished))
    return sum(late) / frames


def predict_samples_ms(costs: Path) -> list[float]:
    """The recorded predictions."""
    samples = json.loads(costs.read_text())["stages_ms"]["predict"]
    return samples if isinstance(samples, list) else [float(samples)]


def likely_predict_ms(costs: Path) -> float:
    """Their median."""
    return median(predict_samples_ms(costs))


def row_of(
    summary: dict[str, Any], offline: dict[str, Any], bare: tuple[float, float], slack: float, learn: str
) -> dict[str, Any]:
    """What one run has to say, beside the p99 and the missed deadlines of predictions alone."""
    whole_gain = offline["hmean"] - offline["hmean_frozen"]
    bare_p99_ms, bare_miss_rate = bare
    frame = summary["latency_ms"]["frame"]
    return {
        "slack": slack, "fps": summary["on_time"]["fps"], "learn": learn,
        "frame_p50_ms": frame["p50"], "frame_p99_ms": frame["p99"], "frame_max_ms": frame["max"],
        "bare_p99_ms": bare_p99_ms, "bare_miss_rate": bare_miss_rate,
        "p99_ratio": frame["p99"] / bare_p99_ms,
        "deadline_miss_rate": summary["deadline_miss_rate"], "late": summary["on_time"]["late"],
        "dropped": summary["dropped"], "adapted_ratio": summary["adapted_ratio"], "staleness": summary["staleness"],
        "published": summary["published"], "shortened": summary["on_time"]["shortened"],
        "skipped": summary["on_time"]["skipped"], "streaming_miou": summary["streaming_miou"],
        "hmean": summary["hmean"], "hmean_frozen": summary["hmean_frozen"],
        "gain_kept": (summary["hmean"] - summary["hmean_frozen"]) / whole_gain if whole_gain >= LEAST_GAIN else None,
        "overlap_slowdown": summary["on_time"].get("overlap_slowdown"),
    }  # fmt: skip


def measure(root: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every rate in every way; the result so far after every run, since all of them take an hour."""
    about = {
        "benchmark": "stream_on_time",
        "command": shlex.join(["python", "-m", "benchmarks.stream_on_time", *sys.argv[1:]]),
        "clock": "the wall" if options.real else "recorded costs, simulated" + " (CPU time)" * options.cpu_time,
        "precision": options.precision, "backend": options.backend,
        "schedule": options.schedule, "method": options.method, "seed": options.seed,
        "overhead_ms": overhead_of(IdleMethod()), "targets": TARGETS,
        "environment": describe_environment(sys.argv), "at": time.strftime("%Y-%m-%d %H:%M:%S"),
    }  # fmt: skip
    player = Player(root, options)
    if options.real:
        predict_ms = likely_predict_ms(record_predict(player))
    else:
        files = options.costs or record(player, options.record_frames, options.cpu_time)
        costs = dict(zip(("alone", "beside"), files, strict=True))
        if not options.costs:
            for side, file in costs.items():
                shutil.copy(file, options.out / f"costs_{side}.json")
        if options.record_only:
            return
        predict_ms = likely_predict_ms(costs["alone"])
    before = earlier(options, predict_ms)
    offline = player.play("offline") if before is None else {**before["offline"], "frames": before["frames"]}
    rows = [] if before is None else before["rows"]
    for slack in options.slack:
        fps = 1000.0 * (1.0 - slack) / predict_ms
        if options.real:
            frozen = player.play(f"frozen-{slack}", method="frozen", fps=fps, learn="sync")
            bare = frozen["latency_ms"]["frame"]["p99"], frozen["deadline_miss_rate"]
        for learn in options.modes:
            if any((row["slack"], row["learn"]) == (slack, learn) for row in rows):
                continue
            side, clock = ("beside" if learn == "async" else "alone"), "real"
            if not options.real:
                # On a simulated clock a frozen run is its predictions and nothing else.
                samples, clock = predict_samples_ms(costs[side]), str(costs[side].resolve())
                bare = float(np.percentile(samples, 99)), bare_misses(samples, fps, offline["frames"])
            summary = player.play(f"{learn}-{slack}", fps=fps, learn=learn, clock=clock)
            rows.append({**row_of(summary, offline, bare, slack, learn), "load": os.getloadavg()[1]})
            rows.sort(key=lambda row: (row["slack"], MODES.index(row["learn"])))
            if options.real and learn != "sync":
                shutil.copy(player.root / f"{learn}-{slack}" / "costs.json", options.out / f"costs_{side}.json")
            yield {
                **about,
                "frames": offline["frames"], "predict_ms": predict_ms, "rows": rows,
                "offline": {key: offline[key] for key in ("hmean", "hmean_frozen", "overall_miou", "updates")},
                "costs": None if options.real else {side: json.loads(file.read_text()) for side, file in costs.items()},
            }  # fmt: skip


def main() -> None:
    """Measures and writes JSON, Markdown and the plot."""
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    name = "stream_on_time_real" if options.real else "stream_on_time"
    with tempfile.TemporaryDirectory() as root:
        for result in measure(Path(root), options):
            (options.out / f"{name}.json").write_text(json.dumps(result, indent=1, default=str) + "\n")
            (options.out / f"{name}.md").write_text(markdown(result, name))
            plot(result, options.out / f"{name}.png")
            print(markdown(result, name), flush=True)


if __name__ == "__main__":
    main()
