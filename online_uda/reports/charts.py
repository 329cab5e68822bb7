"""Charts of a report as inline SVG by matplotlib, each drawn for a wide page and for a phone."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from online_uda.reports.frame_log import Column, FrameLog, smoothed, thinned

ADAPTED, FROZEN, SIGNAL, CHANGE, DETECTED, UPDATED, ROLLBACK = (
    "#0b6e4f", "#8a8f98", "#2f6fb2", "#444444", "#e07b00", "#7bbf9e", "#c62828",
)  # fmt: skip
_STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "online_uda", "font.family": "sans-serif", "font.size": 9.0,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6e8eb",
    "grid.linewidth": 0.6, "axes.edgecolor": "#b8bdc4", "axes.axisbelow": True, "figure.dpi": 72,
    "legend.frameon": False,
}  # fmt: skip
_POINTS = {"wide": 700, "phone": 300}
_MOST_MARKS = 400


def both(draw: Callable[[bool], Figure]) -> dict[str, str]:
    """A chart drawn twice, ``wide`` and ``phone``, as SVG elements.

    Args:
        draw: Makes the figure; its argument says whether it is for a wide page.
    """
    result = {}
    for name in ("wide", "phone"):
        with mpl.rc_context(_STYLE):
            figure = draw(name == "wide")
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        text = buffer.getvalue()
        result[name] = text[text.index("<svg") :]
    return result


def timeline(log: FrameLog, summary: Mapping[str, Any], wide: bool) -> Figure:
    """Scores (or agreement and confidence) over the signal, with true and announced changes, updates and rollbacks."""
    figure = Figure(figsize=(11.0, 4.6) if wide else (4.6, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    points = _POINTS["wide" if wide else "phone"]
    scored = log.known("miou")
    window = max(1, min(25, len(log) // 40))
    curves = (
        (("miou_frozen", "frozen", FROZEN), ("miou", "adapted", ADAPTED))
        if scored
        else (("agreement", "agreement with frozen", FROZEN), ("confidence", "confidence", ADAPTED))
    )
    for name, label, colour in curves:
        if log.known(name):
            x, y = thinned(log.frame, smoothed(log.numbers[name], window), points)
            upper.plot(x, y, color=colour, label=label, linewidth=1.4)
    of = f"{window} frames" if window > 1 else "a frame"
    upper.set_ylabel(f"mIoU of {of}, %" if scored else "%")
    upper.legend(loc="lower left", ncols=2, fontsize=8)
    if log.known("signal"):
        lower.plot(*thinned(log.frame, log.numbers["signal"], points), color=SIGNAL, linewidth=1.1)
    lower.set_ylabel("signal")
    lower.set_xlabel("frame")
    _marks(upper, lower, log, summary)
    visits = summary["visits"]
    if 1 < len(visits) <= (24 if wide else 14):
        top = upper.get_xaxis_transform()
        for visit in visits:
            middle = visit["start"] + visit["frames"] / 2
            upper.text(middle, 1.01, visit["domain"], transform=top, ha="left" if not wide else "center", va="bottom",
                       fontsize=7, rotation=0 if wide else 60)  # fmt: skip
    return figure


def _marks(upper: Any, lower: Any, log: FrameLog, summary: Mapping[str, Any]) -> None:
    for boundary in summary["boundaries"][:_MOST_MARKS]:
        for axes in (upper, lower):
            axes.axvline(boundary, color=CHANGE, linewidth=0.8, linestyle=(0, (2, 2)))
    for frame in summary["detections"][:_MOST_MARKS]:
        lower.axvline(frame, color=DETECTED, linewidth=1.3)
    bottom = lower.get_xaxis_transform()
    updates = _spread(log.events["updated"])
    lower.plot(updates, np.full(len(updates), 0.03), "|", color=UPDATED, markersize=6, transform=bottom)
    rollbacks = [frame for frame, action in log.guards if action in ("rollback", "frozen")]
    rollbacks = _spread(rollbacks)
    lower.plot(rollbacks, np.full(len(rollbacks), 0.92), "v", color=ROLLBACK, markersize=6, transform=bottom)


def _spread(frames: Sequence[int]) -> list[int]:
    step = max(1, -(-len(frames) // _MOST_MARKS))
    return list(frames[::step])


def per_class(table: Mapping[str, Mapping[str, Any]], wide: bool) -> Figure:
    """What happened to every class: its IoU, frozen and adapted, joined by a line."""
    names = list(table)
    figure = Figure(figsize=(11.0 if wide else 4.6, 0.9 + 0.24 * len(names)), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(names))[::-1]
    frozen = np.array([table[name]["iou_frozen"] for name in names], np.float64)
    adapted = np.array([table[name]["iou"] for name in names], np.float64)
    colours = [ADAPTED if after >= before else ROLLBACK for before, after in zip(frozen, adapted, strict=True)]
    axes.hlines(rows, frozen, adapted, colors=colours, linewidth=2.2)
    axes.plot(frozen, rows, "o", color=FROZEN, markersize=4.5, label="frozen")
    axes.plot(adapted, rows, "o", color=ADAPTED, markersize=4.5, label="adapted")
    axes.set_yticks(rows, names)
    axes.set_xlim(0, 100)
    axes.set_xlabel("IoU over all frames, %")
    figure.legend(loc="outside upper right", ncols=2, fontsize=8)
    return figure


def latency(log: FrameLog, budget_ms: float | None, wide: bool) -> Figure:
    """Histograms of what a mask and a whole frame took, on a logarithmic scale, and the deadline."""
    figure = Figure(figsize=(11.0 if wide else 4.6, 2.6), layout="constrained")
    axes = figure.subplots()
    columns: list[tuple[str, str, Column]] = []
    for name, label, colour in (("predict_ms", "mask", SIGNAL), ("frame_ms", "frame", ADAPTED)):
        values = log.numbers[name]
        values = values[np.isfinite(values) & (values > 0)]
        if len(values):
            columns.append((label, colour, values))
    if columns:
        low = min(values.min() for *_, values in columns)
        high = max(values.max() for *_, values in columns)
        edges = np.geomspace(low * 0.99, max(high * 1.01, low * 1.5), 50)
        for label, colour, values in columns:
            axes.hist(values, bins=list(edges), color=colour, alpha=0.55, label=label)
        axes.set_xscale("log")
        axes.legend(fontsize=8)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if budget_ms is not None:
        axes.axvline(budget_ms, color=ROLLBACK, linewidth=1.2)
    axes.set_xlabel("milliseconds")
    axes.set_ylabel("frames")
    return figure


def gains(runs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], wide: bool) -> Figure:
    """Gain over frozen by visit, a line a run.

    Args:
        runs: Names with the ``visits`` of their summaries.
        wide: For a wide page.
    """
    figure = Figure(figsize=(11.0, 3.6) if wide else (4.6, 4.4), layout="constrained")
    axes = figure.subplots()
    longest: Sequence[Mapping[str, Any]] = max((visits for _, visits in runs), key=len)
    for name, visits in runs:
        values = [np.nan if visit["gain"] is None else visit["gain"] for visit in visits]
        axes.plot(range(len(values)), values, "o-", markersize=3.5, linewidth=1.3, label=name)
    axes.axhline(0.0, color=CHANGE, linewidth=0.8)
    axes.set_xticks(
        range(len(longest)), [visit["domain"] for visit in longest], rotation=30 if wide else 60, ha="right"
    )
    axes.set_ylabel("points over frozen")
    axes.legend(fontsize=8)
    return figure
