"""The figures of benchmarks.stream_on_time as a page and as a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MODES = ("sync", "interleaved", "async")


def markdown(result: dict[str, Any], name: str) -> str:
    """The figures as a page."""
    offline, loads = result["offline"], [row["load"] for row in result["rows"]]
    lines = [
        "# A storm that does not wait", "",
        f"`{result['command']}` on {result['at']}; {result['schedule']}, method {result['method']}, seed "
        f"{result['seed']}, {result['frames']} frames. Clock: {result['clock']}; a prediction in "
        f"{result['precision']} by {result['backend']} takes "
        f"{result['predict_ms']:.0f} ms (median). Without deadlines: harmonic mean {offline['hmean']:.1f}, frozen "
        f"{offline['hmean_frozen']:.1f}. "
        f"Deciding costs {result['overhead_ms']:.3f} ms a frame. Load of the machine meanwhile: {min(loads):.1f} to "
        f"{max(loads):.1f} (mean of five minutes). Not run on a GPU.", "",
        "| slack | frames/s | learning | frame p50 ms | p99 ms | max ms | p99 / frozen | missed | missed by frozen | "
        "dropped | learned from | staleness | shortened | skipped | streaming mIoU | gain kept |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in result["rows"]:
        stale = "–" if row["staleness"] is None else f"{row['staleness']:.1f}"
        kept = "–" if row["gain_kept"] is None else f"{100 * row['gain_kept']:.0f} %"
        lines.append(
            f"| {100 * row['slack']:.0f} % | {row['fps']:.2f} | {row['learn']} | {row['frame_p50_ms']:.0f} | "
            f"{row['frame_p99_ms']:.0f} | {row['frame_max_ms']:.0f} | {row['p99_ratio']:.2f} | "
            f"{100 * row['deadline_miss_rate']:.1f} % | {100 * row['bare_miss_rate']:.1f} % | {row['dropped']} | "
            f"{100 * row['adapted_ratio']:.1f} % | {stale} | {row['shortened']} | {row['skipped']} | "
            f"{row['streaming_miou']:.1f} | {kept} |"
        )
    return "\n".join([*lines, "", f"![gain kept, deadlines missed and p99 by slack]({name}.png)", ""])


def plot(result: dict[str, Any], path: Path) -> None:
    """Gain kept, deadlines missed and the latency of the slowest frames, against slack."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = (
        ("gain kept, %", "gain_kept", 100.0, 80.0),
        ("masks after their deadline or never, %", "deadline_miss_rate", 100.0, 1.0),
        ("p99 of a frame over frozen", "p99_ratio", 1.0, 1.25),
    )
    slacks = sorted({row["slack"] for row in result["rows"]})
    modes = [learn for learn in MODES if any(row["learn"] == learn for row in result["rows"])]
    figure, plots = plt.subplots(1, len(panels), figsize=(12, 3.4))
    for axes, (title, key, factor, target) in zip(plots, panels, strict=True):
        for place, learn in enumerate(modes):
            rows = {row["slack"]: row[key] for row in result["rows"] if row["learn"] == learn}
            at = [index + 0.25 * (place - (len(modes) - 1) / 2) for index in range(len(slacks))]
            heights = [factor * (rows.get(slack) or 0.0) for slack in slacks]
            axes.bar_label(axes.bar(at, heights, 0.23, label=learn), fmt="%.3g", fontsize=7)
        axes.axhline(target, color="0.3", linewidth=0.8, linestyle="--", label="target")
        axes.set_xticks(range(len(slacks)), [f"{100 * slack:.0f}" for slack in slacks])
        axes.set_xlabel("slack, % of the time between two frames")
        axes.set_title(title, fontsize=10)
        axes.margins(y=0.15)
    plots[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
