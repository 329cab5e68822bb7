"""What stands beside a layer: low-rank products, 1x1 convolutions, bottlenecks; at first each adds zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Kind = Literal["lora", "two_rank", "conv", "adaptformer", "side"]
FOLDING = ("lora", "two_rank", "conv")
"""Kinds that are linear in what their layer sees, so that they fold into its weight."""


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """Which adapters, where.

    Attributes:
        kind: See `online_uda.networks.adapters`.
        rank: Of ``lora`` and of the low part of ``two_rank``; width of AdaptFormer's bottleneck.
        high_rank: Of the high part of ``two_rank``; a layer's own width bounds it.
        scale: Factor on the adapter's output (the low part's).
        high_scale: Factor on the high part's.
        placement: AdaptFormer beside the MLP (``parallel``) or behind it (``sequential``).
        targets: Patterns of module names; empty takes attention projections, convolutions or MLPs of the encoder.
    """

    kind: Kind = "lora"
    rank: int = 4
    high_rank: int = 32
    scale: float = 1.0
    high_scale: float = 1.0
    placement: Literal["parallel", "sequential"] = "parallel"
    targets: tuple[str, ...] = ()


class LowRank(nn.Module):
    """``up(down(x))`` through ``rank`` channels; a convolution's ``down`` has its kernel, stride and padding."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int) -> None:
        super().__init__()
        if isinstance(layer, nn.Linear):
            rank = min(rank, layer.in_features, layer.out_features)
            self.down: nn.Module = nn.Linear(layer.in_features, rank, bias=False)
            self.up: nn.Module = nn.Linear(rank, layer.out_features, bias=False)
        else:
            rank = min(rank, layer.in_channels, layer.out_channels)
            kernel, stride = (layer.kernel_size[0], layer.kernel_size[1]), (layer.stride[0], layer.stride[1])
            dilation = (layer.dilation[0], layer.dilation[1])
            padding: Any = layer.padding
            self.down = nn.Conv2d(layer.in_channels, rank, kernel, stride, padding, dilation, bias=False)
            self.up = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        nn.init.zeros_(self.up.get_parameter("weight"))

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))


class Scaled(nn.Module):
    """One or two low-rank parts, or a 1x1 convolution, each times its factor."""

    def __init__(self, parts: Mapping[str, nn.Module], scales: Sequence[float]) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.parts, self.scales = tuple(parts), tuple(scales)

    def forward(self, x: Tensor) -> Tensor:
        outputs = [scale * self.get_submodule(part)(x) for part, scale in zip(self.parts, self.scales, strict=True)]
        return outputs[0] if len(outputs) == 1 else outputs[0] + outputs[1]


class Bottleneck(nn.Module):
    """AdaptFormer: down, ReLU, up (zero at first), over the last axis, times a factor."""

    def __init__(self, width: int, rank: int, scale: float) -> None:
        super().__init__()
        self.down, self.up, self.scale = nn.Linear(width, rank), nn.Linear(rank, width), scale
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.up(torch.relu(self.down(x)))


class SideNet(nn.Module):
    """EcoTTA: BatchNorm with the statistics of the map at hand, a 3x3 convolution (zero at first), and a factor."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, track_running_stats=False)
        self.conv, self.scale = nn.Conv2d(channels, channels, 3, padding=1, bias=False), scale
        nn.init.zeros_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.conv(self.norm(x))


def adapter_for(layer: nn.Module, config: AdapterConfig, channels: int | None = None) -> nn.Module:
    """What serves ``layer``, on the CPU, with weights drawn by torch's generator.

    Args:
        layer: To be served.
        config: Kind and sizes.
        channels: Of the map that the layer gives; side nets alone need it.
    """
    if config.kind == "side":
        assert channels is not None
        return SideNet(channels, config.scale)
    if config.kind == "adaptformer":
        width = mlp_width(layer)
        assert width is not None
        return Bottleneck(width, min(config.rank, width), config.scale)
    if config.kind == "conv":
        assert isinstance(layer, nn.Conv2d)
        stride = (layer.stride[0], layer.stride[1])
        one = nn.Conv2d(layer.in_channels, layer.out_channels, 1, stride, groups=layer.groups, bias=False)
        nn.init.zeros_(one.weight)
        return Scaled({"one": one}, [config.scale])
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    if config.kind == "two_rank":
        parts = {"low": LowRank(layer, config.rank), "high": LowRank(layer, config.high_rank)}
        return Scaled(parts, [config.scale, config.high_scale])
    return Scaled({"low": LowRank(layer, config.rank)}, [config.scale])


def mlp_width(module: nn.Module) -> int | None:
    """Width of an MLP of two linear layers that gives back what it takes; None for anything else."""
    linear = [part for part in module.children() if isinstance(part, nn.Linear)]
    if len(linear) != 2 or linear[0].in_features != linear[1].out_features:
        return None
    return int(linear[0].in_features)
