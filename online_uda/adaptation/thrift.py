"""Less work after memory ran out: shallower steps, then narrower ones, and the way back when there is enough again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from online_uda.adaptation.pieces import Effort

SMALLEST_CROP = 0.25


class Thrift:
    """How much of a step the memory allows: one notch less after every shortage, one more after ``patience`` steps.

    The notches: one stage after the other rests, so that no activation is kept for it; then the width is halved.

    Args:
        stages: Stages of the network.
        patience: Steps without a shortage before a notch is given back.
    """

    def __init__(self, stages: int, patience: int = 100) -> None:
        self._stages, self._patience = stages, patience
        self._notches = 0
        self._steps = 0

    def limit(self, effort: Effort) -> Effort:
        """``effort``, or as much of it as the memory allows."""
        if not self._notches:
            return effort
        stage = min(1 + self._notches, self._stages)
        halvings = max(0, self._notches - (self._stages - 1))
        crop = max(0.5**halvings, SMALLEST_CROP)
        return replace(effort, crop=min(effort.crop, crop), first_stage=max(effort.first_stage, stage))

    def fall_short(self) -> str:
        """Memory ran out; says what is left of a step."""
        self._notches = min(self._notches + 1, self._stages + 1)
        self._steps = 0
        left = self.limit(Effort())
        return f"stages {left.first_stage}-{self._stages} learn, from {left.crop:.0%} of the width"

    def succeed(self) -> None:
        """A step was taken."""
        if not self._notches:
            return
        self._steps += 1
        if self._steps >= self._patience:
            self._notches, self._steps = self._notches - 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Notches, and steps since the last one."""
        return {"notches": self._notches, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self._notches, self._steps = int(state["notches"]), int(state["steps"])
