"""The pull back: learning weights and BatchNorm statistics take linear steps towards the source network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from online_uda.adaptation.norm import NormStatistics
from online_uda.adaptation.settings.student import KalmanSettings
from online_uda.networks.adapters import MARK
from online_uda.networks.segmenter import Segmenter

NEARLY = 1e-5
"""What is left of the way home, in units of a tensor's largest value and one, when its end is taken in one step."""


class Anchor:
    """Holds the source values of what learns.

    Args:
        source: The frozen source network.
        student: What learns, or ``source`` itself where nothing does.
        deployed: Whose weights predict: the student or its average.
        learning: Parameters of the student that may learn, with their names.
        norm: BatchNorm statistics of the student.
        kalman: The filtered way back, if any.
    """

    def __init__(
        self,
        source: Segmenter,
        student: Segmenter,
        deployed: nn.Module,
        learning: list[tuple[str, nn.Parameter]],
        norm: NormStatistics,
        kalman: KalmanSettings | None = None,
    ) -> None:
        anchors = dict(source.named_parameters())
        # What the source does not have (adapters) goes back to where it started, which changes no output.
        self._anchors = [anchors.get(name, parameter).detach().clone() for name, parameter in learning]
        served = dict.fromkeys(f"{name.partition(MARK)[0]}.weight" if MARK in name else name for name, _ in learning)
        averaged = dict(deployed.named_parameters())
        self._averaged: list[nn.Parameter] = [] if deployed is student else [averaged[name] for name in served]
        self._averaged_anchors = [anchors[name].detach().clone() for name in served] if self._averaged else []
        self._student, self._deployed, self._learning, self._norm = student, deployed, learning, norm
        self._fixed = student is source
        self._settled = False
        self._nearly: list[float] = []
        self._kalman = kalman
        self._variance = 0.0
        self.forget()

    @property
    def ways(self) -> tuple[list[Tensor], list[Tensor]]:
        """Parameters of the deployed network that move, and their values at home."""
        if self._averaged:
            return list(self._averaged), self._averaged_anchors
        return [parameter for _, parameter in self._learning], self._anchors

    def away(self, share: float) -> bool:
        """Whether `relax` by ``share`` may still move something."""
        return share > 0.0 and not self._fixed and not self._settled

    def wake(self) -> None:
        """Something is about to be learned or loaded: the weights may leave the source."""
        self._settled = False

    @torch.no_grad()
    def pull(self, share: float) -> bool:
        """Moves the student by ``share`` of the way to the source; tells whether anything could move."""
        if share == 0.0 or self._fixed:
            return False
        if self._learning:
            torch._foreach_lerp_([parameter.data for _, parameter in self._learning], self._anchors, share)
        self._norm.pull(share)
        return bool(self._learning) or self._norm.moves

    @torch.no_grad()
    def restore(self, share: float, generator: torch.Generator) -> None:
        """Puts single weights back to the source's, each with probability ``share`` (CoTTA: Wang et al. 2022)."""
        if share == 0.0 or self._fixed:
            return
        for (_, parameter), anchor in zip(self._learning, self._anchors, strict=True):
            drawn = torch.rand(parameter.shape, generator=generator) < share
            parameter.data.copy_(torch.where(drawn.to(parameter.device), anchor, parameter.data))

    @torch.no_grad()
    def blend(self) -> None:
        """CMF's step of the hidden model, and its blend into the weights; nothing without the slot."""
        slot = self._kalman
        if slot is None or self._fixed or not self._learning:
            return
        weights = [parameter.data for _, parameter in self._learning]
        torch._foreach_lerp_(self._hidden, self._anchors, 1.0 - slot.drift)
        self._variance = slot.drift**2 * self._variance + slot.noise
        observed = 1.0 - slot.noise
        gain = min(max(observed / (self._variance + observed), slot.gain[0]), slot.gain[1])
        torch._foreach_lerp_(self._hidden, weights, 1.0 - gain)
        self._variance *= gain
        torch._foreach_lerp_(weights, self._hidden, 1.0 - slot.blend)

    def forget(self) -> None:
        """The hidden model is the source again."""
        self._hidden = [] if self._kalman is None else [anchor.clone() for anchor in self._anchors]
        self._variance = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The hidden model and its variance."""
        return {"hidden": list(self._hidden), "variance": self._variance}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        for own, saved in zip(self._hidden, state["hidden"], strict=True):
            own.copy_(saved)
        self._variance = float(state["variance"])

    @torch.no_grad()
    def relax(self, share: float) -> bool:
        """`pull`, which takes deployed averaged weights along; free once all are at home, until `wake`.

        A share of the way never ends, so that what is left of it is taken at once when it is as good as nothing.

        Returns:
            Whether a weight or statistic has moved.
        """
        if not self.away(share):
            return False
        now, home = self._moving()
        self._settled = self._nearly_home(now, home)
        if self._settled and all(torch.equal(mine, theirs) for mine, theirs in zip(now, home, strict=True)):
            return False
        share = 1.0 if self._settled else share
        means = [parameter.data for parameter in self._averaged]
        self.pull(share)
        if means:
            torch._foreach_lerp_(means, self._averaged_anchors, share)
        if self._deployed is not self._student:
            for mine, students in zip(self._deployed.buffers(), self._student.buffers(), strict=True):
                mine.copy_(students)
        return True

    def _moving(self) -> tuple[list[Tensor], list[Tensor]]:
        """All that moves, and where it is at home."""
        now = [*(parameter.data for _, parameter in self._learning), *(parameter.data for parameter in self._averaged)]
        return [*now, *self._norm.running()], [*self._anchors, *self._averaged_anchors, *self._norm.source()]

    def _nearly_home(self, now: list[Tensor], home: list[Tensor]) -> bool:
        if not self._nearly:
            self._nearly = [NEARLY * (1.0 + float(theirs.abs().amax())) for theirs in home]
        # One by one: on most of the way the first tensor tells.
        return all(
            bool((mine - theirs).abs_().amax() <= most)
            for mine, theirs, most in zip(now, home, self._nearly, strict=True)
        )
