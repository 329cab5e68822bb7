"""GTTA: replayed images take on the stream's look class by class, and sure pixels of the frame teach themselves.

Doebler et al. 2022; specs/methods.md 3. Published, the moments are those of VGG features and a decoder paints them;
here they are those of the colour channels, so that no further network is needed (AdaIN: Huang & Belongie 2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from online_uda.adaptation.frame_pass import FramePass
from online_uda.adaptation.objectives.cross_entropy import cross_entropy
from online_uda.adaptation.pieces import Pieces
from online_uda.adaptation.settings.memory import TransferSettings
from streams.frame import IGNORE_ID

SMALLEST_SPREAD = 1e-3


def class_moments(images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and standard deviation of the channels of each class, and its pixels.

    Args:
        images: ``(B, 3, H, W)``.
        labels: ``(B, H, W)`` int64, 255 = left out.
        num_classes: C.

    Returns:
        ``(C, 3)``, ``(C, 3)`` and ``(C,)``; 0 for absent classes.
    """
    inside = labels != IGNORE_ID
    pixels, ids = images.movedim(1, -1)[inside], labels[inside]
    counts = torch.bincount(ids, minlength=num_classes).to(pixels.dtype)
    share = counts.clamp(min=1.0)[:, None]
    mean = torch.zeros(num_classes, 3, dtype=pixels.dtype, device=pixels.device).index_add_(0, ids, pixels) / share
    power = torch.zeros_like(mean).index_add_(0, ids, (pixels - mean[ids]).square()) / share
    return mean, power.sqrt(), counts


def transferred(images: Tensor, labels: Tensor, mean: Tensor, spread: Tensor, known: Tensor) -> Tensor:
    """Class-wise AdaIN: every pixel of a known class is moved from its class's moments in ``images`` to those given.

    Args:
        images: ``(B, 3, H, W)`` in [0, 1].
        labels: ``(B, H, W)`` int64.
        mean: ``(C, 3)``.
        spread: ``(C, 3)`` standard deviations.
        known: ``(C,)`` bool; pixels of other classes stay.
    """
    own_mean, own_spread, _ = class_moments(images, labels, len(known))
    inside = labels != IGNORE_ID
    ids = labels.masked_fill(~inside, 0)
    lookup = [part[ids].movedim(-1, 1) for part in (own_mean, own_spread.clamp(min=SMALLEST_SPREAD), mean, spread)]
    moved = (images - lookup[0]) / lookup[1] * lookup[3] + lookup[2]
    return torch.where((inside & known[ids]).unsqueeze(1), moved.clamp(0.0, 1.0), images)


class TransferStep:
    """Gradients on restyled source images and on the frame's sure pixels.

    Args:
        settings: The objective.
        run: How the student runs on the stream's frame.
        on_source: How it runs on replayed images.
        num_classes: C.
    """

    def __init__(self, settings: TransferSettings, run: FramePass, on_source: FramePass, num_classes: int) -> None:
        self._settings, self._run, self._on_source, self._classes = settings, run, on_source, num_classes
        self._confidence: float | None = None
        self._moments: tuple[Tensor, Tensor, Tensor] | None = None

    def pieces(self, frames: Tensor, images: Tensor, labels: Tensor) -> Pieces[float]:
        """Adds the gradients of the weighted loss; gives it unweighted.

        Args:
            frames: ``(1, 3, H, W)`` of the stream.
            images: ``(B, 3, h, w)`` of the source.
            labels: ``(B, h, w)`` int64 of the source.
        """
        slot = self._settings
        passed = yield from self._run.forward(frames, "transfer.stream")
        yield "transfer.labels"
        logits = passed.output.full()
        with torch.no_grad():
            sure, pseudo = logits.softmax(1).max(1)
            mean = sure.mean().item()
            before = mean if self._confidence is None else self._confidence
            self._confidence = before + slot.rate * (mean - before)
            pseudo = torch.where(sure >= self._confidence**0.5, pseudo, torch.full_like(pseudo, IGNORE_ID))
            self._remember(*class_moments(frames, pseudo, self._classes))
        loss = F.cross_entropy(logits, pseudo, ignore_index=IGNORE_ID, reduction="sum") / max(
            int((pseudo != IGNORE_ID).sum()), 1
        )
        total = slot.of_frame * loss.item()
        yield from self._run.backward(passed, slot.weight * slot.of_frame * loss, "transfer.stream")
        assert self._moments is not None
        dressed = transferred(images, labels, *self._moments)
        passed = yield from self._on_source.forward(dressed, "transfer.source")
        yield "transfer.loss"
        loss = cross_entropy(passed.output.full(), labels)
        yield from self._on_source.backward(passed, slot.weight * loss, "transfer.source")
        return total + loss.item()

    def _remember(self, mean: Tensor, spread: Tensor, counts: Tensor) -> None:
        """Running moments of the classes that the frame shows for sure."""
        shown = counts >= self._settings.min_pixels
        if self._moments is None:
            self._moments = mean, spread, shown
            return
        old_mean, old_spread, known = self._moments
        first = (shown & ~known)[:, None]
        rate = torch.where(first, torch.ones_like(mean), torch.full_like(mean, self._settings.rate))
        rate = rate * shown[:, None]
        self._moments = old_mean.lerp(mean, rate), old_spread.lerp(spread, rate), known | shown

    def forget(self) -> None:
        """The weights begin anew; what the stream looks like stays known."""
        self._confidence = None

    def state_dict(self) -> dict[str, Any]:
        """Mean confidence and moments."""
        return {"confidence": self._confidence, "moments": self._moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self._confidence = state["confidence"]
        place = next(self._run.student.parameters()).device
        moments = state["moments"]
        self._moments = None if moments is None else tuple(part.to(place) for part in moments)
