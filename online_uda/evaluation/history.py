"""Per-frame class counts of a whole run in bounded memory.

Every row starts as one frame. When the budget is full, neighbouring rows of the same visit are merged in pairs, so a
run of any length keeps its shape at half, a quarter ... of the time resolution. Sums over a visit stay exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from online_uda.evaluation.windows import ClassCounts

_FIELDS = ("truth", "intersection", "union", "intersection_frozen", "union_frozen")
_META = ("frame", "visit", "span")
BUDGET_BYTES = 4 * 2**20
"""5 349 rows of 19 classes. So many frames keep a row each; a longer run gets no bigger than that."""


class ScoreHistory:
    """Rows of (frame, visit, span, class counts of adapted and frozen), at most ``budget_bytes`` of them.

    Args:
        classes: Number of classes C.
        budget_bytes: Upper bound of the stored rows, in bytes (19 classes: 784 bytes a row).
    """

    def __init__(self, classes: int, budget_bytes: int = BUDGET_BYTES) -> None:
        row_bytes = 8 * (len(_FIELDS) * classes + len(_META))
        self.capacity = max(2, budget_bytes // row_bytes)
        self.stride = 1
        self._size = 0
        self._meta = np.zeros((min(1024, self.capacity), len(_META)), dtype=np.int64)
        self._counts = np.zeros((len(self._meta), len(_FIELDS), classes), dtype=np.int64)

    def __len__(self) -> int:
        return self._size

    def append(self, frame: int, visit: int, counts: NDArray[np.int64]) -> None:
        """Add one frame; ``counts`` is ``(5, C)``: truth, then intersection and union of adapted, then of frozen."""
        last = self._size - 1
        if last >= 0 and self._meta[last, 1] == visit and self._meta[last, 2] < self.stride:
            self._meta[last, 2] += 1
            self._counts[last] += counts
            return
        if self._size == self.capacity:
            self._merge_pairs()
            self.append(frame, visit, counts)  # the last row may have room now
            return
        if self._size == len(self._meta):
            more = min(max(self._size, 1024), self.capacity - self._size)
            self._meta = np.concatenate([self._meta, np.zeros((more, *self._meta.shape[1:]), np.int64)])
            self._counts = np.concatenate([self._counts, np.zeros((more, *self._counts.shape[1:]), np.int64)])
        self._meta[self._size] = (frame, visit, 1)
        self._counts[self._size] = counts
        self._size += 1

    def _merge_pairs(self) -> None:
        visits = self._meta[: self._size, 1]
        new_visit = np.flatnonzero(np.diff(visits, prepend=visits[0] - 1))
        offset = np.arange(self._size) - np.repeat(new_visit, np.diff(np.append(new_visit, self._size)))
        starts = np.flatnonzero(offset % 2 == 0)
        if len(starts) == self._size:
            # Every visit is down to one row; drop the oldest half rather than grow.
            starts = starts[self._size // 2 :]
        meta = self._meta[starts]
        meta[:, 2] = np.add.reduceat(self._meta[: self._size, 2], starts)
        counts = np.add.reduceat(self._counts[: self._size], starts, axis=0)
        self._meta[: len(starts)], self._counts[: len(starts)] = meta, counts
        self._size = len(starts)
        self.stride *= 2

    def rows_of(self, frames: int) -> int:
        """Rows that hold about ``frames`` frames, at least 1."""
        return max(1, round(frames / self.stride))

    def counts(self, visit: int | None = None) -> tuple[ClassCounts, ClassCounts]:
        """Counts of the adapted and of the frozen network, all rows or those of one visit, in order."""
        rows = self._counts[: self._size]
        if visit is not None:
            rows = rows[self._meta[: self._size, 1] == visit]
        return ClassCounts(rows[:, 1], rows[:, 2], rows[:, 0]), ClassCounts(rows[:, 3], rows[:, 4], rows[:, 0])

    def state_dict(self) -> dict[str, Any]:
        """State as an int and torch tensors, loadable with ``weights_only=True``."""
        import torch

        return {
            "stride": self.stride,
            "meta": torch.from_numpy(self._meta[: self._size].copy()),
            "counts": torch.from_numpy(self._counts[: self._size].copy()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict``.

        Raises:
            ValueError: The state was written for another number of classes or does not fit the budget.
        """
        meta, counts = state["meta"].numpy().copy(), state["counts"].numpy().copy()
        if counts.shape[1:] != self._counts.shape[1:] or len(counts) > self.capacity:
            raise ValueError(
                f"score history of shape {counts.shape} does not fit {self._counts.shape[1:]} x {self.capacity} rows"
            )
        self.stride, self._size = int(state["stride"]), len(counts)
        self._meta, self._counts = meta, counts
