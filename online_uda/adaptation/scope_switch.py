"""Adapters alone, or everything: Hybrid-TTA's switch on the course of the loss (specs/methods.md 3)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any


class HybridSwitch:
    """Everything learns while the mean of the last losses lies ``rise`` above a slow threshold of the same.

    Args:
        window: Losses in the mean.
        rise: Relative excess.
        memory: Share of the threshold that survives a loss; it starts at the first one.
    """

    def __init__(self, window: int, rise: float, memory: float) -> None:
        self._rise, self._memory = rise, memory
        self._losses: deque[float] = deque(maxlen=window)
        self._threshold: float | None = None
        self.everything = False

    def update(self, loss: float) -> None:
        """The loss of the step just taken; decides about the next one."""
        self._losses.append(loss)
        threshold = loss if self._threshold is None else self._threshold
        mean = sum(self._losses) / len(self._losses)
        self.everything = self._threshold is not None and mean >= (1.0 + self._rise) * threshold
        self._threshold = self._memory * threshold + (1.0 - self._memory) * loss

    def state_dict(self) -> dict[str, Any]:
        """Losses, threshold and the decision."""
        return {"losses": list(self._losses), "threshold": self._threshold, "everything": self.everything}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self._losses.clear()
        self._losses.extend(state["losses"])
        self._threshold, self.everything = state["threshold"], bool(state["everything"])
