"""Scores over windows of consecutive frames: how fast a visit recovers, how deep the model falls below frozen.

Inputs are per-frame class counts, so a windowed mIoU is that of the window's summed confusion matrix.
Recovery: specs/protocols.md section 4. Harm: section 6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from online_uda.evaluation.confusion import iou_from_counts, present_mean

RECOVERED_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """Pixel counts of n scored frames: ``intersection``, ``union`` and ``truth``, each ``(n, C)`` int64."""

    intersection: NDArray[np.int64]
    union: NDArray[np.int64]
    truth: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.truth)


@dataclass(frozen=True, slots=True)
class Recovery:
    """How a visit settles after its start.

    Attributes:
        frames: Frames from the visit's start to the first window that reaches 95 % of the steady state.
        steady_miou: Median windowed mIoU over the visit's last third, in percent.
        area: Points below the steady state summed over the windows before recovery (points x frames).
        window: Frames a window holds.
    """

    frames: int
    steady_miou: float
    area: float
    window: int


def window_miou(counts: ClassCounts, window: int) -> NDArray[np.float64]:
    """mIoU in percent of every run of ``window`` consecutive rows.

    Returns:
        ``(n - window + 1,)`` float64, entry t for rows t .. t + window - 1; empty when n < window.
    """
    if window < 1:
        raise ValueError(f"window must be at least 1 frame, got {window}")
    if len(counts) < window:
        return np.empty(0)
    sums = []
    for values in (counts.intersection, counts.union, counts.truth):
        running = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
        sums.append(running[window:] - running[:-window])
    return present_mean(iou_from_counts(*sums))


def visit_window(frames: int, window: int) -> int:
    """Window for a visit: ``window``, or a sixth of a visit that is too short for it (at least 1 frame)."""
    return max(1, min(window, frames // 6))


def recovery(counts: ClassCounts, window: int) -> Recovery | None:
    """Time until a visit performs as it does at its end (specs/protocols.md section 4).

    Windows look forward from a frame and stay inside the visit, so 0 means "as good from the first frame on" and no
    frame of the previous domain enters. The window shrinks to a sixth of a short visit.

    Args:
        counts: Counts of the visit's labelled frames, in order.
        window: Frames of a window in a long visit (50 in the protocol).

    Returns:
        The recovery, or None for a visit with fewer than 3 labelled frames.
    """
    frames = len(counts)
    if frames < 3:
        return None
    width = visit_window(frames, window)
    scores = window_miou(counts, width)
    last_third = scores[frames - frames // 3 :]
    if np.isnan(last_third).all():
        return None
    steady = float(np.nanmedian(last_third))
    # The median guarantees that a window of the last third reaches the bar.
    recovered = int(np.argmax(scores >= RECOVERED_SHARE * steady))
    lost = np.nan_to_num(steady - scores[:recovered], nan=0.0)
    return Recovery(recovered, steady, float(np.maximum(lost, 0.0).sum()), width)


def max_drawdown(adapted: ClassCounts, frozen: ClassCounts, window: int) -> float | None:
    """Largest deficit against frozen over any ``window`` consecutive frames, in points, 0 if never below.

    A stream shorter than the window counts as one window. None without a scored frame.
    """
    if not len(adapted):
        return None
    width = min(window, len(adapted))
    deficit = window_miou(frozen, width) - window_miou(adapted, width)
    if np.isnan(deficit).all():
        return None
    return max(0.0, float(np.nanmax(deficit)))
