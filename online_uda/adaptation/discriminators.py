"""Discriminators: small networks that say of features or answers whether they are of the source or of the stream."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from online_uda.networks.segmenter import Segmentation

LEAK = 0.2


class Pooled(nn.Module):
    """Two 3x3 convolutions, the mean over the map, and one verdict an image."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()
        )
        self.verdict = nn.Linear(width, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.verdict(self.convs(features).mean((2, 3)))


def of_cells(channels: int, width: int) -> nn.Sequential:
    """Three shared layers applied to every cell of a map."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 1), nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU(), nn.Conv2d(width, 1, 1)
    )


def of_answers(classes: int, width: int) -> nn.Sequential:
    """Five 4x4 convolutions of stride 2 over full-size class maps (AdaptSegNet): 16x16 verdicts on 512x512."""
    sizes = (classes, width, 2 * width, 4 * width, 8 * width)
    layers: list[nn.Module] = []
    for into, out in pairwise(sizes):
        layers += [nn.Conv2d(into, out, 4, 2, 1), nn.LeakyReLU(LEAK)]
    return nn.Sequential(*layers, nn.Conv2d(sizes[-1], 1, 4, 2, 1))


def self_information(probabilities: Tensor) -> Tensor:
    """``-p log2 p / log2 C`` of every class (AdvEnt: Vu et al. 2019); its sum over classes is the entropy in [0, 1]."""
    classes = probabilities.shape[1]
    tiny = torch.finfo(probabilities.dtype).tiny
    return -probabilities * probabilities.clamp(min=tiny).log2() / torch.tensor(float(classes)).log2()


class Discriminator(nn.Module):
    """Verdicts on a segmenter's answer, as logits: above 0 is the stream.

    Args:
        sees: See `AdversarialSettings.sees`.
        channels: Of the maps that it sees, one a stage.
        classes: C.
        width: Channels inside.
    """

    def __init__(self, sees: str, channels: list[int], classes: int, width: int) -> None:
        super().__init__()
        self.sees = sees
        if sees == "image":
            parts: list[nn.Module] = [Pooled(channels[-1], width)]
        elif sees == "multi":
            parts = [Pooled(count, width) for count in channels]
        elif sees == "pixel":
            parts = [nn.Conv2d(channels[-1], 1, 1)]
        elif sees == "patch":
            parts = [of_cells(channels[-1], width)]
        else:
            parts = [of_answers(classes, width)]
        self.parts = nn.ModuleList(parts)

    def looks_at(self, answer: Segmentation) -> list[Tensor]:
        """What each part is shown, float32 at least."""
        if self.sees in ("output", "entropy"):
            probabilities = answer.full().softmax(1)
            return [self_information(probabilities) if self.sees == "entropy" else probabilities]
        maps = answer.features if self.sees == "multi" else answer.features[-1:]
        return [found.to(torch.promote_types(found.dtype, torch.float32)) for found in maps]

    def forward(self, shown: list[Tensor]) -> list[Tensor]:
        """One tensor of verdicts a part."""
        return [part(x) for part, x in zip(self.parts, shown, strict=True)]
