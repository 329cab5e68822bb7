"""The student learns what its average says of the frame: CoTTA's objective, BECoTTA's filter, masked consistency."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from online_uda.adaptation.frame_pass import FramePass
from online_uda.adaptation.objectives.soft import exact, soft_cross_entropy, symmetric_cross_entropy
from online_uda.adaptation.patch_mask import ambiguous_patches, masked_patches
from online_uda.adaptation.pieces import Pieces
from online_uda.adaptation.settings.objectives import TaughtSettings
from online_uda.adaptation.strong_view import StrongViews
from online_uda.adaptation.views import fused_probabilities, quiet
from online_uda.networks.segmenter import Segmenter, padded_size


class TaughtStep:
    """Gradients of the distance between the student and labels of the teacher.

    Args:
        settings: The objective.
        run: How the student runs on the frame.
        teacher: The average of the student.
        source: The frozen source network.
        of_teacher: Mode of the teacher's norms, and autocast.
        autocast: For the source network.
    """

    def __init__(
        self,
        settings: TaughtSettings,
        run: FramePass,
        *,
        teacher: Segmenter,
        source: Segmenter,
        of_teacher: Callable[[], AbstractContextManager[Any]],
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._settings, self._run = settings, run
        self._teacher = quiet(teacher, of_teacher)
        self._source = quiet(source, autocast)
        self._strong = None if settings.strong is None else StrongViews(settings.strong, run.student.get_buffer("mean"))
        self._divisor = max(64, run.student.divisor)

    def pieces(self, frames: Tensor) -> Pieces[float | None]:
        """See `FrameObjective.pieces`.

        Args:
            frames: ``(1, 3, H, W)`` float32 RGB in [0, 1].
        """
        slot = self._settings
        label = yield from self.label(frames)
        seen, valid = frames, None
        if self._strong is not None:
            view = self._strong.draw(frames, self._run.generator)
            seen = view.images
            size = (int(frames.shape[-2]), int(frames.shape[-1]))
            label, valid = view.replay(label, padded_size(size, self._run.student.divisor))
        if slot.mask is not None:
            fill = self._run.student.get_buffer("mean")
            if slot.mask.where == "ambiguous":
                seen, _ = ambiguous_patches(seen, slot.mask.share, slot.mask.patch, fill, label)
            else:
                seen, _ = masked_patches(seen, slot.mask.share, slot.mask.patch, fill, self._run.generator)
        passed = yield from self._run.forward(seen, "taught")
        yield "taught.loss"
        each = self._distance(passed.output.logits, label)
        loss = each.mean() if valid is None else (each * valid).mean()
        yield from self._run.backward(passed, slot.weight * loss, "taught")
        return loss.item()

    def label(self, frames: Tensor) -> Pieces[Tensor]:
        """Probabilities ``(1, C, h, w)`` that the student is to give (specs/methods.md 3, CoTTA, BECoTTA)."""
        slot = self._settings
        native, mean = yield from fused_probabilities(
            self._teacher, frames, slot.views, self._divisor, "taught.teacher"
        )
        if slot.trust == "views":
            return mean
        yield "taught.anchor"
        anchor = exact(self._source(frames).logits).softmax(1).amax(1, keepdim=True)
        if slot.trust == "anchor":
            return torch.where(anchor > slot.confidence, native, mean)
        own = native.amax(1, keepdim=True)
        return torch.where((own > slot.confidence) & (own >= anchor), native, mean)

    def _distance(self, logits: Tensor, label: Tensor) -> Tensor:
        if self._settings.loss == "symmetric":
            return symmetric_cross_entropy(logits, label.clamp(min=torch.finfo(label.dtype).tiny).log())
        if self._settings.labels == "soft":
            return soft_cross_entropy(logits, label)
        return F.cross_entropy(exact(logits), label.argmax(1), reduction="none")

    def forget(self) -> None:
        """See `FrameObjective.forget`: nothing is kept."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""
