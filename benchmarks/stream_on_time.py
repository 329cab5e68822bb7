"""A storm at several frame rates: learning in the frame's own time, in the slack, and beside the stream.

    python benchmarks/stream_on_time.py                         # costs measured here first, then played at every rate
    python benchmarks/stream_on_time.py --costs runs/x/costs.json
    python benchmarks/stream_on_time.py --real                  # on the wall clock; wants an idle machine

Costs of every stage are recorded in one run on this machine, then played on a simulated clock: which frames are late,
dropped or learned from follows from the costs alone and comes out the same every time. Predictions and learning are
computed in full, so the scores are real. Rates are given as the slack that prediction leaves, so that the figures say
the same on a fast machine and on a slow one. With --real nothing is simulated.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from online_uda.config import RunConfig
from online_uda.reports.environment import describe_environment
from online_uda.run import run

OUT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks"
MODES = ("sync", "interleaved", "async")
TARGETS = {"p99_ratio": 1.25, "deadline_miss_rate": 0.01, "gain_kept": 0.8, "overhead_ms": 0.2}


def arguments() -> argparse.Namespace:
    """The command line."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--schedule", default="cs2rain")
    flags.add_argument("--method", default="default")
    flags.add_argument("--network", default=None)
    flags.add_argument("--source", default=None)
    flags.add_argument("--frames", type=int, default=None, help="at most this many frames of a visit")
    flags.add_argument("--slack", type=float, nargs="+", default=[0.2, 0.4, 0.6, 0.8], help="shares of a period")
    flags.add_argument("--costs", type=Path, default=None, help="costs of an earlier run, instead of a new recording")
    flags.add_argument("--record-frames", type=int, default=8, help="frames of a visit in the recording run")
    flags.add_argument("--real", action="store_true", help="play on the wall clock")
    flags.add_argument("--threads", type=int, default=None)
    flags.add_argument("--out", type=Path, default=OUT)
    return flags.parse_args()


def play(folder: Path, options: argparse.Namespace, **changes: Any) -> dict[str, Any]:
    """One run; its summary, with the time that it took."""
    config = RunConfig.model_validate(
        {
            "schedule": options.schedule, "method": options.method, "network": options.network,
            "source": options.source, "frames": options.frames, "device": "cpu",
            "precision": "fp32", "backend": "torch", "threads": options.threads, "tensorboard": False,
            "snapshot_every": 100_000, "out": str(folder), **changes,
        }
    )  # fmt: skip
    print(f"{folder.name} ...", file=sys.stderr, flush=True)
    return run(config)


def record(root: Path, options: argparse.Namespace) -> Path:
    """Costs of every stage, from a run whose frames come so slowly that all of it fits."""
    play(root / "record", options, frames=options.record_frames, fps=0.2, learn="interleaved")
    return root / "record" / "costs.json"


def likely_predict_ms(costs: Path) -> float:
    """Median of the recorded predictions."""
    samples = json.loads(costs.read_text())["stages_ms"]["predict"]
    return median(samples) if isinstance(samples, list) else float(samples)


def overhead_ms() -> float:
    """Milliseconds that deciding costs a frame: the scheduler on a method that does nothing, in real time."""
    from benchmarks._idle_method import IdleMethod, overhead_of

    return overhead_of(IdleMethod())


def row_of(summary: dict[str, Any], offline: dict[str, Any], frozen: dict[str, Any], slack: float, learn: str) -> dict:
    """What one run has to say."""
    whole_gain = offline["hmean"] - offline["hmean_frozen"]
    frame, bare = summary["latency_ms"]["frame"], frozen["latency_ms"]["frame"]
    return {
        "slack": slack, "fps": summary["on_time"]["fps"], "learn": learn,
        "frame_p50_ms": frame["p50"], "frame_p99_ms": frame["p99"], "p99_ratio": frame["p99"] / bare["p99"],
        "deadline_miss_rate": summary["deadline_miss_rate"], "late": summary["on_time"]["late"],
        "dropped": summary["dropped"], "adapted_ratio": summary["adapted_ratio"], "staleness": summary["staleness"],
        "published": summary["published"], "shortened": summary["on_time"]["shortened"],
        "skipped": summary["on_time"]["skipped"], "streaming_miou": summary["streaming_miou"],
        "hmean": summary["hmean"], "hmean_frozen": summary["hmean_frozen"],
        "gain_kept": (summary["hmean"] - summary["hmean_frozen"]) / whole_gain if whole_gain else None,
        "overlap_slowdown": summary["on_time"].get("overlap_slowdown"),
    }  # fmt: skip


def measure(root: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Every rate in every way."""
    costs = options.costs or record(root, options)
    predict_ms = likely_predict_ms(costs)
    clock = "real" if options.real else str(costs.resolve())
    offline = play(root / "offline", options)
    rows = []
    for slack in options.slack:
        fps = 1000.0 * (1.0 - slack) / predict_ms
        frozen = play(root / f"frozen-{slack}", options, method="frozen", fps=fps, clock=clock)
        for learn in MODES:
            summary = play(root / f"{learn}-{slack}", options, fps=fps, learn=learn, clock=clock)
            rows.append(row_of(summary, offline, frozen, slack, learn))
    return {
        "benchmark": "stream_on_time", "clock": "real" if options.real else "recorded costs, simulated clock",
        "schedule": options.schedule, "method": options.method, "frames": offline["frames"],
        "predict_ms": predict_ms, "overhead_ms": overhead_ms(), "targets": TARGETS,
        "offline": {key: offline[key] for key in ("hmean", "hmean_frozen", "overall_miou", "updates")},
        "rows": rows, "environment": describe_environment(sys.argv), "at": time.strftime("%Y-%m-%d %H:%M:%S"),
    }  # fmt: skip


def markdown(result: dict[str, Any]) -> str:
    """The figures as a page."""
    offline = result["offline"]
    lines = [
        "# A storm that does not wait", "",
        f"`python benchmarks/stream_on_time.py` on {result['at']}; {result['schedule']}, method {result['method']}, "
        f"{result['frames']} frames. Clock: {result['clock']}; a prediction takes {result['predict_ms']:.0f} ms "
        f"(median). Without deadlines: harmonic mean {offline['hmean']:.1f}, frozen {offline['hmean_frozen']:.1f}. "
        f"Deciding costs {result['overhead_ms']:.3f} ms a frame. Not run on a GPU.", "",
        "| slack | frames/s | learning | frame p50 ms | p99 ms | p99 / frozen | missed | dropped | learned from | "
        "staleness | shortened | streaming mIoU | gain kept |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in result["rows"]:
        stale = "–" if row["staleness"] is None else f"{row['staleness']:.1f}"
        kept = "–" if row["gain_kept"] is None else f"{100 * row['gain_kept']:.0f} %"
        lines.append(
            f"| {100 * row['slack']:.0f} % | {row['fps']:.2f} | {row['learn']} | {row['frame_p50_ms']:.0f} | "
            f"{row['frame_p99_ms']:.0f} | {row['p99_ratio']:.2f} | {100 * row['deadline_miss_rate']:.1f} % | "
            f"{row['dropped']} | {100 * row['adapted_ratio']:.1f} % | {stale} | {row['shortened']} | "
            f"{row['streaming_miou']:.1f} | {kept} |"
        )
    return "\n".join([*lines, "", "![gain kept and frames missed by slack](stream_on_time.png)", ""])


def plot(result: dict[str, Any], path: Path) -> None:
    """Gain kept and deadlines missed against slack."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (kept, missed) = plt.subplots(1, 2, figsize=(9, 3.4))
    for learn in MODES:
        rows = [row for row in result["rows"] if row["learn"] == learn]
        slack = [100 * row["slack"] for row in rows]
        kept.plot(slack, [100 * (row["gain_kept"] or 0.0) for row in rows], marker="o", label=learn)
        missed.plot(slack, [100 * row["deadline_miss_rate"] for row in rows], marker="o", label=learn)
    for axes, title in ((kept, "gain kept, %"), (missed, "masks after their deadline or never, %")):
        axes.set_xlabel("slack, % of the time between two frames")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
    kept.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measures and writes JSON, Markdown and the plot."""
    options = arguments()
    with tempfile.TemporaryDirectory() as root:
        result = measure(Path(root), options)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "stream_on_time.json").write_text(json.dumps(result, indent=1, default=str) + "\n")
    (options.out / "stream_on_time.md").write_text(markdown(result))
    plot(result, options.out / "stream_on_time.png")
    print(markdown(result))


if __name__ == "__main__":
    main()
