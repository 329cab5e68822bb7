"""Patches of a frame painted over, for a student that has to say what is there from what is around."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_patches(
    frames: Tensor, share: float, patch: int, fill: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Paints over square patches, each with probability ``share``.

    Args:
        frames: ``(1, 3, H, W)``.
        share: Of the patches.
        patch: Side in pixels; patches at the right and lower border may be smaller.
        fill: ``(1, 3, 1, 1)`` colour.
        generator: CPU generator.

    Returns:
        The masked frames, and ``(H, W)`` bool, true where something is hidden.
    """
    height, width = (int(side) for side in frames.shape[-2:])
    cells = torch.rand(-(-height // patch), -(-width // patch), generator=generator) < share
    hidden = cells.repeat_interleave(patch, 0).repeat_interleave(patch, 1)[:height, :width].to(frames.device)
    return torch.where(hidden, fill.to(frames), frames), hidden
