"""Methods on a schedule, over seeds: accuracy against the frozen network, in JSON and Markdown.

    python benchmarks/methods.py cs2rain --methods frozen tent hamlet default --seeds 0 1 2
    python benchmarks/methods.py ../shared/data/camvid/dusk.yaml \
        --network ../shared/data/camvid/segformer_b0_camvid_day --source ../shared/data/camvid/source_day

Every run is `run_stream.py` in a process of its own with one thread; a finished run is not repeated, so an interrupted
benchmark goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
Summary = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One run: a method, a seed, the folder it writes and the command that makes it."""

    method: str
    seed: int
    folder: Path
    command: tuple[str, ...]


def plan(arguments: argparse.Namespace) -> list[Job]:
    """The runs that the arguments ask for."""
    name = Path(arguments.schedule).stem
    jobs = []
    for method in arguments.methods:
        for seed in arguments.seeds:
            folder = arguments.runs / name / f"{method}-{seed}"
            command = [sys.executable, str(ROOT / "run_stream.py"), "--schedule", arguments.schedule]
            command += ["--method", method, "--seed", str(seed), "--out", str(folder), "--threads", "1"]
            for flag in ("network", "source", "frames"):
                value = getattr(arguments, flag)
                command += [f"--{flag}", str(value)] if value is not None else []
            jobs.append(Job(method, seed, folder, (*command, *arguments.overrides)))
    return jobs


def run(job: Job) -> Summary:
    """Runs a job unless its summary exists, and reads the summary.

    Raises:
        SystemExit: If the run fails; its last lines are in the message.
    """
    summary = job.folder / "summary.json"
    if not summary.is_file():
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(job.command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{shlex.join(job.command)}\nexit {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(summary.read_text(encoding="utf-8"))


def median(values: list[float | None]) -> float | None:
    """Median of the values that exist; None without any."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def aggregate(method: str, summaries: list[Summary]) -> dict[str, Any]:
    """Medians over seeds of everything the table shows."""
    first = summaries[0]
    visits = [
        {
            "domain": visit["domain"],
            "miou": median([s["visits"][i]["miou"] for s in summaries]),
            "miou_frozen": median([s["visits"][i]["miou_frozen"] for s in summaries]),
            "gain": median([_gain(s["visits"][i]) for s in summaries]),
            "worst_gain": min(_gain(s["visits"][i]) for s in summaries),
        }
        for i, visit in enumerate(first["visits"])
    ]
    return {
        "method": method,
        "hmean": median([s["hmean"] for s in summaries]),
        "hmean_frozen": median([s["hmean_frozen"] for s in summaries]),
        "hmean_gain": median([s["hmean"] - s["hmean_frozen"] for s in summaries]),
        "last_minus_first": median([s["visits"][-1]["miou"] - s["visits"][0]["miou"] for s in summaries]),
        "visits": visits,
        "predict_p50_ms": median([s["latency_ms"]["predict"]["p50"] for s in summaries]),
        "adapt_p50_ms": median([s["latency_ms"].get("adapt", {}).get("p50") for s in summaries]),
        "peak_memory_mb": median([s.get("peak_memory_mb") for s in summaries]),
        "per_seed": {str(s["seed"]): {"hmean": s["hmean"], "hmean_frozen": s["hmean_frozen"]} for s in summaries},
    }


def _gain(visit: Summary) -> float:
    return float(visit["miou"] - visit["miou_frozen"])


def markdown(title: str, command: str, machine: str, rows: list[dict[str, Any]], seeds: list[int]) -> str:
    """The table of a benchmark: a row a method, a column a visit."""

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.1f}"

    domains = [visit["domain"] for visit in rows[0]["visits"]]
    lines = [
        f"# {title}",
        "",
        f"Median over seeds {', '.join(map(str, seeds))}; mIoU in percent, prequential, one confusion matrix a visit.",
        f"{machine}",
        "",
        "```",
        command,
        "```",
        "",
        f"| method | h-mean | gain | {' | '.join(domains)} | last − first | worst gain of a visit, any seed |",
        "|" + "---|" * (len(domains) + 5),
    ]
    for row in rows:
        cells = [number(visit["miou"]) for visit in row["visits"]]
        worst = min(visit["worst_gain"] for visit in row["visits"])
        gain = f"{row['hmean_gain']:+.1f}"
        lines.append(
            f"| {row['method']} | {number(row['hmean'])} | {gain} | {' | '.join(cells)} "
            f"| {row['last_minus_first']:+.1f} | {worst:+.1f} |"
        )
    lines += ["", "| method | predict p50 ms | adapt p50 ms | peak memory MB |", "|---|---|---|---|"]
    for row in rows:
        costs = (number(row[key]) for key in ("predict_p50_ms", "adapt_p50_ms", "peak_memory_mb"))
        lines.append(f"| {row['method']} | {' | '.join(costs)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("schedule", help="name or path of a schedule")
    parser.add_argument("overrides", nargs="*", help="key=value overrides for every run")
    parser.add_argument("--methods", nargs="+", default=["frozen", "tent", "hamlet", "default"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--network")
    parser.add_argument("--source")
    parser.add_argument("--frames", type=int)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmarks", help="where the run folders go")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks", help="where the tables go")
    arguments = parser.parse_args()
    jobs = plan(arguments)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        summaries = list(tqdm(pool.map(run, jobs), total=len(jobs), desc=Path(arguments.schedule).stem))
    rows = [
        aggregate(method, [s for job, s in zip(jobs, summaries, strict=True) if job.method == method])
        for method in arguments.methods
    ]
    environment = json.loads((jobs[0].folder / "environment.json").read_text(encoding="utf-8"))
    name = Path(arguments.schedule).stem
    command = shlex.join(["python", "benchmarks/methods.py", *sys.argv[1:]])
    machine = f"{environment.get('cpu')}, one thread a run, {arguments.jobs} runs at a time."
    arguments.out.mkdir(parents=True, exist_ok=True)
    content = {"schedule": name, "command": command, "environment": environment, "methods": rows}
    (arguments.out / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    title = f"Methods on `{name}`"
    (arguments.out / f"{name}.md").write_text(
        markdown(title, command, machine, rows, arguments.seeds), encoding="utf-8"
    )
    print((arguments.out / f"{name}.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
