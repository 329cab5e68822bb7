"""Weights between the source network's and what was learned, by how far the stream is from the source.

    theta = theta_source + s (theta_learned - theta_source),    s = clip((d - low) / (high - low), 0, 1)

at distance d, of which 1 is the limit of the source domain. Between a network and what was fine-tuned from it lie
networks that do well where either does (WiSE-FT: Wortsman et al., CVPR 2022). What a storm has taught costs in drizzle;
so drizzle is answered with a part of it. Learning goes on with the whole: the next storm need not begin anew.

A predictor with memory of its own has the share of the last publication, which follows every step and every rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from online_uda.adaptation.trigger.base import Decision


class DistanceEnsemble:
    """Puts the weights between in the place of the learned ones while a frame is answered or weights are published.

    Args:
        span: Distances, growing, at which nothing and all of what was learned answers.
        learned: Parameters of the deployed network that learning moves.
        home: Values of the source network, in the same order.
    """

    def __init__(self, span: tuple[float, float], learned: Sequence[Tensor], home: Sequence[Tensor]) -> None:
        self._span, self._learned, self._home = span, list(learned), list(home)
        self.share = 0.0
        """Share of what was learned that answers at present, in [0, 1]."""

    def watch(self, decision: Decision) -> None:
        """Takes what the trigger said to a frame; where nothing tells a distance, the share stays."""
        if decision.distance is not None:
            low, high = self._span
            self.share = min(max((decision.distance - low) / (high - low), 0.0), 1.0)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Inside, the parameters have the values between; afterwards their own again, to the bit."""
        if self.share == 1.0 or not self._learned:
            yield
            return
        kept = [parameter.data for parameter in self._learned]
        with torch.no_grad():
            between = self._home if self.share == 0.0 else torch._foreach_lerp(self._home, kept, self.share)
        for parameter, value in zip(self._learned, between, strict=True):
            parameter.data = value
        try:
            yield
        finally:
            for parameter, value in zip(self._learned, kept, strict=True):
                parameter.data = value

    def state_dict(self) -> dict[str, Any]:
        """The share."""
        return {"share": self.share}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self.share = float(state["share"])
