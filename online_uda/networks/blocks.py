"""Convolutional building blocks that several decode heads share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from online_uda.networks.heads import upsample


def conv_norm(into: int, out: int, kernel: int = 1, dilation: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution that keeps the size, BatchNorm, ReLU."""
    conv = nn.Conv2d(into, out, kernel, padding=dilation * (kernel // 2), dilation=dilation, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU(inplace=True))


def separable(into: int, out: int, dilation: int = 1) -> nn.Sequential:
    """A 3x3 convolution a channel, then a 1x1 convolution over channels; each with BatchNorm and ReLU."""
    return nn.Sequential(conv_norm(into, into, 3, dilation, groups=into), conv_norm(into, out))


class PooledContext(nn.Module):
    """Average over a grid of ``cells`` x ``cells``, a 1x1 convolution, and back to the size of the map.

    The norm is a GroupNorm with one group: at one cell and one frame, BatchNorm has a single value a channel and cannot
    be trained.
    """

    def __init__(self, into: int, out: int, cells: int) -> None:
        super().__init__()
        self.cells = cells
        self.project = nn.Sequential(nn.Conv2d(into, out, 1, bias=False), nn.GroupNorm(1, out), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        size = (int(x.shape[-2]), int(x.shape[-1]))
        return upsample(self.project(F.adaptive_avg_pool2d(x, self.cells)), size)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al., "Rethinking Atrous Convolution", 2017): parallel dilations, fused.

    Args:
        into: Channels of the input map.
        out: Channels of each branch and of the output.
        dilations: One branch each; dilation 1 is a 1x1 convolution.
        separable_branches: Depth-wise separable 3x3 branches (DeepLabV3+).
        pooled: One more branch with the mean over the map.
        bottleneck: Side of the convolution that fuses the branches.
    """

    def __init__(
        self,
        into: int,
        out: int,
        dilations: Sequence[int],
        *,
        separable_branches: bool,
        pooled: bool = False,
        bottleneck: int = 3,
    ) -> None:
        super().__init__()
        branches: list[nn.Module] = []
        for dilation in dilations:
            if dilation == 1:
                branches.append(conv_norm(into, out))
            elif separable_branches:
                branches.append(separable(into, out, dilation))
            else:
                branches.append(conv_norm(into, out, 3, dilation))
        if pooled:
            branches.append(PooledContext(into, out, 1))
        self.branches = nn.ModuleList(branches)
        self.fuse = conv_norm(out * len(branches), out, bottleneck)

    def forward(self, x: Tensor) -> Tensor:
        return self.fuse(torch.cat([branch(x) for branch in self.branches], 1))
