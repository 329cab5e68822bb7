"""Pasting that lets what lies beneath shine through, with labels that are split the same way (Dual Soft-Paste).

``x = lambda M x_s + (1 - lambda M) x``, and the loss is ``lambda CE(pasted label) + (1 - lambda) CE(label beneath)``
(specs/seed-systems.md 8.2). Several pastes on top of each other split the label further.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from online_uda.adaptation.objectives.cross_entropy import cross_entropy


@dataclass(frozen=True, slots=True)
class Layered:
    """Images with as many labels a pixel as were pasted there.

    Attributes:
        images: ``(B, 3, H, W)`` float32 in [0, 1].
        layers: Labels ``(B, H, W)`` int64 and their weights ``(B, H, W)``, the lowest first.
        labels: ``(B, H, W)`` the label of the topmost paste.
        weights: ``(B, H, W)`` its weight, as if it were opaque.
    """

    images: Tensor
    layers: tuple[tuple[Tensor, Tensor], ...]
    labels: Tensor
    weights: Tensor

    def loss(self, logits: Tensor, stride: int = 1) -> Tensor:
        """Sum of the weighted cross-entropies of all layers, each a mean over every ``stride``-th row and column.

        Args:
            logits: ``(B, C, H // stride, W // stride)``.
            stride: In pixels of the labels; of every square of so many, the one next to its middle counts.
        """

        def middles(plane: Tensor) -> Tensor:
            return plane[:, stride // 2 :: stride, stride // 2 :: stride][:, : logits.shape[-2], : logits.shape[-1]]

        terms = [cross_entropy(logits, middles(labels), middles(weights)) for labels, weights in self.layers]
        return terms[0] if len(terms) == 1 else torch.stack(terms).sum()


def plain(images: Tensor, labels: Tensor, weights: Tensor | None = None) -> Layered:
    """Images with one label a pixel."""
    weights = torch.ones(labels.shape, dtype=images.dtype, device=images.device) if weights is None else weights
    return Layered(images, ((labels, weights),), labels, weights)


def paste(onto: Layered, images: Tensor, labels: Tensor, mask: Tensor, opacity: float) -> Layered:
    """Pastes what ``mask`` shows over what is there.

    Args:
        onto: What lies beneath.
        images: ``(B, 3, H, W)`` or ``(1, 3, H, W)`` to paste.
        labels: ``(B, H, W)`` or ``(1, H, W)`` int64 labels of these.
        mask: ``(B, H, W)`` or ``(1, H, W)`` bool.
        opacity: lambda in (0, 1]; 1 hides what lies beneath.
    """
    share = opacity * mask.to(onto.weights)
    mixed = share.unsqueeze(1) * images + (1.0 - share.unsqueeze(1)) * onto.images
    beneath = tuple((old, weights * (1.0 - share)) for old, weights in onto.layers)
    labels = labels.expand_as(onto.labels)
    top = (labels, share.expand_as(onto.weights))
    return Layered(
        mixed, (*beneath, top), torch.where(mask, labels, onto.labels),
        torch.where(mask, torch.ones_like(onto.weights), onto.weights),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Patch:
    """Pixels of one class to paste: image ``(1, 3, h, w)``, labels ``(1, h, w)`` int64, mask ``(1, h, w)`` bool."""

    images: Tensor
    labels: Tensor
    mask: Tensor


def paste_all(onto: Layered, patches: Sequence[Patch], opacity: float) -> Layered:
    """`paste` one patch after the other."""
    for patch in patches:
        onto = paste(onto, patch.images, patch.labels, patch.mask, opacity)
    return onto
