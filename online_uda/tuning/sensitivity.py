"""How much hangs on each option: the chosen candidate with one option changed at a time, on the search's streams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from online_uda.tuning.rehearsal import Rehearsal
from online_uda.tuning.scorebook import Scorebook
from online_uda.tuning.search import Candidate, Deadline
from online_uda.tuning.stage import Stage
from streams.yaml_config import ConfigError

Curves = dict[str, list[tuple[Any, float]]]
"""Of each option: its values in order, each with what the candidate is worth with it."""


def measure(
    chosen: Candidate,
    stage: Stage,
    streams: Sequence[Rehearsal],
    book: Scorebook,
    deadline: Deadline,
    tick: Callable[[], object] = lambda: None,
) -> Curves:
    """Measures option after option, the learning rate first, until the time is up.

    Args:
        chosen: The candidate.
        stage: Where it plays.
        streams: The search's.
        book: Of the search; what is known is not played again.
        deadline: Looked at before each point.
        tick: Called after every point.

    Returns:
        Curves with two points or more.
    """
    curves: Curves = {}
    for option in chosen.space.options:
        points: list[tuple[Any, float]] = []
        here = chosen.values[option.key]
        # The nearest first, so that a curve that is cut short still says what lies around the choice.
        values = option.around(here)
        place = values.index(here) if here in values else 0
        for value in sorted(values, key=lambda value: abs(values.index(value) - place)):
            changed = {**chosen.values, option.key: value}
            score = book.find("search", chosen.space.method, changed)
            if score is None:
                if deadline.is_over:
                    continue
                try:
                    settings = chosen.space.settings(changed)
                except ConfigError:
                    continue  # a value that does not go with the others is no point of the curve
                score = stage.score(chosen.space.method, settings, streams)
                book.note("search", chosen.space.method, changed, score)
            points.append((value, score.value))
            tick()
        if len(points) > 1:
            curves[option.key] = sorted(points, key=lambda point: values.index(point[0]))
    return curves


FLOOR = -10.0
"""Worse values are drawn here, with their number: one collapse would flatten every other curve."""


def plot(curves: Curves, chosen: Candidate, path: Path) -> None:
    """A panel an option: value over frozen, the choice marked."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(4, max(1, len(curves)))
    rows = -(-max(1, len(curves)) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(3.2 * columns, 2.7 * rows), squeeze=False, sharey=True)
    logarithmic = {option.key for option in chosen.space.options if getattr(option, "log", False)}
    for axes, (key, points) in zip(grid.flat, curves.items(), strict=False):
        values = [value for value, _ in points]
        numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
        at: list[Any] = values if numbers else list(range(len(values)))
        shown = [max(worth, FLOOR) for _, worth in points]
        axes.plot(at, shown, marker="o", markersize=4, linewidth=1.2)
        for place, worth in zip(at, (worth for _, worth in points), strict=True):
            if worth < FLOOR:
                axes.annotate(
                    f"{worth:.0f}", (place, FLOOR), (-8, -3), textcoords="offset points", ha="right", fontsize=7
                )
        here = chosen.values[key]
        if here in values:
            axes.plot(
                [at[values.index(here)]], [shown[values.index(here)]], "o", markersize=10, fillstyle="none",
                color="tab:red",
            )  # fmt: skip
        if numbers and key in logarithmic:
            axes.set_xscale("log")
        if not numbers:
            axes.set_xticks(at, [str(value) for value in values])
        axes.axhline(0.0, color="0.4", linewidth=0.8, linestyle="--")
        axes.set_title(key, fontsize=9)
        axes.tick_params(labelsize=8)
    for axes in list(grid.flat)[len(curves) :]:
        axes.set_axis_off()
    for row in grid:
        row[0].set_ylabel("value, points over frozen", fontsize=8)
    figure.suptitle(f"{chosen.space.method}: one option changed at a time (red: chosen)", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
