"""Entropy of predictions as a loss: TENT's mean, ETA's filter and weights, and a balance over predicted classes.

TENT: Wang et al. 2021; ETA / EATA: Niu et al. 2022 (specs/methods.md, section 3). Filters and weights get no gradient:
it runs through the entropies alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def pixel_entropy(logits: Tensor) -> Tensor:
    """Shannon entropy in nats of every pixel: ``(B, C, H, W)`` logits to ``(B, H, W)`` in [0, ln C]."""
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)


def class_balance_weights(predicted: Tensor, kept: Tensor, num_classes: int, strength: float) -> Tensor:
    """Weights that raise rare predicted classes: proportional to ``frequency ** -strength``, mean 1 over kept pixels.

    Args:
        predicted: ``(B, H, W)`` int64 predicted classes.
        kept: ``(B, H, W)`` bool, pixels that count; the others get weight 0.
        num_classes: Number of classes C.
        strength: 0 leaves all pixels alike, 1 gives every predicted class the same total weight.
    """
    ids = predicted.flatten()
    inside = kept.flatten().to(torch.float64)
    pixels = torch.zeros(num_classes, dtype=torch.float64, device=ids.device).scatter_add_(0, ids, inside)
    per_class = torch.where(pixels > 0, pixels.clamp(min=1.0) ** -strength, pixels)
    total = (per_class * pixels).sum()
    scale = pixels.sum() / total.clamp(min=torch.finfo(torch.float64).tiny)
    return ((per_class * scale)[ids] * inside).view_as(predicted)


def entropy_loss(
    logits: Tensor,
    *,
    normalised: bool = False,
    max_entropy: float | None = None,
    eta_weighting: bool = False,
    class_balance: float = 0.0,
) -> Tensor:
    """Mean entropy over pixels, by default TENT's; `selected_entropy` says what the options do.

    Args:
        logits: ``(B, C, H, W)`` float.
        normalised: Divide by ln C, so that the loss lies in [0, 1] whatever the number of classes.
        max_entropy: See `selected_entropy`.
        eta_weighting: See `selected_entropy`.
        class_balance: See `selected_entropy`.

    Returns:
        Scalar mean of weight times entropy over the kept pixels; exactly 0 with zero gradient if none is kept.
    """
    loss, _ = selected_entropy(
        logits, max_entropy=max_entropy, eta_weighting=eta_weighting, class_balance=class_balance
    )
    return loss / math.log(logits.shape[1]) if normalised else loss


def selected_entropy(
    logits: Tensor,
    *,
    max_entropy: float | None = None,
    eta_weighting: bool = False,
    reference: float | None = None,
    class_balance: float = 0.0,
    among: Tensor | None = None,
    drop: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean weighted entropy over the pixels that pass, and which these are.

    Args:
        logits: ``(B, C, H, W)`` float.
        max_entropy: Leave out pixels whose entropy reaches this share of ln C; ETA's E0 is 0.4. None keeps all.
        eta_weighting: Weight kept pixels by ``exp(E0 - H)`` in nats, so that surer ones count more.
        reference: E0 of the weights as a share of ln C; None is ``max_entropy``.
        class_balance: Strength in [0, 1] of `class_balance_weights` over the kept pixels.
        among: ``(B, H, W)`` bool, the only pixels that may be kept; None is all.
        drop: ``(B, H, W)`` fall of each pixel's probability under a shuffle (DeYO's PLPD, Lee et al. 2024), whose
            ``exp`` is added to the weights.

    Returns:
        Scalar, exactly 0 with zero gradient if nothing is kept, and ``(B, H, W)`` bool. No gradient runs through
        filters and weights.

    Raises:
        ValueError: If ``eta_weighting`` is asked for without ``max_entropy``, which is its E0.
    """
    if eta_weighting and max_entropy is None:
        raise ValueError("eta_weighting needs max_entropy, the E0 of its weights (ETA: 0.4)")
    num_classes = logits.shape[1]
    entropy = pixel_entropy(logits)
    with torch.no_grad():
        kept = torch.ones_like(entropy, dtype=torch.bool) if among is None else among
        if max_entropy is not None:
            kept = kept & (entropy < max_entropy * math.log(num_classes))
        weights = kept.to(entropy)
        if eta_weighting:
            assert max_entropy is not None
            zero = (max_entropy if reference is None else reference) * math.log(num_classes)
            sure = torch.exp(zero - entropy)
            weights = weights * (sure if drop is None else sure + drop.exp())
        elif drop is not None:
            weights = weights * drop.exp()
        if class_balance > 0.0:
            balance = class_balance_weights(logits.argmax(dim=1), kept, num_classes, class_balance)
            weights = weights * balance.to(entropy)
    return (weights * entropy).sum() / kept.sum().clamp(min=1), kept
