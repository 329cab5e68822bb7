"""A strongly changed view of a frame whose geometry is replayed on labels (ProDA's weak and strong views)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from online_uda.adaptation.affine import AffineView, random_view, warp
from online_uda.adaptation.photometric import PhotometricAugmentation
from online_uda.adaptation.replay.rare_class import draw_below
from online_uda.adaptation.settings.labels import StrongSettings


@dataclass(frozen=True, slots=True)
class StrongView:
    """What the student sees, and how to bring the teacher's answers there.

    Attributes:
        images: ``(1, 3, H, W)``, warped, recoloured and with a hole.
        view: Where it lies in the frame.
        size: Height and width of the frame.
    """

    images: Tensor
    view: AffineView
    size: tuple[int, int]

    def replay(self, answers: Tensor, padded: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """``(1, D, h, w)`` of the frame as seen from the view, and ``(h, w)`` bool, where the view shows the frame.

        Args:
            answers: Probabilities or features on a grid over the padded frame.
            padded: Height and width that the grid spans, in pixels.
        """
        return warp(answers, self.view.matrix, self.size, padded)


class StrongViews:
    """Draws strong views.

    Args:
        settings: How strong.
        fill: ``(1, 3, 1, 1)`` colour of the hole.
    """

    def __init__(self, settings: StrongSettings, fill: Tensor) -> None:
        self._settings, self._fill = settings, fill
        strength = settings.jitter_strength
        self._augment = PhotometricAugmentation(
            strength, strength, strength, min(strength, 0.5), 1.0, settings.blur_probability
        )

    def draw(self, frames: Tensor, generator: torch.Generator) -> StrongView:
        """A view of ``frames`` (1, 3, H, W)."""
        slot, size = self._settings, (int(frames.shape[-2]), int(frames.shape[-1]))
        view = random_view(size, slot.zoom, slot.angle, slot.flip, generator)
        images = self._augment(warp(frames, view.matrix, size, size)[0], generator)
        height, width = (max(1, round(side * slot.cutout)) for side in size)
        if slot.cutout > 0.0:
            top, left = draw_below(size[0] - height + 1, generator), draw_below(size[1] - width + 1, generator)
            images = images.clone()
            images[..., top : top + height, left : left + width] = self._fill.to(images)
        return StrongView(images, view, size)
