"""How often a network is right where it is sure: pixels by the probability of their predicted class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BINS = 101
"""One a hundredth of probability: bin k holds k / 100 up to the next."""

Counts = NDArray[np.int64]


def right_and_wrong(
    probability: NDArray[np.float32], answer: NDArray[np.int64], truth: NDArray[np.uint8], ignore: int = 255
) -> Counts:
    """Pixels that are right and that are wrong, by probability.

    Args:
        probability: ``(h, w)`` in [0, 1], of the predicted class.
        answer: ``(h, w)`` train ids predicted.
        truth: ``(h, w)`` train ids.
        ignore: Id of pixels without truth.

    Returns:
        ``(2, BINS)``: right, wrong.
    """
    known = truth != ignore
    bins = np.clip((probability[known] * (BINS - 1)).astype(np.int64), 0, BINS - 1)
    right = answer[known] == truth[known]
    return np.stack([np.bincount(bins[part], minlength=BINS) for part in (right, ~right)]).astype(np.int64)


def curve(counts: Counts) -> NDArray[np.float64]:
    """What is kept, and how much of it is right, where pixels below a probability are left out.

    Being right is the positive class and the probability its score, so that precision is the share of kept pixels that
    are right, and recall the share of right ones that are kept.

    Args:
        counts: Of `right_and_wrong`, of one frame or summed.

    Returns:
        ``(6, BINS)``: true and false positives, true and false negatives, precision, recall; thresholds k / 100.
    """
    kept = counts[:, ::-1].cumsum(axis=1)[:, ::-1]
    (right, wrong), (all_right, all_wrong) = kept, counts.sum(axis=1)
    precision = np.where(right + wrong > 0, right / np.maximum(right + wrong, 1), 1.0)
    recall = right / max(int(all_right), 1)
    return np.stack([right, wrong, all_wrong - wrong, all_right - right, precision, recall]).astype(np.float64)
