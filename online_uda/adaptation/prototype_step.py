"""OnDA's objective: labels of a prior weighed by the distance to class prototypes, in symmetric cross-entropy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from online_uda.adaptation.frame_pass import FramePass
from online_uda.adaptation.objectives.soft import confidence_regulariser, exact, reverse_cross_entropy
from online_uda.adaptation.pieces import Pieces
from online_uda.adaptation.prior_switch import PriorSwitch
from online_uda.adaptation.prototypes import Prototypes, divergence, labels_on
from online_uda.adaptation.settings.objectives import PrototypeSettings
from online_uda.adaptation.strong_view import StrongViews
from online_uda.adaptation.views import Answer
from streams.frame import IGNORE_ID


class PrototypeStep:
    """Gradients of OnDA's loss on the frame; the labelled source images are another objective.

    Args:
        settings: The objective.
        run: How the student runs on the frame.
        teacher: Gives features, and the dynamic prior.
        source: Gives the static prior.
        images: Source images that the prototypes start on.
        num_classes: C.
    """

    def __init__(
        self,
        settings: PrototypeSettings,
        run: FramePass,
        *,
        teacher: Answer,
        source: Answer,
        images: Iterable[Tensor],
        num_classes: int,
    ) -> None:
        self._settings, self._run, self._teacher, self._source = settings, run, teacher, source
        self.prototypes = Prototypes(
            source, images, num_classes, settings.rate, settings.min_cells, spread=settings.spread
        )
        self._strong = None if settings.strong is None else StrongViews(settings.strong, run.student.get_buffer("mean"))
        self._switch = PriorSwitch(settings.window, settings.gray, settings.slope)

    def pieces(self, frames: Tensor) -> Pieces[float | None]:
        """See `FrameObjective.pieces`.

        Args:
            frames: ``(1, 3, H, W)`` float32 RGB in [0, 1].
        """
        slot = self._settings
        yield "prototype.teacher"
        taught = self._teacher(frames)
        yield "prototype.source"
        static = exact(self._source(frames).logits).softmax(1)
        dynamic = slot.prior == "dynamic"
        if slot.prior == "switch":
            dynamic = self._switch.update(static.amax(1).mean().item())
        prior = exact(taught.logits).softmax(1) if dynamic else static
        yield "prototype.label"
        features = exact(taught.features[-1])
        weights = self.prototypes.weights(features, slot.temperature)
        q = F.interpolate(weights, prior.shape[-2:], mode="bilinear", align_corners=False) * prior
        q = q / q.sum(1, keepdim=True).clamp(min=torch.finfo(q.dtype).tiny)
        sure, labels = q.max(1)
        labels = torch.where(sure > slot.confidence, labels, torch.full_like(labels, IGNORE_ID))
        self.prototypes.update(features, labels_on(q, features))
        if not (labels != IGNORE_ID).any():
            return None
        seen, near = frames, self.prototypes.weights(features, slot.temperature)
        if self._strong is not None:
            yield "prototype.strong"
            view = self._strong.draw(frames, self._run.generator)
            q, valid = view.replay(q, taught.padded)
            sure, labels = q.max(1)
            labels = torch.where((sure > slot.confidence) & valid, labels, torch.full_like(labels, IGNORE_ID))
            near, _ = view.replay(near, taught.padded)
            seen = view.images
        passed = yield from self._run.forward(seen, "prototype")
        yield "prototype.loss"
        loss = self._loss(exact(passed.output.logits), labels)
        if slot.consistency > 0.0:
            own = self.prototypes.log_weights(exact(passed.output.features[-1]), slot.temperature)
            loss = loss + slot.consistency * divergence(near, own)
        yield from self._run.backward(passed, slot.weight * loss, "prototype")
        return loss.item()

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        slot = self._settings
        return (
            slot.cross_entropy * F.cross_entropy(logits, labels, ignore_index=IGNORE_ID)
            + slot.reverse * reverse_cross_entropy(logits, labels)
            + slot.regular * confidence_regulariser(logits)
        )

    def forget(self) -> None:
        """See `FrameObjective.forget`."""
        self.prototypes.forget()

    def state_dict(self) -> dict[str, Any]:
        """Prototypes and switch."""
        return {"prototypes": self.prototypes.state_dict(), "switch": self._switch.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self.prototypes.load_state_dict(state["prototypes"])
        self._switch.load_state_dict(state["switch"])
