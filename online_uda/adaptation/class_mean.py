"""The mean prediction of the stream so far, against which new frames are old news (ETA, ROID)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class ClassMean:
    """Exponential mean of class probabilities; None until the first `update`.

    Args:
        rate: Share of the new one.

    Attributes:
        mean: ``(C,)`` float, or None.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self.mean: Tensor | None = None

    @torch.no_grad()
    def update(self, probabilities: Tensor) -> None:
        """Takes in the mean ``(C,)`` of what was kept."""
        new = probabilities.detach()
        self.mean = new.clone() if self.mean is None else self.mean.to(new).lerp(new, self._rate)

    def cosine(self, probabilities: Tensor) -> Tensor:
        """Cosine of ``(B, C, ...)`` probabilities with the mean, ``(B, ...)``; 0 where there is no mean yet."""
        if self.mean is None:
            return torch.zeros_like(probabilities[:, 0])
        mean = self.mean.to(probabilities).view(1, -1, *[1] * (probabilities.dim() - 2))
        return torch.nn.functional.cosine_similarity(probabilities, mean, dim=1)

    def forget(self) -> None:
        """As at the start."""
        self.mean = None

    def state_dict(self) -> dict[str, Any]:
        """The mean."""
        return {"mean": self.mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self.mean = state["mean"]
