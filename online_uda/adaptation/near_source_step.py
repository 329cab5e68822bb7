"""Self-distillation: the student's maps stay near the source network's on the same frame (EcoTTA's regulariser).

Song et al. 2023; specs/methods.md 3. Published, each block of the side nets is compared with the frozen block on the
same input; here with the source network's own map, which the frame has anyway where that network is run beside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from online_uda.adaptation.frame_pass import FramePass
from online_uda.adaptation.objectives.soft import exact
from online_uda.adaptation.pieces import Pieces
from online_uda.adaptation.settings.memory import NearSourceSettings
from online_uda.adaptation.views import Answer


class NearSourceStep:
    """Gradients of the distance between the maps of student and source network.

    Args:
        settings: The objective.
        run: How the student runs on the frame.
        source: The source network.
    """

    def __init__(self, settings: NearSourceSettings, run: FramePass, source: Answer) -> None:
        self._settings, self._run, self._source = settings, run, source

    def pieces(self, frames: Tensor) -> Pieces[float | None]:
        """See `FrameObjective.pieces`.

        Args:
            frames: ``(1, 3, H, W)`` float32 RGB in [0, 1].
        """
        yield "near_source.anchors"
        anchors = self._source(frames).features
        passed = yield from self._run.forward(frames, "near_source")
        yield "near_source.loss"
        terms = []
        for own, anchor in zip(passed.output.features, anchors, strict=True):
            apart = exact(own) - exact(anchor)
            terms.append(apart.abs().mean() if self._settings.distance == "l1" else apart.square().mean())
        loss = torch.stack(terms).sum()
        if not loss.requires_grad:
            return None
        yield from self._run.backward(passed, self._settings.weight * loss, "near_source")
        return loss.item()

    def forget(self) -> None:
        """See `FrameObjective.forget`: nothing is kept."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""
