"""Pixel cross-entropy: over all pixels as HAMLET counts, or over the labelled ones, with optional pixel weights."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from streams.frame import IGNORE_ID


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    mean_over: Literal["all", "valid"] = "all",
) -> Tensor:
    """Mean cross-entropy of logits against labels.

    Args:
        logits: ``(B, C, H, W)`` float.
        labels: ``(B, H, W)`` integer train ids; 255 gives no loss and no gradient.
        weights: ``(B, H, W)`` float factors on the loss of each pixel; None is 1 everywhere.
        mean_over: Divide the sum by the number of ``all`` pixels, ignored ones included (HAMLET's L_src and L_mix,
            specs/hamlet.md 2.7 and 2.10), or by that of the ``valid`` ones. Never by the sum of the weights, which
            would undo a confidence weight.

    Returns:
        Scalar; exactly 0 with zero gradient when every pixel is ignored.
    """
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    per_pixel = F.cross_entropy(exact, labels.long(), ignore_index=IGNORE_ID, reduction="none")
    if weights is not None:
        per_pixel = per_pixel * weights
    if mean_over == "all":
        return per_pixel.mean()
    return per_pixel.sum() / (labels != IGNORE_ID).sum().clamp(min=1)
