"""How hard a method is held back: smaller steps after every failure, a rest after too many, and the way back up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOST_STEPS = 6
"""Steps that rate and rest take at most, so that the way back stays short."""


class Ladder:
    """Counts failures and passes of candidates; everything follows from these counts.

    Args:
        rate_factor: What a failure does to the learning rate, in (0, 1), six times at most.
        patience: Failures that end in a rest where none of them was undone.
        rest: Frames of the first rest. Every further one is twice as long, up to 64 times, until passes have brought
            the rate back to where it was.
        passes: How many passes with no failure between them undo one: what does harm may look good once.

    Attributes:
        rate: Factor on the learning rate, in (0, 1].
        resting: Frames of rest that are left.
    """

    def __init__(self, rate_factor: float, patience: int, rest: int, passes: int) -> None:
        self._rate_factor, self._patience, self._rest, self._needed = rate_factor, patience, rest, passes
        self.rate = 1.0
        self.resting = 0
        self._strikes = 0
        self._rests = 0
        self._passes = 0

    def fail(self) -> bool:
        """A candidate failed; tells whether a rest begins."""
        self.rate = max(self.rate * self._rate_factor, self._rate_factor**MOST_STEPS)
        self._strikes += 1
        self._passes = 0
        if self._strikes < self._patience:
            return False
        self._strikes = 0
        self.resting = self._rest * 2 ** min(self._rests, MOST_STEPS)
        self._rests += 1
        return True

    def succeed(self) -> None:
        """A candidate passed."""
        self._passes += 1
        if self._passes < self._needed:
            return
        self._passes = 0
        self._strikes = max(0, self._strikes - 1)
        self.rate = min(1.0, self.rate / self._rate_factor)
        if self.rate == 1.0:
            self._rests = 0

    def tick(self) -> bool:
        """A frame went by; tells whether it ended a rest."""
        if not self.resting:
            return False
        self.resting -= 1
        return self.resting == 0

    def state_dict(self) -> dict[str, Any]:
        """The counts."""
        return {
            "rate": self.rate, "resting": self.resting, "strikes": self._strikes, "rests": self._rests,
            "passes": self._passes,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self.rate, self.resting = float(state["rate"]), int(state["resting"])
        self._strikes, self._rests, self._passes = (int(state[name]) for name in ("strikes", "rests", "passes"))
