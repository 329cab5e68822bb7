"""The method table for people: Markdown, and accuracy against cost as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def markdown(content: dict[str, Any], name: str) -> str:
    """A table of accuracy and one of cost and scores on time for every schedule and network."""
    rows, environment = content["rows"], content["environment"]
    load = content["load_average"]
    lines = ["# Methods", "", "```", content["command"], "```", ""]
    lines += [
        f"{environment['cpu']}, {environment['cores']} cores"
        + ("" if load is None else f", load average {load:.1f}")
        + f", {environment['created']}. Not run on a GPU. mIoU in percent, every frame scored before anything is "
        "learned from it, one confusion matrix a visit; medians over seeds, harm of any seed.", "",
    ]  # fmt: skip
    for schedule, network in dict.fromkeys((row["schedule"], row["network"]) for row in rows):
        part = [row for row in rows if (row["schedule"], row["network"]) == (schedule, network)]
        part.sort(key=lambda row: -(row["gain"] or 0.0))
        first, rounds = part[0], any(row["slope"] is not None for row in part)
        lines += [
            f"## `{schedule}`, {network}", "",
            f"Seeds {', '.join(map(str, first['seeds']))}. Frozen: harmonic mean {first['hmean_frozen']:.1f}, "
            f"mean {first['mean_frozen']:.1f}, worst visit {first['worst_frozen']:.1f}.", "",
            "| method | h-mean | gain | mean | worst visit | worst gain of a visit | frames harmed | return gap |"
            + (" last round | last half of the rounds | slope, points in 10 rounds |" if rounds else ""),
            "|" + "---|" * (11 if rounds else 8),
        ]  # fmt: skip
        for row in part:
            lines.append(
                f"| {row['method']} | {_n(row['hmean'])} | {_s(row['gain'])} | {_n(row['mean'])} | "
                f"{_n(row['worst'])} | {_s(row['worst_visit_gain'])} | {_n(100 * row['harmed_frames'])} % | "
                f"{_s(row['return_gap'])} |"
                + (f" {_s(row['last_round'])} | {_s(row['last_half'])} | {_s(row['slope'])} |" if rounds else "")
            )
        rates = list(first["timed"])
        lines += ["", "| method | passes a frame | predict ms | step ms | ms a frame | peak MiB |"
                  + "".join(f" gain at {rate} fps | late |" for rate in rates),
                  "|" + "---|" * (6 + 2 * len(rates))]  # fmt: skip
        for row in part:
            timed = "".join(
                f" {_s(row['timed'][rate]['gain'])} | {_n(100 * row['timed'][rate]['deadline_miss_rate'])} % |"
                for rate in rates
            )
            lines.append(
                f"| {row['method']} | {row['passes']} | {_n(row['predict_ms'], 0)} | {_n(row['adapt_ms'], 0)} | "
                f"{_n(row['frame_ms'], 0)} | {_n(row['peak_memory_mb'], 0)} |{timed}"
            )
        lines.append("")
    lines += [*(f"- failed: {line}" for line in content["failed"]), ""]
    lines += [
        "F is a forward and B a backward pass over a frame, of whichever network. Milliseconds are CPU time of one "
        "thread (median; a frame: mean over predictions and steps). Peak memory is that of a process that has played "
        "other cells before and keeps their frames. Late: masks after their deadline or never; the gain on time is "
        "over frozen on the same camera.", "",
        f"![gain against cost]({name}.png)", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _n(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _s(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1f}"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Gain over frozen against milliseconds a frame: offline, and on time at each rate; a marker a schedule."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    rates = list(rows[0]["timed"])
    panels = ["offline, the stream waits", *(f"on time at {rate} fps" for rate in rates)]
    groups = list(dict.fromkeys((row["schedule"], row["network"]) for row in rows))
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    width = 6.8 if len(rows) < 16 and len(panels) > 1 else 11.0
    figure, grid = plt.subplots(lines, columns, figsize=(width * columns, 0.66 * width * lines), squeeze=False)
    colours = plt.get_cmap("tab20")
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for place, (axes, title) in enumerate(zip(grid.flat, panels, strict=False)):
        points = []
        for row in rows:
            gain = row["gain"] if place == 0 else row["timed"][rates[place - 1]]["gain"]
            marker = "osD^vP*X"[groups.index((row["schedule"], row["network"])) % 8]
            axes.plot([row["frame_ms"]], [gain], marker, color=colours(methods.index(row["method"]) % 20), markersize=6)
            points.append((row["frame_ms"], gain, row["method"]))
        axes.axhline(0.0, color="0.4", linewidth=0.8, linestyle="--")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.xaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
        axes.xaxis.set_minor_formatter("{x:.0f}")
        axes.set_xlabel("CPU milliseconds a frame, offline")
        axes.set_ylabel("harmonic mean, points over frozen")
        axes.set_title(title, fontsize=10)
        axes.margins(0.12)
        _name(axes, points)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    if len(groups) > 1:
        figure.suptitle(", ".join(f"{'osD^vP*X'[i % 8]}: {s} {n}" for i, (s, n) in enumerate(groups)), fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _name(axes: Any, points: list[tuple[float, float, str]]) -> None:
    """Writes the names where they cover neither points nor one another; those moved away get a line to their point."""
    height, wide = 9.0, 4.6  # of a line and of a letter, in dots of 1/72 inch
    scale = axes.figure.dpi / 72.0
    spots = [axes.transData.transform((x, y)) / scale for x, y, _ in points]
    taken = [(x - 4.0, y - 4.0, x + 4.0, y + 4.0) for x, y in spots]
    ways = sorted(
        ((dx, dy) for dx in (6, -6, 22, -22, 44, -44) for dy in range(-80, 81, 8)),
        key=lambda way: abs(way[0]) + 1.5 * abs(way[1]),
    )
    for (x, y), (at, gain, name) in sorted(zip(spots, points, strict=True), key=lambda pair: -pair[0][1]):
        for dx, dy in ways:
            left = x + dx if dx > 0 else x + dx - wide * len(name)
            box = (left, y + dy - height / 2, left + wide * len(name), y + dy + height / 2)
            if not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
                break
        taken.append(box)
        line = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.5} if abs(dy) > height or abs(dx) > 6 else None
        axes.annotate(name, (at, gain), (dx, dy), textcoords="offset points", fontsize=7, va="center",
                      ha="left" if dx > 0 else "right", arrowprops=line)  # fmt: skip
