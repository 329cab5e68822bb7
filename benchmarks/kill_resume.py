"""Kill -9 at random moments, resume, compare: every killed run must end as the one that nobody disturbed.

    python -m benchmarks.kill_resume

A run of a tiny network that learns on every frame and writes a snapshot after every frame, so that many kills fall into
a write. Each trial kills the run, and up to two of its continuations: one kill in five at any moment, for to start a
run takes longer than to play it; the others at a random moment of a random frame. The last continuation ends. Compared
are all scores of `summary.json`, every line of `frames.jsonl` and every tensor of the state of the method. Writes
docs/benchmarks/kill_resume.json and docs/benchmarks/kill_resume.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import online_uda.run  # noqa: F401  # imported once, for every child
from benchmarks.tiny_run import command, write_inputs
from online_uda.cli import main as run_stream
from online_uda.reports.environment import describe_environment
from online_uda.runtime.snapshot import read_snapshot, snapshots

TIMES = ("predict_ms", "adapt_ms", "frame_ms", "latency_ms", "wall_s", "frames_per_s", "peak_memory_mb")
AT_ANY_MOMENT = 0.2
"""Share of kills that may also fall into the start of a run."""
_GLANCE_S = 0.002
FORK = multiprocessing.get_context("fork")
"""A child that has everything imported starts within milliseconds: its kills fall into the run and not into imports."""


def _child(arguments: list[str], log: str) -> None:
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        os._exit(run_stream(arguments))


def play(
    arguments: list[str], log: Path, kill_after_s: float | None = None, once: Callable[[], bool] = lambda: True
) -> int:
    """Runs the command line in a process of its own; its exit status, or -9 if it was killed.

    Args:
        arguments: Of the command line.
        log: Gets what it says.
        kill_after_s: Seconds after ``once`` to kill it; None lets it end.
        once: From when on these seconds count.
    """
    process = FORK.Process(target=_child, args=(arguments, str(log)))
    process.start()
    while kill_after_s is not None and process.is_alive() and not once():
        time.sleep(_GLANCE_S)
    process.join(kill_after_s)
    if process.exitcode is None:
        process.kill()
        process.join()
    assert process.exitcode is not None
    return process.exitcode


def result(folder: Path) -> dict[str, Any]:
    """Everything of a finished run that no clock decides."""

    def without_times(row: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in row.items() if key not in TIMES}

    lines = (folder / "frames.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        "summary": without_times(json.loads((folder / "summary.json").read_text(encoding="utf-8"))),
        "frames": [without_times(json.loads(line)) for line in lines],
        "method": read_snapshot(snapshots(folder / "snapshots")[-1]).method,
    }


def same(one: Any, other: Any) -> bool:
    """Whether two nested values are equal, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def _played(folder: Path) -> int:
    """Frames that the newest snapshot of a run counts as played; 0 without one."""
    found = sorted((folder / "snapshots").glob("frame-*"))
    return int(found[-1].name[6:14]) if found else 0


def _has_played(folder: Path, frame: int) -> bool:
    return (folder / "frames.jsonl").exists() and _played(folder) >= frame


def trial(
    root: Path,
    name: str,
    whole: dict[str, Any],
    takes_s: tuple[float, float],
    moments: random.Random,
    method: str = "default",
) -> dict[str, Any]:
    """One run, killed once to three times; what came of it.

    Args:
        root: With inputs.
        name: Of the run folder.
        whole: `result` of the undisturbed run.
        takes_s: How long that took to its first frame, and to its end.
        moments: Draws the times.
        method: Of the undisturbed run.
    """
    folder, log = root / name, root / f"{name}.log"
    kills, swept, fresh = [], 0, 0
    for _ in range(moments.randint(1, 3)):
        started = (folder / "config.yaml").is_file()
        fresh += not started
        arguments = ["--resume", str(folder)] if started else command(root, name, method=method)
        if moments.random() < AT_ANY_MOMENT:
            after_s = moments.uniform(0.0, takes_s[1])
            status = play(arguments, log, after_s)
        else:
            last = len(whole["frames"]) - 1  # a kill may have come when all were played and the end was not written
            frame = moments.randint(min(_played(folder), last), last)
            after_s = moments.uniform(0.0, (takes_s[1] - takes_s[0]) / len(whole["frames"]))
            status = play(arguments, log, after_s, partial(_has_played, folder, frame))
        if status == 0:
            break
        if status != -9:
            return {"identical": False, "why": f"exit status {status}: {log.read_text(errors='replace')[-400:]}"}
        swept += sum(1 for _ in folder.glob("snapshots/.partial-*"))
        found = snapshots(folder / "snapshots")
        kills.append({"after_s": after_s, "snapshot": found[-1].name[6:14] if found else None})
    arguments = ["--resume", str(folder)] if (folder / "config.yaml").is_file() else command(root, name, method=method)
    status = play(arguments, log)
    if status != 0:
        return {"identical": False, "why": f"exit status {status}: {log.read_text(errors='replace')[-400:]}"}
    return {"identical": same(result(folder), whole), "kills": kills, "in_a_write": swept, "started_afresh": fresh - 1}


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    machine, trials = report["environment"], report["trials"]
    kills = [kill for row in trials for kill in row.get("kills", ())]
    good = sum(row["identical"] for row in trials)
    starts_s, takes_s = report["takes_s"]
    return "\n".join([
        "# Kill and resume",
        "",
        f"Made by `{report['command']}`; see its head. {machine['cpu']}, torch "
        f"{machine['torch']['version']}.",
        "",
        "| what | figure | target |",
        "|---|---|---|",
        f"| runs identical to the undisturbed one | {good} of {len(trials)} | all |",
        f"| kill -9 | {len(kills)} | at least 30 |",
        f"| … of these in the middle of writing a snapshot | {sum(row.get('in_a_write', 0) for row in trials)} | – |",
        f"| … before the first snapshot | {sum(kill['snapshot'] is None for kill in kills)} | – |",
        f"| seconds of the undisturbed run, before its first frame | {takes_s:.1f}, {starts_s:.1f} | – |",
        "",
    ])  # fmt: skip


def main() -> None:
    """Runs what the arguments ask for and writes both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--frames", type=int, default=6, help="of each of three visits")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "benchmarks")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    moments = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        write_inputs(root, arguments.frames)
        play(command(root, "warm"), root / "warm.log")
        start = time.time()
        assert play(command(root, "whole"), root / "whole.log") == 0, (root / "whole.log").read_text()
        # The configuration is written when everything is ready to play.
        takes_s = (root / "whole" / "config.yaml").stat().st_mtime - start, time.time() - start
        whole = result(root / "whole")
        trials = []
        for number in range(arguments.trials):
            trials.append(trial(root, f"run{number}", whole, takes_s, moments))
            print(json.dumps(trials[-1]), flush=True)
    report = {
        "schema": "online_uda.kill_resume/1",
        "command": shlex.join(["python", "-m", "benchmarks.kill_resume", *sys.argv[1:]]),
        "takes_s": takes_s, "environment": describe_environment(), "trials": trials,
    }  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "kill_resume.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "kill_resume.md").write_text(markdown(report), encoding="utf-8")


if __name__ == "__main__":
    main()
