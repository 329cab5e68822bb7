"""ROID's objective in pixels: the soft likelihood ratio and the consistency of a recoloured frame, both weighted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from online_uda.adaptation.class_mean import ClassMean
from online_uda.adaptation.frame_pass import FramePass
from online_uda.adaptation.objectives.entropy import pixel_entropy
from online_uda.adaptation.objectives.soft import exact, soft_likelihood_ratio, symmetric_cross_entropy
from online_uda.adaptation.photometric import PhotometricAugmentation
from online_uda.adaptation.pieces import Pieces
from online_uda.adaptation.settings.objectives import LikelihoodSettings


def diversity_certainty_weights(logits: Tensor, mean: Tensor, temperature: float) -> Tensor:
    """Weights ``exp(div * cert / T)`` of pixels, 0 for those less diverse than the average (specs/methods.md 3, ROID).

    ``div`` is 1 minus the cosine to the mean prediction, ``cert`` the negative entropy, each scaled to [0, 1] over the
    pixels (over a batch of one frame the published scaling is 0 / 0).

    Args:
        logits: ``(B, C, H, W)``.
        mean: ``(C,)`` running mean of the prediction.
        temperature: T.

    Returns:
        ``(B, H, W)``.
    """
    p = exact(logits).softmax(1)
    diversity = _unit(1.0 - torch.nn.functional.cosine_similarity(p, mean.to(p).view(1, -1, 1, 1), dim=1))
    weights = torch.exp(diversity * _unit(-pixel_entropy(logits)) / temperature)
    return torch.where(diversity < diversity.mean(), torch.zeros_like(weights), weights)


def _unit(values: Tensor) -> Tensor:
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp(min=1e-8)


class LikelihoodStep:
    """Gradients of the weighted soft likelihood ratio and of the consistency.

    Args:
        settings: The objective.
        run: How the student runs on the frame.
        num_classes: C; the mean prediction starts even.
    """

    def __init__(self, settings: LikelihoodSettings, run: FramePass, num_classes: int) -> None:
        self._settings, self._run, self._classes = settings, run, num_classes
        self._mean = ClassMean(settings.rate)
        strength = settings.jitter_strength
        self._augment = PhotometricAugmentation(
            strength, strength, strength, min(strength, 0.5), 1.0, settings.blur_probability
        )

    def pieces(self, frames: Tensor) -> Pieces[float | None]:
        """See `FrameObjective.pieces`.

        Args:
            frames: ``(1, 3, H, W)`` float32 RGB in [0, 1].
        """
        slot = self._settings
        passed = yield from self._run.forward(frames, "likelihood")
        yield "likelihood.loss"
        logits = passed.output.logits
        weights = self._weights(logits.detach())
        loss = (weights * soft_likelihood_ratio(logits, slot.clip)).mean()
        value, taught = loss.item(), logits.detach()
        yield from self._run.backward(passed, slot.weight * loss, "likelihood")
        if slot.consistency > 0.0:
            passed = yield from self._run.forward(self._augment(frames, self._run.generator), "consistency")
            yield "consistency.loss"
            loss = slot.consistency * (weights * symmetric_cross_entropy(passed.output.logits, taught)).mean()
            value += loss.item()
            yield from self._run.backward(passed, slot.weight * loss, "consistency")
        return value

    @torch.no_grad()
    def _weights(self, logits: Tensor) -> Tensor:
        p = exact(logits).softmax(1)
        mean = self._mean.mean
        if mean is None:
            mean = torch.full_like(p[0, :, 0, 0], 1.0 / self._classes)
            self._mean.update(mean)
        weights = diversity_certainty_weights(logits, mean, self._settings.temperature)
        self._mean.update(p.mean((0, 2, 3)))
        return weights

    def forget(self) -> None:
        """See `FrameObjective.forget`."""
        self._mean.forget()

    def state_dict(self) -> dict[str, Any]:
        """The mean prediction."""
        return self._mean.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self._mean.load_state_dict(state)
