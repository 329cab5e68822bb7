"""Whose prediction to trust: the source network's near its domain, the adapted one's away from it (OnDA)."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from itertools import pairwise
from typing import Any


class PriorSwitch:
    """Follows the source network's confidence (Panagiotakopoulos et al. 2022; specs/methods.md 3).

    The median over a window decides outside the grey band; within it the Hamming-weighted slope of the medians does,
    where it is steep enough, and else nothing changes.

    Args:
        window: Frames.
        gray: Below the first the adapted network is trusted, above the second the source network.
        slope: Steepness that counts, in confidence a frame.
    """

    def __init__(self, window: int, gray: tuple[float, float], slope: float) -> None:
        self._gray, self._slope = gray, slope
        self._seen: deque[float] = deque(maxlen=window)
        self._medians: deque[float] = deque(maxlen=window)
        self.dynamic = False

    def update(self, confidence: float) -> bool:
        """Takes in a frame's mean confidence; tells whether the adapted network is to be trusted."""
        self._seen.append(confidence)
        self._medians.append(statistics.median(self._seen))
        median, slope = self._medians[-1], self.slope()
        if median < self._gray[0]:
            self.dynamic = True
        elif median > self._gray[1]:
            self.dynamic = False
        elif abs(slope) > self._slope:
            self.dynamic = slope < 0.0
        return self.dynamic

    def slope(self) -> float:
        """Weighted mean of the changes of the median within the window, newest and oldest counting least."""
        medians = list(self._medians)
        changes = [new - old for old, new in pairwise(medians)]
        if not changes:
            return 0.0
        last = max(len(changes) - 1, 1)
        weights = [0.54 - 0.46 * math.cos(2.0 * math.pi * index / last) for index in range(len(changes))]
        return math.fsum(w * c for w, c in zip(weights, changes, strict=True)) / math.fsum(weights)

    def state_dict(self) -> dict[str, Any]:
        """The windows and the decision."""
        return {"seen": list(self._seen), "medians": list(self._medians), "dynamic": self.dynamic}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        for own, saved in ((self._seen, state["seen"]), (self._medians, state["medians"])):
            own.clear()
            own.extend(saved)
        self.dynamic = bool(state["dynamic"])
