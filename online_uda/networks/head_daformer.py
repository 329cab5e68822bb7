"""DAFormer's decode head: all stages embedded, brought to the finest, and fused with context.

Written from Hoyer et al., "DAFormer", CVPR 2022, section 3.2 and specs/seed-systems.md 2; the interlaced attention from
Huang et al., "Interlaced Sparse Self-Attention for Semantic Segmentation", 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from online_uda.networks.blocks import ASPP, conv_norm
from online_uda.networks.heads import upsample

Fusion = Literal["conv1", "aspp", "sep_aspp", "isa", "sepaspp_bottleneck"]
DILATIONS = (1, 6, 12, 18)


class PixelAttention(nn.Module):
    """Single-head attention among the pixels of each map; queries and keys are normalised projections."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = conv_norm(width, width)
        self.key = conv_norm(width, width)
        self.value = nn.Conv2d(width, width, 1)
        self.out = conv_norm(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (part(x).flatten(2).transpose(1, 2) for part in (self.query, self.key, self.value))
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.out(attended.transpose(1, 2).unflatten(2, x.shape[-2:]))


class InterlacedAttention(nn.Module):
    """Attention in two steps: among pixels a block apart (far), then within each block (near).

    A map of ``h x w`` costs ``(h w) (h w / factor^2 + factor^2)`` products in place of ``(h w)^2``.
    """

    def __init__(self, into: int, width: int, factor: int = 8) -> None:
        super().__init__()
        self.factor = factor
        self.reduce = conv_norm(into, width, 3)
        self.far = PixelAttention(width)
        self.near = PixelAttention(width)
        self.fuse = conv_norm(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        batch, width, height, length = x.shape
        down, right = -height % self.factor, -length % self.factor
        padded = F.pad(x, (0, right, 0, down)) if down or right else x
        rows, columns = padded.shape[-2] // self.factor, padded.shape[-1] // self.factor
        # (B, C, rows, factor, columns, factor): position of the block, position in the block.
        cells = padded.view(batch, width, rows, self.factor, columns, self.factor)
        far = self.far(cells.permute(0, 3, 5, 1, 2, 4).reshape(-1, width, rows, columns))
        near = far.view(batch, self.factor, self.factor, width, rows, columns).permute(0, 4, 5, 3, 1, 2)
        near = self.near(near.reshape(-1, width, self.factor, self.factor))
        whole = near.view(batch, rows, columns, width, self.factor, self.factor).permute(0, 3, 1, 4, 2, 5)
        whole = whole.reshape(batch, width, rows * self.factor, columns * self.factor)[..., :height, :length]
        return self.fuse(torch.cat([x, whole], 1))


def _fusion(kind: Fusion, into: int, width: int) -> nn.Module:
    if kind == "conv1":
        return conv_norm(into, width)
    if kind == "isa":
        return InterlacedAttention(into, width)
    if kind == "sepaspp_bottleneck":
        return conv_norm(into, width, 3)
    return ASPP(into, width, DILATIONS, separable_branches=kind == "sep_aspp")


class DAFormerHead(nn.Module):
    """Embeds each stage linearly, upsamples to the first, concatenates, fuses, classifies.

    Args:
        widths: Channels of the stages.
        width: Of each embedding and of the fused map.
        classes: Outputs.
        fusion: How the stages are fused. ``sepaspp_bottleneck`` takes context from the deepest stage alone and fuses
            with a 3x3 convolution.
        dropout: Share of channels dropped before the classifier while training.
    """

    def __init__(
        self, widths: Sequence[int], width: int, classes: int, fusion: Fusion = "sep_aspp", dropout: float = 0.1
    ) -> None:
        super().__init__()
        deepest = len(widths) - 1
        self.linears = nn.ModuleList(
            ASPP(into, width, DILATIONS, separable_branches=True)
            if fusion == "sepaspp_bottleneck" and index == deepest
            else nn.Conv2d(into, width, 1)
            for index, into in enumerate(widths)
        )
        self.fuse = _fusion(fusion, width * len(widths), width)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        size = (int(features[0].shape[-2]), int(features[0].shape[-1]))
        parts = [upsample(linear(x), size) for linear, x in zip(self.linears, features, strict=True)]
        return self.classifier(self.dropout(self.fuse(torch.cat(parts, 1))))
