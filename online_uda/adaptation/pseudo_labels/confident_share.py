"""Pseudo-labels with one weight a batch: the share of pixels the teacher is sure of (specs/hamlet.md 2.7; DACS)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from online_uda.errors import UserError

CONFIDENCE = 0.968
IGNORE_TOP = 15 / 512
IGNORE_BOTTOM = 120 / 512


@dataclass(frozen=True, slots=True)
class PseudoLabels:
    """Labels for unlabelled frames.

    Attributes:
        labels: ``(B, H, W)`` int64 train ids; every pixel has one.
        weights: ``(B, H, W)`` float32 loss weights in [0, 1].
        confident_share: Scalar tensor q, the share of confident pixels in the batch.
    """

    labels: Tensor
    weights: Tensor
    confident_share: Tensor


def row_mask(height: int, ignore_top: float, ignore_bottom: float) -> Tensor:
    """``(height,)`` float32: 0 on the rows at the top and bottom, given as shares of the height, and 1 between."""
    mask = torch.ones(height)
    mask[: int(ignore_top * height + 0.5)] = 0.0
    mask[height - int(ignore_bottom * height + 0.5) :] = 0.0
    return mask


@torch.no_grad()
def confident_share_labels(
    logits: Tensor,
    *,
    threshold: float = CONFIDENCE,
    ignore_top: float = IGNORE_TOP,
    ignore_bottom: float = IGNORE_BOTTOM,
) -> PseudoLabels:
    """Label every pixel with the teacher's best class and weight all by how many pixels it is sure of.

    Args:
        logits: ``(B, C, H, W)`` of the teacher, at full size.
        threshold: A pixel is confident if its largest probability reaches this; in (0, 1].
        ignore_top: Share of the height at the top that gets weight 0 (sky artefacts); 15 rows of 512 by default.
        ignore_bottom: Share of the height at the bottom that gets weight 0 (the car's own bonnet); 120 rows of 512.

    Returns:
        Labels, weights and the confident share q. The share counts all pixels of the batch, ignored rows included.

    Raises:
        UserError: If the threshold or a row share is out of range.
    """
    if not 0.0 < threshold <= 1.0:
        raise UserError(f"pseudo-label threshold must lie in (0, 1], got {threshold}")
    if ignore_top < 0.0 or ignore_bottom < 0.0 or ignore_top + ignore_bottom >= 1.0:
        raise UserError(
            "ignore_top and ignore_bottom must be shares of the height that leave rows between them, got "
            f"{ignore_top} and {ignore_bottom}"
        )
    probability, labels = logits.float().softmax(dim=1).max(dim=1)
    share = (probability >= threshold).float().mean()
    rows = row_mask(logits.shape[-2], ignore_top, ignore_bottom).to(logits.device)
    weights = (share * rows).view(1, -1, 1).expand(labels.shape).contiguous()
    return PseudoLabels(labels=labels, weights=weights, confident_share=share)
