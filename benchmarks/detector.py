"""The drift detector on the town and on real frames: false alarms, delays, cost; in JSON and Markdown.

    python -m benchmarks.detector --camvid ../shared/data/camvid

Writes docs/benchmarks/detector.json and docs/benchmarks/detector.md. A stationary town stream has no domain change, so
every detection on it is a false alarm. On the storm a detection answers the step it follows; a missed step counts as a
delay longer than any. Learning from the stream never happens here: the detector reads the frozen network alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from online_uda.adaptation.replay.buffer import ReplayBuffer
from online_uda.adaptation.trigger.drift import DriftDetector, DriftReport, calibrate_from_buffer, stage_statistics
from online_uda.evaluation.detection import match_detections
from online_uda.networks.segmenter import Segmenter
from online_uda.networks.zoo import load_network
from online_uda.reports.environment import describe_environment
from streams.city import TownImages
from streams.classes import CAMVID_11, CITYSCAPES_19
from streams.schedule import Schedule
from streams.sources.folder import FolderImages
from streams.stream import Stream

RATES_MM_H = (0, 25, 50, 75, 100, 200, 100, 75, 50, 25, 0)
MISSED = float("inf")
Result = dict[str, Any]


def storm(source: dict[str, Any], classes: str, frames: int | None, rates: Iterable[int] = RATES_MM_H) -> Schedule:
    """A schedule that plays one source under rain of each rate in turn."""
    visits = [
        {"domain": f"rain{rate}" if rate else "clear", "weather": {"rain": rate} if rate else {}, **source}
        for rate in rates
    ]
    return Schedule.model_validate({"name": "storm", "classes": classes, "frames": frames, "visits": visits})


def watch(network: Segmenter, detector: DriftDetector, stream: Stream, name: str) -> list[DriftReport]:
    """What the detector says of every frame of a stream."""
    detector.reset()
    reports = []
    for item in tqdm(stream, total=len(stream), desc=name):
        assert item.frame is not None
        reports.append(detector.update(stage_statistics(network, as_tensor(item.frame.image))))
    return reports


def as_tensor(image: Any) -> Tensor:
    """(H, W, 3) uint8 to (1, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255.0


def stationary(network: Segmenter, detector: DriftDetector, stream: Stream, name: str) -> Result:
    """False alarms on a stream without a change. The first crossing of a stream that starts far is no false alarm."""
    reports = watch(network, detector, stream, name)
    alarms = [frame for frame, report in enumerate(reports) if report.detected]
    starts_far = bool(alarms) and alarms[0] < 2 * detector.window and reports[alarms[0]].far
    return {
        "stream": name,
        "frames": len(reports),
        "false_alarms": alarms[1:] if starts_far else alarms,
        "largest_distance": max(report.distance for report in reports[detector.window :]),
        "far_share": statistics.fmean(report.far for report in reports),
    }


def steps(network: Segmenter, detector: DriftDetector, stream: Stream, name: str) -> Result:
    """Delays on the steps of a storm, and how far every visit was from the source."""
    reports = watch(network, detector, stream, name)
    alarms = [frame for frame, report in enumerate(reports) if report.detected]
    score = match_detections(stream.boundaries, alarms, len(reports))
    settled = [reports[plan.first + detector.window : plan.first + plan.frames] for plan in stream.visits]
    return {
        "stream": name,
        "frames": len(reports),
        "delays": list(score.delays),
        "false_alarms": list(score.false_alarms),
        "distance": [statistics.fmean(report.distance for report in visit) for visit in settled],
        "far_share": [statistics.fmean(report.far for report in visit) for visit in settled],
    }


def cost(network: Segmenter, detector: DriftDetector, image: Any, repeats: int) -> Result:
    """Median milliseconds of a prediction and of watching a frame, taken in turn so that both meet the same load."""
    frame, took = as_tensor(image), {"predict_ms": [], "watch_ms": []}  # type: ignore[var-annotated]
    detector.reset()
    for _ in range(repeats):
        start = time.perf_counter()
        with torch.inference_mode():
            network(frame).labels()
        between = time.perf_counter()
        detector.update(stage_statistics(network, frame))
        took["predict_ms"].append((between - start) * 1e3)
        took["watch_ms"].append((time.perf_counter() - between) * 1e3)
    medians: Result = {name: statistics.median(values[3:]) for name, values in took.items()}
    return {"size": list(image.shape[:2]), **medians, "share": medians["watch_ms"] / medians["predict_ms"]}


def median_delay(results: list[Result], step: int | None = None) -> float:
    """Median over streams (of one step, or of all), where a missed step is slower than any found one."""
    delays = [delay for result in results for delay in (result["delays"] if step is None else [result["delays"][step]])]
    return statistics.median(MISSED if delay is None else delay for delay in delays)


def on_town(arguments: argparse.Namespace) -> Result:
    """All figures of the town, with the shipped network or another one."""
    network = load_network(arguments.network, CITYSCAPES_19).network
    source = TownImages("train", seed=0, length=arguments.images)
    detector = calibrate_from_buffer(network, ReplayBuffer(source, range(len(source))))
    town = {"town": True}
    still = Schedule.model_validate({"frames": arguments.frames, "visits": [{"domain": "clear", **town}]})
    wet = storm(town, CITYSCAPES_19.name, arguments.wet_frames, [50])
    storms = storm(town, CITYSCAPES_19.name, 60)
    return {
        "source": f"{len(source)} images of training towns",
        "steps": [
            steps(network, detector, Stream(storms, seed=seed), f"storm, seed {seed}") for seed in arguments.seeds
        ],
        "stationary": [
            stationary(network, detector, Stream(plan, seed=seed), f"{name}, seed {seed}")
            for name, plan in (("clear", still), ("rain50", wet))
            for seed in arguments.seeds
        ],
        "cost": cost(network, detector, source[0].image, arguments.repeats),
    }


def on_camvid(arguments: argparse.Namespace) -> Result:
    """Real day frames, and storms rendered on them. The dusk frames stay untouched."""
    root: Path = arguments.camvid
    network = load_network(str(root / "segformer_b0_camvid_day"), CAMVID_11).network
    source = FolderImages(root / "source_day", CAMVID_11)
    detector = calibrate_from_buffer(network, ReplayBuffer(source, range(min(256, len(source)))))
    days = [{"folder": str((root / name).resolve())} for name in ("day_1", "day_2")]
    still = Schedule.model_validate(
        {"classes": CAMVID_11.name, "visits": [{"domain": "day", **days[0]}, {"domain": "day", **days[1]}]}
    )
    storms = [storm(day, CAMVID_11.name, None) for day in days]
    return {
        "source": f"{len(source)} real frames",
        "stationary": [stationary(network, detector, Stream(still), "real day, both parts")],
        "steps": [
            steps(network, detector, Stream(plan, seed=seed), f"storm over day_{part}, seed {seed}")
            for part, plan in enumerate(storms, 1)
            for seed in arguments.seeds
        ],
        "cost": cost(network, detector, source[0].image, arguments.repeats),
    }


def markdown(report: Result) -> str:
    """The report for people."""
    machine = report["environment"]
    lines = [
        "# Drift detector",
        "",
        "Made by `python -m benchmarks.detector --camvid ../shared/data/camvid`; see its head for what is counted. "
        f"{machine['cpu']}, {machine['cores']} cores, one thread, torch {machine['torch']['version']}, commit "
        f"{machine['git']['commit'][:7] if machine['git'] else 'unknown'}.",
    ]
    for name, part in report["parts"].items():
        lines += ["", f"## {name}", "", f"Calibrated on {part['source']}.", ""]
        lines += ["| stationary stream | frames | false alarms | largest distance | far |", "|---|---|---|---|---|"]
        lines += [
            f"| {row['stream']} | {row['frames']} | {len(row['false_alarms'])} | {row['largest_distance']:.2f} | "
            f"{row['far_share']:.0%} |"
            for row in part["stationary"]
        ]
        rates = [f"{before}→{after}" for before, after in pairwise(RATES_MM_H)]
        lines += ["", f"| delay in frames at | {' | '.join(rates)} | median | extra |", "|---" * (len(rates) + 3) + "|"]
        for row in part["steps"]:
            delays = " | ".join("–" if delay is None else str(delay) for delay in row["delays"])
            lines.append(f"| {row['stream']} | {delays} | {median_delay([row]):g} | {len(row['false_alarms'])} |")
        medians = [median_delay(part["steps"], step) for step in range(len(rates))]
        extra = sum(len(row["false_alarms"]) for row in part["steps"])
        cells = " | ".join("–" if value == MISSED else f"{value:g}" for value in medians)
        lines.append(f"| **median** | {cells} | **{median_delay(part['steps']):g}** | {extra} |")
        distances = [
            statistics.fmean(row["distance"][visit] for row in part["steps"]) for visit in range(len(RATES_MM_H))
        ]
        lines += ["", "Mean distance from the source a visit (1 = limit): " + ", ".join(f"{d:.2f}" for d in distances)]
        paid = part["cost"]
        lines += [
            "",
            f"Watching a frame of {paid['size'][0]}×{paid['size'][1]} takes {paid['watch_ms']:.1f} ms, "
            f"{paid['share']:.0%} of a prediction ({paid['predict_ms']:.1f} ms).",
        ]
    return "\n".join([*lines, ""])


def main() -> None:
    """Runs what the arguments ask for and writes both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="segformer_b0_town", help="network for the town")
    parser.add_argument("--camvid", type=Path, help="folder of real frames with its network; none: town only")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--frames", type=int, default=5000, help="length of a stationary clear stream")
    parser.add_argument("--wet-frames", type=int, default=1000, help="length of a stationary stream of rain at 50 mm/h")
    parser.add_argument("--images", type=int, default=256, help="town images to calibrate on")
    parser.add_argument("--repeats", type=int, default=40, help="timed frames")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "benchmarks")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    parts = {} if arguments.camvid is None else {"Real frames (CamVid)": on_camvid(arguments)}
    parts = {"Town": on_town(arguments), **parts}
    report = {"schema": "online_uda.detector/1", "environment": describe_environment(), "parts": parts}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "detector.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "detector.md").write_text(markdown(report), encoding="utf-8")


if __name__ == "__main__":
    main()
