"""Labels with a threshold for every class, lower for rare ones, and a focal weight (DA-SAC: Araslanov & Roth 2021).

specs/seed-systems.md 7, fixture F8.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from streams.frame import IGNORE_ID


def prior_discount(prior: Tensor, beta: float) -> Tensor:
    """``1 - exp(-chi / beta)`` of every class: near 1, but small for classes rarer than ``beta``."""
    return 1.0 - torch.exp(-prior / beta)


def class_thresholds(probabilities: Tensor, prior: Tensor, *, upper: float, lower: float, beta: float) -> Tensor:
    """``max(lower, upper peak_c (1 - exp(-chi_c / beta)))``, peak the largest probability of a class in an image.

    Args:
        probabilities: ``(B, C, H, W)``.
        prior: ``(C,)`` running share chi of every class.
        upper: Factor on the peak.
        lower: Smallest threshold.
        beta: Share below which a class is rare.

    Returns:
        ``(B, C)``.
    """
    return (upper * probabilities.amax((2, 3)) * prior_discount(prior, beta)).clamp(min=lower)


def adaptive_labels(
    probabilities: Tensor, prior: Tensor, *, upper: float, lower: float, beta: float
) -> tuple[Tensor, Tensor]:
    """The best class where it is likelier than its threshold, and how likely it is.

    Returns:
        ``(B, H, W)`` int64, 255 where no class is, and ``(B, H, W)``.
    """
    thresholds = class_thresholds(probabilities, prior, upper=upper, lower=lower, beta=beta)
    confidence, best = probabilities.max(1)
    wanted = thresholds.gather(1, best.flatten(1)).view_as(best)
    return torch.where(confidence > wanted, best, torch.full_like(best, IGNORE_ID)), confidence


def focal_confidence_loss(logits: Tensor, labels: Tensor, confidence: Tensor, prior: Tensor, power: float) -> Tensor:
    """Mean over all pixels of ``(1 - chi_y)^power`` times the teacher's confidence times the cross-entropy.

    Args:
        logits: ``(B, C, H, W)``.
        labels: ``(B, H, W)`` int64, 255 = no loss.
        confidence: ``(B, H, W)`` of the teacher.
        prior: ``(C,)`` running share of every class.
        power: Of the focal weight.
    """
    each = F.cross_entropy(
        logits, labels, weight=(1.0 - prior).pow(power).to(logits), ignore_index=IGNORE_ID, reduction="none"
    )
    return (each * confidence).mean()
