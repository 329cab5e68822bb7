"""Keeps the student's deep features of countable objects near the frozen source network's (specs/hamlet.md 2.8).

The idea is DAFormer's (Hoyer et al. 2022), which anchors on ImageNet features; HAMLET anchors on the source network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def dominated_cells(labels: Tensor, size: tuple[int, int], class_ids: Sequence[int], min_share: float = 0.75) -> Tensor:
    """Feature cells of whose label block one of the given classes fills at least ``min_share``.

    Args:
        labels: ``(B, H, W)`` integer train ids, 255 = ignore.
        size: (h, w) of the feature map; a cell's block is its share of the label's height and width.
        class_ids: Classes that count, such as the thing classes.
        min_share: Share of the block, above 0.5 so that at most one class can fill it.

    Returns:
        ``(B, h, w)`` bool.
    """
    if not class_ids:
        return torch.zeros(len(labels), *size, dtype=torch.bool, device=labels.device)
    wanted = torch.as_tensor(list(class_ids), device=labels.device).view(1, -1, 1, 1)
    shares = F.adaptive_avg_pool2d((labels.unsqueeze(1) == wanted).float(), size)
    return (shares >= min_share).any(dim=1)


def feature_distance(features: Tensor, anchors: Tensor, mask: Tensor) -> Tensor:
    """Mean Euclidean distance between two feature maps over the cells of a mask.

    Args:
        features: ``(B, D, h, w)`` of the student.
        anchors: ``(B, D, h, w)`` of the frozen network; gets no gradient.
        mask: ``(B, h, w)`` bool, cells that count.

    Returns:
        Scalar, not yet scaled (HAMLET's factor is 0.005); exactly 0 with zero gradient for an empty mask.
    """
    difference = features.float() - anchors.detach().float()
    # Masked before the norm, not after: the norm's gradient at 0 is 0, so cells that do not count stay out of it.
    counted = torch.where(mask.unsqueeze(1), difference, torch.zeros_like(difference))
    return torch.linalg.vector_norm(counted, dim=1).sum() / mask.sum().clamp(min=1)
