"""Random views of a frame whose statistics are wanted and whose pixels nobody asks back for."""

from __future__ import annotations

import torch
from torch import Tensor

from online_uda.adaptation.replay.rare_class import draw_below
from online_uda.adaptation.settings import NormSettings


def random_views(frames: Tensor, settings: NormSettings, generator: torch.Generator) -> Tensor:
    """Random crops of a frame, each mirrored half of the time (DUA's small augmented batch, in the size of a scene).

    Args:
        frames: ``(1, 3, H, W)`` float32.
        settings: Number of views, and their share of each side.
        generator: CPU generator.

    Returns:
        ``(views, 3, h, w)``, h and w at least 1.
    """
    height, width = (max(1, round(int(side) * settings.crop)) for side in frames.shape[-2:])
    views = []
    for _ in range(settings.views):
        top = draw_below(int(frames.shape[-2]) - height + 1, generator)
        left = draw_below(int(frames.shape[-1]) - width + 1, generator)
        view = frames[..., top : top + height, left : left + width]
        views.append(view.flip(-1) if draw_below(2, generator) else view)
    return torch.cat(views)
