"""Learning-rate warm-up that begins anew whenever the domain has changed (DAFormer; specs/seed-systems.md 2 and 9)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def warm_up_factor(step: int, steps: int, ratio: float) -> float:
    """``ratio + (1 - ratio) k / W`` at step k of W, 1 from W on."""
    return 1.0 if step >= steps else ratio + (1.0 - ratio) * step / steps


class WarmUp:
    """Counts steps since the last change of domain.

    Args:
        steps: W; 0 is none.
        ratio: Factor on the rate of the first step.
    """

    def __init__(self, steps: int, ratio: float) -> None:
        self._steps, self._ratio, self._taken = steps, ratio, 0

    @property
    def factor(self) -> float:
        """On the learning rate of the coming step."""
        return warm_up_factor(self._taken, self._steps, self._ratio)

    def stepped(self) -> None:
        """A step was taken."""
        self._taken += 1

    def restart(self) -> None:
        """The domain has changed."""
        self._taken = 0

    def state_dict(self) -> dict[str, Any]:
        """Steps since the last change."""
        return {"taken": self._taken}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self._taken = int(state["taken"])
