"""Weights between the source network's and what was learned, where the stream has come nearer than it was.

    theta = theta_source + s (theta_learned - theta_source)
    s = 1 where d >= f D, else max(0, (d - n) / (f D - n))

at distance d, of which 1 is the limit of the source domain, and D the largest one since the stream left that domain or
weights were recalled that fit where it is.
Between a network and what was fine-tuned from it lie networks that do well where either does (WiSE-FT: Wortsman et al.,
CVPR 2022). What a storm has taught costs in the drizzle after it; so that is answered with a part of it. Learning goes
on with the whole: the next storm need not begin anew.

A predictor with memory of its own has the share of the last publication, which follows every step and every rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from online_uda.adaptation.settings import EnsembleSettings
from online_uda.adaptation.stand_in import standing_in
from online_uda.adaptation.trigger.base import Decision


class DistanceEnsemble:
    """Puts the weights between in the place of the learned ones while a frame is answered or weights are published.

    Args:
        settings: n and f.
        learned: Parameters of the deployed network that learning moves.
        home: Values of the source network, in the same order.
    """

    def __init__(self, settings: EnsembleSettings, learned: Sequence[Tensor], home: Sequence[Tensor]) -> None:
        self._settings, self._learned, self._home = settings, list(learned), list(home)
        self._distance, self._furthest, self._far = 0.0, 0.0, False
        self.share = 1.0
        """Share of what was learned that answers at present, in [0, 1]."""

    def watch(self, decision: Decision) -> None:
        """Takes what the trigger said to a frame; where nothing tells a distance, the share stays."""
        if decision.distance is None:
            return
        leaves = decision.far and not self._far
        self._distance, self._far = decision.distance, decision.far
        self._furthest = self._distance if leaves else max(self._furthest, self._distance)
        self._weigh()

    def settle(self) -> None:
        """Weights were recalled that fit where the stream is: all of them answer."""
        self._furthest = self._distance
        self._weigh()

    def _weigh(self) -> None:
        near, all_from = self._settings.near, self._settings.full * self._furthest
        if self._distance >= all_from:
            self.share = 1.0
        else:
            self.share = (self._distance - near) / (all_from - near) if self._distance > near else 0.0

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Inside, the parameters have the values between; afterwards their own again, to the bit."""
        if self.share == 1.0 or not self._learned:
            yield
            return
        with torch.no_grad():
            between = self._home if self.share == 0.0 else torch._foreach_lerp(self._home, self._learned, self.share)
        with standing_in(between, self._learned):
            yield

    def state_dict(self) -> dict[str, Any]:
        """How far the stream is and has been."""
        return {"distance": self._distance, "furthest": self._furthest, "far": self._far}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self._distance, self._furthest = float(state["distance"]), float(state["furthest"])
        self._far = bool(state["far"])
        self._weigh()
