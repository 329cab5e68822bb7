"""Has the stream's place among the shift axes changed from one few frames to the next?

A step between two far domains, 75 to 100 mm/h of rain, moves the distance from the source by less than a street does,
and goes unnoticed there. It also moves in several directions at once, and neighbouring frames show nearly one street.
So the test is Hotelling's T^2 ("The generalization of Student's ratio", Annals of Mathematical Statistics 1931) of the
difference between the means of two adjacent windows of signatures, as a share of the signature's length, since a
domain's effect varies in proportion to its strength. Its covariance starts from the scatter that was calibrated on
corrupted source images, the same in every direction, and is corrected on the stream.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

_PRIOR_FRAMES = 60.0
"""Differences of the stream that weigh as much as the calibration in the covariance."""
_MEMORY_FRAMES = 100.0
_CAUTION = 2.0
"""Times the calibrated variance: two windows of a stream differ by more than the same scenes under one corruption."""


class SignatureStep:
    """Tests adjacent windows of signatures.

    Args:
        window: Frames whose mean is compared with that of as many before them.
        quantile: Share of the differences inside a domain that must not be a step, by the chi-squared law.
    """

    def __init__(self, window: int, quantile: float) -> None:
        self.window, self.quantile = window, quantile
        self.reset()

    def limit(self, axes: int) -> float:
        """T^2 from which on a difference of ``axes`` coordinates is a step.

        By the cube of Wilson and Hilferty ("The distribution of chi-square", PNAS 1931).
        """
        spread = 2.0 / (9.0 * axes)
        return axes * (1.0 - spread + NormalDist().inv_cdf(self.quantile) * math.sqrt(spread)) ** 3

    def reset(self) -> None:
        """Forgets the stream."""
        self._scatter: Tensor | None = None
        self._count = 0.0
        self.start_domain()

    def start_domain(self) -> None:
        """Forgets the frames of the present domain, not how much they varied."""
        self._frames: list[Tensor] = []

    def update(self, signature: Tensor, relative_variance: float) -> bool:
        """Takes the signature of one frame.

        Args:
            signature: ``(K,)`` float64.
            relative_variance: Calibrated variance of a shift's size inside a domain, relative to the size.

        Returns:
            Whether the last window differs from the one before it by more than a domain's own frames do.
        """
        self._frames = [*self._frames, signature][-2 * self.window :]
        if len(self._frames) < 2 * self.window:
            return False
        stacked = torch.stack(self._frames)
        before, now = stacked[: self.window].mean(0), stacked[self.window :].mean(0)
        length = float(before.norm())
        if length == 0.0:
            return False
        moved, axes = (now - before) / length, len(signature)
        if self._scatter is None:
            self._scatter = torch.zeros(axes, axes, dtype=torch.float64)
        prior = _CAUTION * relative_variance * 2.0 / (self.window * axes) * torch.eye(axes, dtype=torch.float64)
        covariance = (_PRIOR_FRAMES * prior + self._scatter) / (_PRIOR_FRAMES + self._count)
        surprise = float(moved @ torch.linalg.solve(covariance, moved))
        limit = self.limit(axes)
        # A step counts once and no more than the limit: it must not pass for noise.
        self._scatter = self._scatter + min(1.0, limit / max(surprise, 1e-12)) * torch.outer(moved, moved)
        self._count += 1.0
        if self._count > _MEMORY_FRAMES:
            self._scatter = self._scatter * (_MEMORY_FRAMES / self._count)
            self._count = _MEMORY_FRAMES
        return surprise > limit

    def state_dict(self) -> dict[str, Any]:
        """Frames and covariance; it does not grow with the stream."""
        return {"frames": list(self._frames), "scatter": self._scatter, "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a `state_dict` of the same window."""
        self._frames = list(state["frames"])
        self._scatter = state["scatter"]
        self._count = float(state["count"])
