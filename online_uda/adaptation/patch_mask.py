"""Patches of a frame painted over, for a student that has to say what is there from what is around."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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


def ambiguous_patches(
    frames: Tensor, share: float, patch: int, fill: Tensor, probabilities: Tensor
) -> tuple[Tensor, Tensor]:
    """Paints over the patches of which the teacher is least sure (RODASS's ambiguous patches, arXiv 2409.01072).

    Args:
        frames: ``(1, 3, H, W)``.
        share: Of the patches; at least one, where it is above 0.
        patch: Side in pixels.
        fill: ``(1, 3, 1, 1)`` colour.
        probabilities: ``(1, C, h, w)`` of the teacher.

    Returns:
        As `masked_patches`.
    """
    height, width = (int(side) for side in frames.shape[-2:])
    rows, columns = -(-height // patch), -(-width // patch)
    doubt = F.adaptive_avg_pool2d(1.0 - probabilities.amax(1, keepdim=True), (rows, columns)).flatten()
    count = min(len(doubt), max(1, round(share * len(doubt)))) if share > 0.0 else 0
    cells = torch.zeros_like(doubt, dtype=torch.bool)
    cells[doubt.topk(count).indices] = True
    hidden = cells.view(rows, columns).repeat_interleave(patch, 0).repeat_interleave(patch, 1)[:height, :width]
    return torch.where(hidden, fill.to(frames), frames), hidden
