"""Which modules to train next, by measured loss drop per measured millisecond: a discounted upper-confidence bandit.

HAMT (`online_uda.adaptation.scope_select`) weighs a gain in loss with step rates of one GPU. Here the price of a choice
is what its steps have cost on the device in use, and every choice is tried again from time to time, because what pays
changes with the weather. The rule is D-UCB (Garivier and Moulines, "On Upper-Confidence Bound Policies for Switching
Bandit Problems", ALT 2011) with the root mean square of the rewards as their range.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from online_uda.errors import UserError


class ModuleBandit:
    """Chooses the first trained module for every step.

    The drop from one loss to the next is credited to the choice of the earlier step, as a share of the earlier loss and
    a millisecond of that choice's step.

    Args:
        choices: Number of modules N; choice n trains modules n..N.
        rate: Share of what is known that every step forgets, in (0, 1].
        exploration: Factor on the confidence width; 0 always takes what has paid best.

    Raises:
        UserError: An argument is out of range.
    """

    def __init__(self, choices: int, *, rate: float, exploration: float) -> None:
        if choices < 1 or not 0.0 < rate <= 1.0 or exploration < 0.0:
            raise UserError(
                f"a bandit over modules needs choices >= 1, 0 < rate <= 1 and exploration >= 0, got {choices}, {rate} "
                f"and {exploration}"
            )
        self._keep, self._exploration = 1.0 - rate, exploration
        self._counts, self._sums, self._squares = ([0.0] * choices for _ in range(3))
        self._cost_ms = [0.0] * choices
        self._last: tuple[int, float] | None = None
        self._used: int | None = None

    def select(self) -> int:
        """First trained module, from 1; what was never tried comes first, the cheapest before the others."""
        for choice in range(len(self._counts), 0, -1):
            if self._counts[choice - 1] == 0.0 and not (self._last is not None and self._last[0] == choice):
                return choice
        bounds = self._bounds()
        return max(range(len(bounds)), key=lambda index: (bounds[index], index)) + 1

    def _bounds(self) -> list[float]:
        total = sum(self._counts)
        if total == 0.0:
            return [0.0] * len(self._counts)
        size = math.sqrt(sum(self._squares) / total)
        logarithm = math.log(max(total, 1.0)) + 1.0
        bounds = []
        for count, summed in zip(self._counts, self._sums, strict=True):
            known = max(count, 1e-9)
            bounds.append(summed / known + self._exploration * size * math.sqrt(logarithm / known))
        return bounds

    def update(self, loss: float) -> None:
        """Takes the loss of the step that used what `select` answered; one that is not finite says nothing."""
        if not math.isfinite(loss):
            return
        used = self.select()
        if self._last is not None:
            choice, before = self._last
            price_ms = self._cost_ms[choice - 1] or 1.0
            reward = (before - loss) / max(abs(before), 1e-9) / price_ms
            for values in (self._counts, self._sums, self._squares):
                values[:] = [self._keep * value for value in values]
            self._counts[choice - 1] += 1.0
            self._sums[choice - 1] += reward
            self._squares[choice - 1] += reward * reward
        self._last = (used, loss)
        self._used = used

    def note_cost(self, ms: float) -> None:
        """What the step cost whose loss `update` took last, in milliseconds; smoothed a choice."""
        if self._used is None or ms <= 0.0:
            return
        known = self._cost_ms[self._used - 1]
        self._cost_ms[self._used - 1] = ms if known == 0.0 else known + 0.25 * (ms - known)

    def state_dict(self) -> dict[str, Any]:
        """Everything that later choices depend on, in plain numbers and lists."""
        return {
            "counts": list(self._counts), "sums": list(self._sums), "squares": list(self._squares),
            "cost_ms": list(self._cost_ms), "last": None if self._last is None else list(self._last),
            "used": self._used,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict` of as many choices.

        Raises:
            UserError: If the number of choices differs.
        """
        if len(state["counts"]) != len(self._counts):
            raise UserError(f"scope state has {len(state['counts'])} modules, the network has {len(self._counts)}")
        self._counts, self._sums = list(state["counts"]), list(state["sums"])
        self._squares, self._cost_ms = list(state["squares"]), list(state["cost_ms"])
        self._last = None if state["last"] is None else (int(state["last"][0]), float(state["last"][1]))
        self._used = state["used"]
