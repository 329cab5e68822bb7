"""When to begin anew: after so many steps (RDumb), or where a loss is suspiciously low (SAR) or high (MAD)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from online_uda.adaptation.settings import AnchorSettings

MEMORY = 0.9
"""Share of SAR's running mean of the loss that survives a step."""


class Recovery:
    """Counts steps and follows the loss.

    Args:
        settings: The anchor slot.
    """

    def __init__(self, settings: AnchorSettings) -> None:
        self._every, self._below = settings.reset_every, settings.reset_below
        self._above = settings.reset_above
        self._steps = 0
        self._mean: float | None = None

    def due(self, loss: float | None, total: float = 0.0) -> bool:
        """Whether the step just taken is to be the last before a reset, which is then taken for granted.

        Args:
            loss: Its entropy in nats; None where no entropy is an objective.
            total: Its weighted loss.
        """
        self._steps += 1
        if loss is not None:
            self._mean = loss if self._mean is None else MEMORY * self._mean + (1.0 - MEMORY) * loss
        counted = self._every is not None and self._steps >= self._every
        collapsed = self._below is not None and self._mean is not None and self._mean < self._below
        lost = self._above is not None and total > self._above
        if counted or collapsed or lost:
            self._steps, self._mean = 0, None
        return counted or collapsed or lost

    def state_dict(self) -> dict[str, Any]:
        """Steps since the last reset, and the mean loss."""
        return {"steps": self._steps, "mean": self._mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self._steps, self._mean = int(state["steps"]), state["mean"]
