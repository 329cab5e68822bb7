"""``frames.jsonl`` and its closed parts, read back as columns for charts."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from online_uda.reports.jsonl import parts_of

NUMBERS = (
    "miou", "miou_frozen", "agreement", "confidence", "signal", "predict_ms", "adapt_ms", "frame_ms",
)  # fmt: skip
EVENTS = ("detected", "updated", "dropped", "late")

Column = NDArray[np.float64]


@dataclass(frozen=True)
class FrameLog:
    """A run frame by frame.

    Attributes:
        frame: ``(n,)`` int64 stream indices.
        numbers: Column by name, ``(n,)`` float64 with NaN where unknown: see `NUMBERS`.
        events: Frames at which something happened, by name: see `EVENTS`.
        guards: Frames and actions of the guards.
    """

    frame: NDArray[np.int64]
    numbers: dict[str, Column]
    events: dict[str, list[int]]
    guards: list[tuple[int, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.frame)

    def known(self, name: str) -> bool:
        """Whether a column holds any value."""
        return bool(np.isfinite(self.numbers[name]).any())


def read_frame_log(path: Path) -> FrameLog:
    """Reads all that is left of a run's lines; a torn or foreign line is left out."""
    frames: list[int] = []
    numbers: dict[str, list[float]] = {name: [] for name in NUMBERS}
    events: dict[str, list[int]] = {name: [] for name in EVENTS}
    guards: list[tuple[int, str]] = []
    files = [*parts_of(path), path] if path.parent.is_dir() else []
    for file in files:
        if not file.is_file():
            continue
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                row = _row(line)
                if row is None:
                    continue
                frames.append(row["frame"])
                for name in NUMBERS:
                    value = row.get(name)
                    numbers[name].append(float(value) if isinstance(value, (int, float)) else math.nan)
                for name in EVENTS:
                    if row.get(name):
                        events[name].append(row["frame"])
                guards += [(row["frame"], str(event.get("action"))) for event in row.get("guard") or ()]
    columns = {name: np.array(values, np.float64) for name, values in numbers.items()}
    return FrameLog(np.array(frames, np.int64), columns, events, guards)


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("frame"), int) else None


def thinned(x: Sequence[int] | NDArray[np.int64], y: Column, points: int) -> tuple[Column, Column]:
    """At most ``points`` means of neighbouring values, NaN left out; a curve that is short enough stays as it is."""
    width = -(-len(x) // points)
    if width <= 1:
        return np.asarray(x, np.float64), y
    rows = -(-len(x) // width)
    padded = np.full((2, rows * width), np.nan)
    padded[0, : len(x)], padded[1, : len(y)] = x, y
    blocks = padded.reshape(2, rows, width)
    valid = np.isfinite(blocks)
    sums = np.where(valid, blocks, 0.0).sum(2)
    with np.errstate(invalid="ignore"):
        means = sums / np.where(valid.any(2), valid.sum(2), np.nan)
    return means[0], means[1]


def smoothed(y: Column, window: int) -> Column:
    """Mean of the last ``window`` values that are known; NaN where none is."""
    valid = np.isfinite(y)
    sums = np.concatenate([[0.0], np.cumsum(np.where(valid, y, 0.0))])
    counts = np.concatenate([[0], np.cumsum(valid)])
    start = np.maximum(0, np.arange(1, len(y) + 1) - window)
    end = np.arange(1, len(y) + 1)
    number = counts[end] - counts[start]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(number > 0, (sums[end] - sums[start]) / np.maximum(number, 1), np.nan)
