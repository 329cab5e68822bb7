"""What the memory of domains is worth on the way back of a storm: second visits against first ones, from summaries.

    python run_stream.py --schedule cs2rain --out runs/0 --seed 0
    python -m benchmarks.way_back runs/0/summary.json --out docs/benchmarks/way_back

Plays nothing. Recovery is the number of frames of a visit until a window of frames reaches 95 % of what the visit has
at its end (specs/protocols.md 4), counted from the frame at which the detector found the change, or from the change
itself where it found none: the stricter count.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

FRAMES = 3
"""Most frames of a recovery that is counted as quick."""


def way_back(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for every second visit of a domain, in stream order.

    Returns:
        ``domain``, ``visit``; ``first`` and ``second`` mIoU, ``change`` and ``change_frozen`` in points; ``delay`` of
        the detection in frames or None; ``recovery`` in frames from there on, and ``recovery_frozen`` from the change.
    """
    settled = {part["visit"]: part for part in summary["recovery"]}
    found = dict(zip(summary["boundaries"], summary["detection"]["delays"], strict=True))
    first: dict[str, dict[str, Any]] = {}
    rows = []
    for visit in summary["visits"]:
        before = first.setdefault(visit["domain"], visit)
        if before is visit or visit["visit"] not in settled:
            continue
        recovery, delay = settled[visit["visit"]], found[visit["start"]]
        rows.append(
            {
                "domain": visit["domain"], "visit": visit["visit"], "first": before["miou"], "second": visit["miou"],
                "change": visit["miou"] - before["miou"],
                "change_frozen": visit["miou_frozen"] - before["miou_frozen"], "delay": delay,
                "recovery": max(0, recovery["frames"] - (delay or 0)), "recovery_frozen": recovery["frames_frozen"],
            }
        )  # fmt: skip
    return rows


def markdown(runs: list[tuple[int, list[dict[str, Any]]]], command: str) -> str:
    """The table of several runs and what it says of the targets."""
    lines = ["# The way back", "", "```", command, "```", "", (__doc__ or "").strip().split("\n\n")[2], ""]
    lines += [
        "| seed | domain | first visit | second visit | change | of frozen | found after | recovered after | frozen |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for seed, rows in runs:
        lines += [
            f"| {seed} | {row['domain']} | {row['first']:.1f} | {row['second']:.1f} | {row['change']:+.1f} | "
            f"{row['change_frozen']:+.1f} | {'not found' if row['delay'] is None else row['delay']} | "
            f"{row['recovery']} | {row['recovery_frozen']} |"
            for row in rows
        ]
    every = [row for _, rows in runs for row in rows]
    slow = [row for row in every if row["recovery"] > FRAMES]
    below = [row for row in every if row["change"] < 0.0]
    behind = [row for row in every if row["change"] < min(0.0, row["change_frozen"])]
    found = [row for row in every if row["delay"] is not None]
    lines += [
        "",
        f"Recovered within {FRAMES} frames: {len(every) - len(slow)} of {len(every)} visits. Not below the first "
        f"visit: {len(every) - len(below)} of {len(every)}; of the others {len(below) - len(behind)} fell no further "
        f"than the frozen network did. Median change {median(row['change'] for row in every):+.1f}, of the "
        f"frozen network {median(row['change_frozen'] for row in every):+.1f}. Found: {len(found)} of {len(every)} "
        "changes; where none is found, nothing is recalled.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Reads summaries, prints the table, and writes it where asked."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("summaries", nargs="+", type=Path, help="summary.json of runs of one schedule")
    flags.add_argument("--out", type=Path, help="writes OUT.md and OUT.json")
    options = flags.parse_args()
    read = [json.loads(path.read_text(encoding="utf-8")) for path in options.summaries]
    runs = [(int(summary["seed"]), way_back(summary)) for summary in read]
    command = "python -m benchmarks.way_back " + " ".join(map(str, options.summaries))
    text = markdown(runs, command)
    print(text)
    if options.out is not None:
        options.out.with_suffix(".md").write_text(text, encoding="utf-8")
        content = {"command": command, "runs": [{"seed": seed, "visits": rows} for seed, rows in runs]}
        options.out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
