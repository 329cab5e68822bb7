"""How deep back-propagation goes: HAMLET's modular training as a bandit over network stages, or a fixed depth.

Choosing n trains stages n..N and freezes those before n. The score rewards a choice when the loss after it fell faster
than a linear extrapolation of the losses before, scaled by how fast that choice is (specs/hamlet.md 2.4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from online_uda.errors import UserError

HAMLET_SPEEDS_HZ = (4.21, 4.83, 5.11, 5.73)
"""Training steps per second for n = 1..4 in the released system (one RTX 3090); measure on the device instead."""


def speed_weights(speeds_hz: Sequence[float], temperature: float) -> tuple[float, ...]:
    """Softmax of ``speeds_hz / temperature``: the factor on the gain of each choice."""
    top = max(speeds_hz)
    powers = [math.exp((speed - top) / temperature) for speed in speeds_hz]
    return tuple(power / math.fsum(powers) for power in powers)


def update_scores(
    scores: Sequence[float],
    blamed: int,
    losses: tuple[float, float, float],
    weights: Sequence[float],
    rate: float,
) -> tuple[float, ...]:
    """One step of the score.

    Args:
        scores: Scores h of the choices 1..N.
        blamed: Choice (from 1) of the training step before, whose effect the newest loss shows.
        losses: The losses two steps ago, one step ago, and now.
        weights: Factor on the gain of each choice, `speed_weights`.
        rate: Step size alpha in (0, 1].

    Returns:
        ``(1 - rate) * h``, plus ``rate * weight * gain`` at ``blamed``.
    """
    before_last, last, now = losses
    gain = (2.0 * last - before_last) - now
    decayed = [(1.0 - rate) * score for score in scores]
    decayed[blamed - 1] += rate * weights[blamed - 1] * gain
    return tuple(decayed)


def best_choice(scores: Sequence[float]) -> int:
    """Number (from 1) of the highest score; the lowest number among equals."""
    return max(range(len(scores)), key=lambda i: (scores[i], -i)) + 1


class ScopeSelector:
    """Chooses the first trained stage for every training step.

    Call `select` before a training step and `update` with its mixed loss after it.

    Args:
        policy: ``hamt`` follows the score, ``fixed`` always answers ``fixed_stage``.
        speeds_hz: Training steps per second when stages n..N are trained, for n = 1..N; only their differences
            against ``temperature`` matter. Its length is the number of stages.
        temperature: Divides the speeds in the softmax; larger makes the choices more alike.
        rate: Step size alpha of the score, in (0, 1].
        fixed_stage: First trained stage of the ``fixed`` policy, from 1.

    Raises:
        UserError: If a setting is out of range.
    """

    def __init__(
        self,
        policy: Literal["hamt", "fixed"] = "hamt",
        *,
        speeds_hz: Sequence[float] = HAMLET_SPEEDS_HZ,
        temperature: float = 1.75,
        rate: float = 0.1,
        fixed_stage: int = 1,
    ) -> None:
        if policy not in ("hamt", "fixed"):
            raise UserError(f"scope policy must be 'hamt' or 'fixed', got {policy!r}")
        if not speeds_hz or not all(math.isfinite(speed) and speed > 0.0 for speed in speeds_hz):
            raise UserError(f"speeds_hz must be positive numbers, one a stage, got {list(speeds_hz)}")
        if temperature <= 0.0 or not 0.0 < rate <= 1.0:
            raise UserError(f"scope needs temperature > 0 and 0 < rate <= 1, got {temperature} and {rate}")
        if not 1 <= fixed_stage <= len(speeds_hz):
            raise UserError(f"fixed_stage must lie in 1..{len(speeds_hz)}, got {fixed_stage}")
        self.policy = policy
        self.rate = rate
        self.fixed_stage = fixed_stage
        self.weights = speed_weights(speeds_hz, temperature)
        self.scores = (0.0,) * len(speeds_hz)
        self._losses: tuple[float, float] | None = None
        self._last_used: int | None = None

    def select(self) -> int:
        """First trained stage, from 1, of the next training step. Asking twice gives the same answer."""
        return self.fixed_stage if self.policy == "fixed" else best_choice(self.scores)

    def update(self, loss: float) -> None:
        """Take the mixed loss of the training step that used the stage `select` gave.

        A non-finite loss says nothing about the choice and is left out.
        """
        if not math.isfinite(loss):
            return
        used = self.select()
        before_last, last = self._losses if self._losses is not None else (loss, loss)
        blamed = self._last_used if self._last_used is not None else used
        self.scores = update_scores(self.scores, blamed, (before_last, last, loss), self.weights, self.rate)
        self._losses = (last, loss)
        self._last_used = used

    def state_dict(self) -> dict[str, Any]:
        """Everything that later choices depend on, in plain numbers and lists."""
        return {
            "scores": list(self.scores),
            "losses": None if self._losses is None else list(self._losses),
            "last_used": self._last_used,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict` of a selector with as many stages.

        Raises:
            UserError: If the number of stages differs.
        """
        scores = tuple(float(score) for score in state["scores"])
        if len(scores) != len(self.scores):
            raise UserError(f"scope state has {len(scores)} stages, the network has {len(self.scores)}")
        self.scores = scores
        self._losses = None if state["losses"] is None else (float(state["losses"][0]), float(state["losses"][1]))
        self._last_used = state["last_used"]
