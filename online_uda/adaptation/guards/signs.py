"""Signs of trouble, as pure functions of frames, logits and weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from streams.frame import IGNORE_ID

_DARK, _BRIGHT = 2.5 / 255, 252.5 / 255
_CLIPPED_SHARE = 0.9
_FLAT = 1.0 / 255
_STRIDE = 4


def blank_frame(frames: Tensor) -> str | None:
    """Why a camera image shows nothing, or None if it shows something.

    Args:
        frames: ``(B, 3, H, W)`` float32 RGB in [0, 1]; every fourth row and column is looked at.

    Returns:
        A few words: not finite, black, saturated, or of one colour.
    """
    sample = frames[..., ::_STRIDE, ::_STRIDE].float()
    dark = (sample.amax(1) <= _DARK).float().mean()
    bright = (sample.amin(1) >= _BRIGHT).float().mean()
    spread = sample.flatten(2).std(-1, correction=0).amax()
    values = torch.stack([sample.sum(), dark, bright, spread])  # one wait for the device
    total, black, white, contrast = values.tolist()
    if total != total or total in (float("inf"), float("-inf")):
        return "values that are not finite"
    if black > _CLIPPED_SHARE:
        return f"{black:.0%} of it is black"
    if white > _CLIPPED_SHARE:
        return f"{white:.0%} of it is saturated"
    if contrast < _FLAT:
        return "it is of one colour"
    return None


def effective_classes(logits: Tensor) -> float:
    """How many classes share a prediction: the exponential of the entropy of its class histogram.

    1 where one class takes every pixel, n where n classes share them evenly (Hill number of order 1).

    Args:
        logits: ``(B, C, h, w)``; every second row and column is looked at.

    Returns:
        At least 1; NaN where a logit is not finite.
    """
    logits = logits[..., ::2, ::2]
    counts = torch.bincount(logits.argmax(1).flatten(), minlength=int(logits.shape[1])).double()
    shares = counts / counts.sum()
    number = torch.special.entr(shares).sum().exp()
    return float(torch.where(logits.isfinite().all(), number, torch.nan))


def agreement(one: Tensor, other: Tensor) -> float:
    """Share of pixels in [0, 1] on which two ``(B, C, h, w)`` logits name the same class."""
    return float((one.argmax(1) == other.argmax(1)).float().mean())


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no floating-point tensor holds NaN or infinity, or values so large that their norm does (1e19)."""
    floating = [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
    # The 2-norm: a fifth of the time of the largest magnitude, and one wait for the device.
    return not floating or bool(torch.stack(torch._foreach_norm(floating)).isfinite().all())


def hits_and_unions(logits: Tensor, labels: Tensor) -> Tensor:
    """Pixels of intersection, union and truth of every class, at the stride of the logits.

    Args:
        logits: ``(B, C, h, w)`` at stride 4.
        labels: ``(B, H, W)`` int64 train ids, 255 = ignore; the middle of every cell of 4 x 4 pixels is read.

    Returns:
        ``(3, C)`` int64.
    """
    classes = int(logits.shape[1])
    truth = labels[:, _STRIDE // 2 :: _STRIDE, _STRIDE // 2 :: _STRIDE]
    found = logits.argmax(1)[:, : truth.shape[1], : truth.shape[2]]
    known = truth != IGNORE_ID
    truth, found = truth[known], found[known]
    of_truth = torch.bincount(truth, minlength=classes)
    hits = torch.bincount(truth[truth == found], minlength=classes)
    return torch.stack([hits, of_truth + torch.bincount(found, minlength=classes) - hits, of_truth])


def mean_iou(counts: Tensor) -> float:
    """Mean IoU in percent over the classes that the truth holds, from summed `hits_and_unions`; NaN without any."""
    hits, unions, truth = counts.double()
    present = truth > 0
    return 100.0 * float((hits[present] / unions[present]).mean())
