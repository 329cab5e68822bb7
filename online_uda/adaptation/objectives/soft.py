"""Cross-entropies against soft labels, and the soft likelihood ratio: losses a pixel, from logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from streams.frame import IGNORE_ID


def exact(logits: Tensor) -> Tensor:
    """At least float32."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """``-sum_c q_c log p_c``: ``(B, C, H, W)`` logits and probabilities q to ``(B, H, W)``."""
    return -(target * exact(logits).log_softmax(1)).sum(1)


def symmetric_cross_entropy(logits: Tensor, other: Tensor) -> Tensor:
    """Half of the cross-entropy of p against q and half of that of q against p (specs/methods.md 3, RMT, ROID).

    Args:
        logits: ``(B, C, H, W)`` of p.
        other: ``(B, C, H, W)`` logits of q.

    Returns:
        ``(B, H, W)``.
    """
    log_p, log_q = exact(logits).log_softmax(1), exact(other).log_softmax(1)
    return -0.5 * (log_q.exp() * log_p + log_p.exp() * log_q).sum(1)


def soft_likelihood_ratio(logits: Tensor, clip: float) -> Tensor:
    """``-sum_c p_c log(p_c / (1 - p_c))``, p clipped at ``clip`` (ROID: Marsden et al. 2024): ``(B, H, W)``.

    Where p is clipped it passes no gradient, so that sure pixels do not dominate.
    """
    p = exact(logits).softmax(1).clamp(1.0 - clip, clip)
    return -(p * (p / (1.0 - p)).log()).sum(1)


def reverse_cross_entropy(logits: Tensor, labels: Tensor, smallest: float = 1e-4) -> Tensor:
    """``-sum_c p_c log(one-hot clipped at smallest)``, that is ``-ln(smallest) (1 - p_y)``, over labelled pixels.

    Symmetric cross-entropy: Wang et al. 2019; ProDA (specs/seed-systems.md 6).

    Args:
        logits: ``(B, C, H, W)``.
        labels: ``(B, H, W)`` int64, 255 = ignore.
        smallest: Clip of the one-hot label.

    Returns:
        Scalar mean; 0 where nothing is labelled.
    """
    valid = labels != IGNORE_ID
    p = exact(logits).softmax(1).gather(1, labels.masked_fill(~valid, 0).unsqueeze(1))[:, 0]
    return -math.log(smallest) * ((1.0 - p) * valid).sum() / valid.sum().clamp(min=1)


def confidence_regulariser(logits: Tensor) -> Tensor:
    """``-mean log p`` over classes and all pixels: MRKLD, which keeps predictions from one-hot (Zou et al. 2019).

    Args:
        logits: ``(B, C, H, W)``.
    """
    return -exact(logits).log_softmax(1).mean()
