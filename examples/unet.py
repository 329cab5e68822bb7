"""A network of one's own, adapted: a small U-Net that knows nothing of online_uda.

    python -m online_uda.training --network examples.unet:make --data town --out runs/unet
    python run_stream.py --network examples.unet:make@runs/unet/network --schedule cs2rain --method tent

`make` takes the number of classes (any function without arguments does as well) and returns a torch.nn.Module that maps
normalised frames (B, 3, H, W) to logits. Weights follow the @: a folder that online_uda wrote, or a .pth or
.safetensors file of the module's own state dict; a function that loads them itself needs none. `input_mean` and
`input_std` on the module replace ImageNet's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Sequential):
    """Two 3x3 convolutions; the first may halve the resolution."""

    def __init__(self, into: int, out: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True),
            nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True),
        )  # fmt: skip


class UNet(nn.Module):
    """An encoder that goes down to stride 16 and a decoder that comes back to stride 2, with skips."""

    def __init__(self, classes: int, width: int = 16) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.down = nn.ModuleList(Block(into, out, 2) for into, out in zip([3, *widths], widths, strict=False))
        self.up = nn.ModuleList(
            Block(low + skip, skip) for low, skip in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.grow = nn.Upsample(scale_factor=2, mode="bilinear")
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised frames (B, 3, H, W), H and W multiples of 16, to logits (B, C, H/2, W/2)."""
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            x = block(torch.cat([self.grow(x), skip], 1))
        return self.classify(x)


def make(classes: int) -> nn.Module:
    """The network, with random weights."""
    return UNet(classes)
