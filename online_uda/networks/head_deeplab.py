"""DeepLabV3+'s decode head (Chen et al., "Encoder-Decoder with Atrous Separable Convolution", ECCV 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from online_uda.networks.blocks import ASPP, conv_norm, separable
from online_uda.networks.heads import upsample

DILATIONS = (1, 3, 6, 9)
"""The published rates for output stride 8 are 12, 24, 36; the deepest stage here has stride 32, a quarter of that."""
LOW_LEVEL_WIDTH = 48


class DeepLabPlusHead(nn.Module):
    """Separable ASPP with image pooling on the deepest stage, refined with the first stage.

    Args:
        widths: Channels of the stages; those between the first and the last are not read.
        width: Of every branch and of the decoder.
        classes: Outputs.
        dropout: Share of channels dropped before the classifier while training.
    """

    def __init__(self, widths: Sequence[int], width: int, classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.context = ASPP(widths[-1], width, DILATIONS, separable_branches=True, pooled=True, bottleneck=1)
        self.low_level = conv_norm(widths[0], LOW_LEVEL_WIDTH)
        self.refine = nn.Sequential(separable(width + LOW_LEVEL_WIDTH, width), separable(width, width))
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        size = (int(features[0].shape[-2]), int(features[0].shape[-1]))
        context = upsample(self.context(features[-1]), size)
        return self.classifier(self.dropout(self.refine(torch.cat([context, self.low_level(features[0])], 1))))
