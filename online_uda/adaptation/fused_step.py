"""DA-SAC's objective: the teacher's answers to crops of the frame, fused where they overlap, taught on a noisy crop.

Araslanov & Roth 2021; specs/seed-systems.md 7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from online_uda.adaptation.affine import AffineView, affine_view, random_view, warp
from online_uda.adaptation.frame_pass import FramePass
from online_uda.adaptation.objectives.soft import exact
from online_uda.adaptation.photometric import PhotometricAugmentation
from online_uda.adaptation.pieces import Pieces
from online_uda.adaptation.pseudo_labels.class_adaptive import adaptive_labels, focal_confidence_loss
from online_uda.adaptation.settings.labels import FusedSettings
from online_uda.adaptation.views import Answer
from online_uda.networks.segmenter import Segmentation
from streams.frame import IGNORE_ID


def fused_on_the_frame(answers: Sequence[Segmentation], views: Sequence[AffineView]) -> Tensor:
    """Mean of the probabilities of all views that show a place, on the grid of the frame's logits.

    Args:
        answers: To the views, each of the frame's size.
        views: Where they lie.

    Returns:
        ``(1, C, h, w)``, 0 where no view reaches.
    """
    total = count = None
    for answer, view in zip(answers, views, strict=True):
        found, valid = warp(exact(answer.logits).softmax(1), view.inverse, answer.size, answer.padded)
        inside = valid.to(found)
        total = found * inside if total is None else total + found * inside
        count = inside if count is None else count + inside
    assert total is not None
    assert count is not None
    return total / count.clamp(min=1.0)


class FusedStep:
    """Gradients of the student on one crop, labelled by the fused answers of the teacher.

    Args:
        settings: The objective.
        run: How the student runs on the frame.
        teacher: The average of the student.
    """

    def __init__(self, settings: FusedSettings, run: FramePass, teacher: Answer) -> None:
        self._settings, self._run, self._teacher = settings, run, teacher
        strength = settings.jitter_strength
        self._augment = PhotometricAugmentation(
            strength, strength, strength, min(strength, 0.5), 0.5, settings.blur_probability
        )
        self.prior: Tensor | None = None

    def pieces(self, frames: Tensor) -> Pieces[float | None]:
        """See `FrameObjective.pieces`.

        Args:
            frames: ``(1, 3, H, W)`` float32 RGB in [0, 1].
        """
        slot, size = self._settings, (int(frames.shape[-2]), int(frames.shape[-1]))
        views = [affine_view(size)]
        views += [random_view(size, slot.zoom, 0.0, True, self._run.generator) for _ in range(slot.views - 1)]
        answers, crops = [], []
        for number, view in enumerate(views):
            yield f"fused.teacher.{number}"
            crop = frames if number == 0 else warp(frames, view.matrix, size, size)[0]
            crops.append(crop)
            answers.append(self._teacher(crop))
        yield "fused.label"
        fused = fused_on_the_frame(answers, views)
        prior = self._remember(fused.mean((0, 2, 3)))
        taught = int(torch.randint(len(views), (), generator=self._run.generator))
        here, valid = warp(fused, views[taught].matrix, size, answers[0].padded)
        labels, confidence = adaptive_labels(here, prior, upper=slot.upper, lower=slot.lower, beta=slot.beta)
        labels = torch.where(valid, labels, torch.full_like(labels, IGNORE_ID))
        if not (labels != IGNORE_ID).any():
            return None
        passed = yield from self._run.forward(self._augment(crops[taught], self._run.generator), "fused")
        yield "fused.loss"
        loss = focal_confidence_loss(exact(passed.output.logits), labels, confidence, prior, slot.focal)
        yield from self._run.backward(passed, slot.weight * loss, "fused")
        return loss.item()

    def _remember(self, shares: Tensor) -> Tensor:
        """The running share of every class; the first frame's is taken as it is."""
        self.prior = shares if self.prior is None else self.prior.lerp(shares, self._settings.rate)
        return self.prior

    def forget(self) -> None:
        """See `FrameObjective.forget`."""
        self.prior = None

    def state_dict(self) -> dict[str, Any]:
        """The running shares."""
        return {"prior": self.prior}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        prior, place = state["prior"], next(self._run.student.parameters())
        self.prior = None if prior is None else prior.to(place.device)
