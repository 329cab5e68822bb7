"""UPerNet's decode head (Xiao et al., "Unified Perceptual Parsing", ECCV 2018) with an FCN auxiliary head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from online_uda.networks.blocks import PooledContext, conv_norm
from online_uda.networks.heads import upsample

POOL_CELLS = (1, 2, 3, 6)
AUXILIARY_STAGE = -2


class AuxiliaryHead(nn.Module):
    """A small fully convolutional head on the stage before the last; only training reads it (weight 0.4)."""

    def __init__(self, widths: Sequence[int], width: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.conv = conv_norm(widths[AUXILIARY_STAGE], width, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.dropout(self.conv(features[AUXILIARY_STAGE])))


class UPerHead(nn.Module):
    """Pyramid pooling on the deepest stage, a feature pyramid down to the first, all levels fused.

    Args:
        widths: Channels of the stages.
        width: Of every level.
        classes: Outputs.
        dropout: Share of channels dropped before the classifiers while training.
    """

    def __init__(self, widths: Sequence[int], width: int, classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        deepest = widths[-1]
        self.pools = nn.ModuleList(PooledContext(deepest, width, cells) for cells in POOL_CELLS)
        self.context = conv_norm(deepest + width * len(POOL_CELLS), width, 3)
        self.laterals = nn.ModuleList(conv_norm(into, width) for into in widths[:-1])
        self.levels = nn.ModuleList(conv_norm(width, width, 3) for _ in widths[:-1])
        self.fuse = conv_norm(width * len(widths), width, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, classes, 1)
        self.auxiliary = AuxiliaryHead(widths, width // 2, classes, dropout)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        top = features[-1]
        above = self.context(torch.cat([top, *(pool(top) for pool in self.pools)], 1))
        maps = [above]
        for index in reversed(range(len(self.laterals))):
            lateral = self.laterals[index](features[index])
            above = lateral + upsample(above, (int(lateral.shape[-2]), int(lateral.shape[-1])))
            maps.insert(0, self.levels[index](above))
        size = (int(features[0].shape[-2]), int(features[0].shape[-1]))
        return self.classifier(self.dropout(self.fuse(torch.cat([upsample(part, size) for part in maps], 1))))
