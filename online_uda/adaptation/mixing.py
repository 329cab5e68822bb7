"""ClassMix: paste the pixels of some source classes, image and label, over a target frame (specs/hamlet.md 2.6).

A dynamic ratio m decides how much is left out: near the source domain half of the classes are pasted, far from it a
quarter, so that more of the target remains. ClassMix: Olsson et al. 2021; in domain adaptation: DACS, Tranheden 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from online_uda.adaptation.objectives.cross_entropy import cross_entropy
from streams.frame import IGNORE_ID

Generators = torch.Generator | Sequence[torch.Generator]
"""One CPU generator that serves the images of a batch in turn, or one for each image."""


def generator_per_image(generator: Generators, batch_size: int) -> list[torch.Generator]:
    """A generator for every image of a batch.

    Raises:
        ValueError: If there are several generators, but not one an image.
    """
    if isinstance(generator, torch.Generator):
        return [generator] * batch_size
    if len(generator) != batch_size:
        raise ValueError(f"expected {batch_size} generators, one an image, got {len(generator)}")
    return list(generator)


def num_pasted_classes(present: int, mix_ratio: float) -> int:
    """How many of ``present`` classes are pasted: ``min(int((k + k mod 2) * (1 - m)), k)``, k rounded up to even.

    A product that is an integer but for rounding, such as 10 * (1 - 0.9), counts as that integer.
    """
    return min(int((present + present % 2) * (1.0 - mix_ratio) + 1e-9), present)


def classmix_mask(
    labels: Tensor,
    mix_ratio: float,
    generator: Generators,
    *,
    paste_ignored: bool = True,
    wanted: Tensor | None = None,
) -> Tensor:
    """Draw which source pixels are pasted, with a class list of its own for every image.

    Args:
        labels: ``(B, H, W)`` integer source train ids, 255 = ignore.
        mix_ratio: Ratio m in [0, 1]; about ``1 - m`` of the classes of an image are pasted.
        generator: CPU source of randomness, one for all images or one an image.
        paste_ignored: Whether 255 counts as a class. If so, as in HAMLET, it may be drawn, and its pixels then hide
            the target and give no gradient; if not, unlabelled source pixels are never pasted.
        wanted: ``(C,)`` weights by which classes are drawn, without those that are ignored; None draws them evenly.

    Returns:
        ``(B, H, W)`` bool, true where the source is pasted.
    """
    chosen = torch.zeros(len(labels), 256, dtype=torch.bool)
    for row, source in enumerate(generator_per_image(generator, len(labels))):
        present = torch.unique(labels[row]).cpu().long()
        if not paste_ignored or wanted is not None:
            present = present[present != IGNORE_ID]
        count = num_pasted_classes(len(present), mix_ratio)
        if wanted is None:
            order = torch.randperm(len(present), generator=source)[:count]
        else:
            order = (
                torch.multinomial(wanted[present].double() + 1e-6, count, generator=source) if count else present[:0]
            )
        chosen[row, present[order]] = True
    table = chosen.to(labels.device)
    return torch.gather(table, 1, labels.flatten(1).long()).view_as(labels)


@dataclass(frozen=True, slots=True)
class MixedBatch:
    """Source pixels pasted over target frames.

    Attributes:
        images: ``(B, 3, H, W)`` float32 in [0, 1], RGB.
        labels: ``(B, H, W)`` int64 train ids, 255 = ignore.
        weights: ``(B, H, W)`` float32 loss weights, 1 on pasted pixels.
    """

    images: Tensor
    labels: Tensor
    weights: Tensor

    def loss(self, logits: Tensor) -> Tensor:
        """Weighted cross-entropy of full-size ``logits``, a mean over all pixels."""
        return cross_entropy(logits, self.labels, self.weights)


def mix(
    mask: Tensor,
    source_images: Tensor,
    source_labels: Tensor,
    target_images: Tensor,
    pseudo_labels: Tensor,
    pseudo_weights: Tensor,
) -> MixedBatch:
    """Compose image, label and weight with one mask.

    Args:
        mask: ``(B, H, W)`` bool, true where the source shows.
        source_images: ``(B, 3, H, W)`` float32.
        source_labels: ``(B, H, W)`` int64.
        target_images: ``(B, 3, H, W)`` float32.
        pseudo_labels: ``(B, H, W)`` int64 labels of the target.
        pseudo_weights: ``(B, H, W)`` float32 weights of the target pixels.

    Raises:
        ValueError: If the sizes differ.
    """
    sizes = {tuple(tensor.shape[-2:]) for tensor in (mask, source_images, target_images, pseudo_labels)}
    if len(sizes) != 1:
        raise ValueError(f"source crop and target frame must have one size, got {sorted(sizes)}")
    return MixedBatch(
        images=torch.where(mask.unsqueeze(1), source_images, target_images),
        labels=torch.where(mask, source_labels, pseudo_labels),
        weights=torch.where(mask, torch.ones_like(pseudo_weights), pseudo_weights),
    )
