"""MAD's choice of the one module that learns: drawn by how much training it has helped (Tonioni et al. 2019).

``h <- decay h``; the score of the module trained last gains ``(1 - decay)`` times how far the loss lies below the line
through the two before it; the next is drawn from ``softmax(h)`` (specs/methods.md 3, MAD).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch

Draw = Literal["sample", "random", "round_robin", "best"]


class ModuleLottery:
    """Chooses one module for every step.

    Args:
        modules: How many there are.
        decay: Of the scores.
        draw: ``sample`` from the softmax of the scores, ``random`` evenly, ``round_robin``, or the ``best``.
        generator: CPU generator of its own.
    """

    def __init__(self, modules: int, decay: float, draw: Draw, generator: torch.Generator) -> None:
        self._decay, self._draw, self._generator = decay, draw, generator
        self.scores = [0.0] * modules
        self._losses: list[float] = []
        self._chosen = 1
        self._blamed: int | None = None
        self._steps = 0

    def select(self) -> int:
        """Number, from 1, of the module that the coming step trains; a new draw at every call."""
        count = len(self.scores)
        if self._draw == "round_robin":
            self._chosen = self._steps % count + 1
        elif self._draw == "best":
            self._chosen = max(range(count), key=lambda i: (self.scores[i], -i)) + 1
        else:
            scores = self.scores if self._draw == "sample" else [0.0] * count
            weights = torch.tensor(scores, dtype=torch.float64).softmax(0)
            self._chosen = int(torch.multinomial(weights, 1, generator=self._generator)) + 1
        return self._chosen

    def update(self, loss: float) -> None:
        """Takes the loss of the step that trained what `select` gave; one that is not finite says nothing."""
        if not math.isfinite(loss):
            return
        before_last, last = [loss, loss, *self._losses][-2:]
        self.scores = [self._decay * score for score in self.scores]
        if self._blamed is not None:
            self.scores[self._blamed - 1] += (1.0 - self._decay) * ((2.0 * last - before_last) - loss)
        self._losses = [last, loss] if self._losses else [loss, loss]
        self._blamed = self._chosen
        self._steps += 1

    def state_dict(self) -> dict[str, Any]:
        """Scores, losses, and the generator."""
        return {
            "scores": list(self.scores), "losses": list(self._losses), "blamed": self._blamed, "steps": self._steps,
            "chosen": self._chosen, "generator": self._generator.get_state(),
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self.scores, self._losses = list(state["scores"]), list(state["losses"])
        self._blamed, self._steps, self._chosen = state["blamed"], int(state["steps"]), int(state["chosen"])
        self._generator.set_state(state["generator"].cpu())
