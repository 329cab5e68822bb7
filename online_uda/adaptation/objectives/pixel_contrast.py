"""Pixel contrast: features of one class together, those of others apart (CLUDA; specs/seed-systems.md 8.1, F10)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from streams.frame import IGNORE_ID


def pixel_contrast(
    features: Tensor,
    labels: Tensor,
    temperature: float = 1.0,
    weights: Tensor | None = None,
    exclude: Sequence[int] = (),
) -> Tensor:
    """InfoNCE over cells: ``-(s_ij - log(exp s_ij + sum_neg exp s_in))``, positives of the anchor's class.

    Args:
        features: ``(B, D, h, w)``; made unit vectors here.
        labels: ``(B, h, w)`` int64 on the same grid, 255 = left out.
        temperature: Divides the cosines s.
        weights: ``(B, h, w)`` trust in the labels; a pair counts by the product of both. None is 1.
        exclude: Classes that are left out, as anchors and as others.

    Returns:
        Scalar mean over anchors that have a positive; 0 where none has.
    """
    cells = F.normalize(features.movedim(1, -1).flatten(0, -2), dim=1)
    ids = labels.flatten()
    counted = ids != IGNORE_ID
    for class_id in exclude:
        counted = counted & (ids != class_id)
    cells, ids = cells[counted], ids[counted]
    similar = cells @ cells.T / temperature
    same = ids[:, None] == ids[None]
    positive = same & ~torch.eye(len(ids), dtype=torch.bool, device=ids.device)
    others = torch.where(same, torch.full_like(similar, -torch.inf), similar).logsumexp(1, keepdim=True)
    terms = torch.logaddexp(similar, others) - similar
    if weights is not None:
        trust = weights.flatten()[counted].to(terms)
        terms = terms * trust[:, None] * trust[None]
    found = positive.sum(1)
    each = torch.where(positive, terms, torch.zeros_like(terms)).sum(1) / found.clamp(min=1)
    return each.sum() / (found > 0).sum().clamp(min=1)


def cell_labels(labels: Tensor, size: tuple[int, int], num_classes: int, min_share: float = 0.5) -> Tensor:
    """The class that fills more than ``min_share`` of each cell's block, else 255.

    Args:
        labels: ``(B, H, W)`` int64, 255 = ignore.
        size: (h, w) of the grid of cells.
        num_classes: C.
        min_share: At least 0.5, so that one class at most can.

    Returns:
        ``(B, h, w)`` int64.
    """
    known = labels != IGNORE_ID
    planes = F.one_hot(labels.masked_fill(~known, 0), num_classes).movedim(-1, 1).float() * known.unsqueeze(1)
    share, ids = F.adaptive_avg_pool2d(planes, size).max(1)
    return torch.where(share > min_share, ids, torch.full_like(ids, IGNORE_ID))
