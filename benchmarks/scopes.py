"""Large encoders through a stream with every scope: does it run, what does it cost, how much memory does it take?

    python -m benchmarks.scopes --size 128x256 --out docs/benchmarks/scopes

Random weights, which cost what trained ones do; entropy of every frame, so that each is learned from; a process for
every network, so that its largest memory is its own. Scores of random weights mean nothing and are not written.
Rows that OUT holds already and that are not run again stay in it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.kept_rows import kept

NETWORKS = (*(f"segformer_b{size}" for size in range(6)), "timm:swin_base_patch4_window7_224")
SCOPES: dict[str, tuple[str, ...]] = {
    "norm": ("scope.parameters=norm",),
    "bias": ("scope.parameters=bias",),
    "head": ("scope.parameters=head",),
    "last stage": ("scope.parameters=suffix", "scope.select=fixed", "scope.first_module=4"),
    "all": ("scope.parameters=all",),
    "lora": ("scope.parameters=adapters", "adapters.kind=lora"),
    "adaptformer": ("scope.parameters=adapters", "adapters.kind=adaptformer"),
}


def run_all(network: str, size: str, schedule: str, frames: int, scopes: Sequence[str]) -> list[dict[str, Any]]:
    """A run for each of ``scopes``; its frames, updates, median times and the largest memory of the process so far."""
    from online_uda.config import RunConfig
    from online_uda.networks.inference import parse_tile
    from online_uda.run import run

    rows = []
    for scope in scopes:
        with tempfile.TemporaryDirectory() as folder:
            config = RunConfig(
                schedule=schedule, method="tent", network=network, init="random", size=parse_tile(size), threads=1,
                frames=frames, precision="fp32", beside=False, tensorboard=False, out=f"{folder}/run",
            )  # fmt: skip
            summary = run(config, SCOPES[scope])
        latency = summary["latency_ms"]
        rows.append({
            "network": network, "scope": scope, "size": size, "load": round(os.getloadavg()[0], 1),
            "frames": summary["frames"], "updates": summary["updates"],
            "predict_ms": latency["predict"]["p50"], "adapt_ms": latency["adapt"]["p50"],
            "peak_memory_mb": summary["peak_memory_mb"], "peak_cuda_memory_mb": summary["peak_cuda_memory_mb"],
        })  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a network a line, median milliseconds of a step for every scope."""
    steps_of = [f"step ms, {scope}" for scope in SCOPES]
    head = ["network", "size", "frames a scope", "predict ms", *steps_of, "memory GiB", "load"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for network in dict.fromkeys(row["network"] for row in rows):
        mine = {row["scope"]: row for row in rows if row["network"] == network}
        predict = sorted(row["predict_ms"] for row in mine.values())[len(mine) // 2]
        steps = [f"{mine[scope]['adapt_ms']:.0f}" if scope in mine else "–" for scope in SCOPES]
        memory = max(row["peak_cuda_memory_mb"] or row["peak_memory_mb"] for row in mine.values()) / 1024
        frames = min(row["updates"] for row in mine.values())
        sizes = ", ".join(sorted({row["size"] for row in mine.values()}))
        loads = [row["load"] for row in mine.values()]
        load = " to ".join(dict.fromkeys(f"{value:.0f}" for value in (min(loads), max(loads))))
        cells = [f"`{network}`", sizes, str(frames), f"{predict:.0f}", *steps, f"{memory:.1f}", load]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measures and writes ``OUT.json`` and ``OUT.md``."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--out", type=Path, default=Path("docs/benchmarks/scopes"))
    flags.add_argument("--networks", nargs="*", default=list(NETWORKS))
    flags.add_argument("--scopes", nargs="*", choices=SCOPES, default=list(SCOPES), metavar="SCOPE")
    flags.add_argument("--size", default="128x256", help="height and width of frames (%(default)s)")
    flags.add_argument("--schedule", default="cs2rain")
    flags.add_argument("--frames", type=int, default=2, help="of each visit; cs2rain has eleven (%(default)s)")
    flags.add_argument("--one", metavar="NETWORK", help=argparse.SUPPRESS)
    arguments = flags.parse_args()
    if arguments.one:
        run_all(arguments.one, arguments.size, arguments.schedule, arguments.frames, arguments.scopes)
        return
    again = {"network": arguments.networks, "scope": arguments.scopes}
    rows = kept(arguments.out.with_suffix(".json"), again)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for network in arguments.networks:
        same = [
            "--scopes",
            *arguments.scopes,
            "--size",
            arguments.size,
            "--schedule",
            arguments.schedule,
            "--frames",
            str(arguments.frames),
        ]
        command = [sys.executable, "-m", "benchmarks.scopes", "--one", network, *same]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                if line.startswith("{"):
                    rows.append(json.loads(line))
                    print(line, end="", flush=True)
        if child.returncode:
            raise SystemExit(f"{network} failed")
        machine = f"{platform.machine()}, {os.cpu_count()} CPU cores, one thread"
        result = {"machine": machine, "schedule": arguments.schedule, "rows": rows}
        arguments.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        note = (
            f"{machine}; {arguments.schedule}, random weights, fp32; wall time, medians; memory is the largest of the "
            f"process, load the machine's average over a minute at the ends of the runs."
        )
        arguments.out.with_suffix(".md").write_text(f"# Scopes\n\n{note}\n\n{table(rows)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
