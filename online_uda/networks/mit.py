"""Mix Transformer (MiT) encoder as an ordered list of stages.

Written from the paper: Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with
Transformers", NeurIPS 2021, section 3 and Table 6. Tokens are kept in ``(B, H, W, C)`` memory order: a view of them is
a channels-last image, so moving between attention and convolution copies nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EMBED_EPS = 1e-5
"""LayerNorm eps of patch-embedding and spatial-reduction norms, in every published dialect."""


@dataclass(frozen=True, slots=True)
class MiTConfig:
    """Sizes of a MiT encoder.

    Attributes:
        widths: Channels of the four stages.
        depths: Transformer blocks of the four stages.
        heads: Attention heads of the four stages.
        reductions: Spatial reduction of keys and values in the four stages.
        mlp_ratio: Hidden width of Mix-FFN over the stage width.
        norm_eps: LayerNorm eps in blocks and stage norms (1e-6 in the paper's code, 1e-5 in Hugging Face's).
        drop_path: Largest stochastic-depth rate; it rises linearly from 0 over all blocks.
    """

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int] = (1, 2, 5, 8)
    reductions: tuple[int, int, int, int] = (8, 4, 2, 1)
    mlp_ratio: int = 4
    norm_eps: float = 1e-6
    drop_path: float = 0.1


MIT_VARIANTS: dict[str, MiTConfig] = {
    "b0": MiTConfig((32, 64, 160, 256), (2, 2, 2, 2)),
    "b1": MiTConfig((64, 128, 320, 512), (2, 2, 2, 2)),
    "b2": MiTConfig((64, 128, 320, 512), (3, 4, 6, 3)),
    "b3": MiTConfig((64, 128, 320, 512), (3, 4, 18, 3)),
    "b4": MiTConfig((64, 128, 320, 512), (3, 8, 27, 3)),
    "b5": MiTConfig((64, 128, 320, 512), (3, 6, 40, 3)),
}


class OverlapPatchEmbed(nn.Module):
    """Strided convolution and LayerNorm: ``(B, C, H, W)`` to tokens ``(B, H/s, W/s, C')``."""

    def __init__(self, in_channels: int, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(width, eps=EMBED_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class EfficientAttention(nn.Module):
    """Multi-head attention whose keys and values come from a spatially reduced map (section 3.1)."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.reduce = nn.Conv2d(width, width, reduction, reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(width, eps=EMBED_EPS) if reduction > 1 else None

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        context = x
        if self.reduce is not None and self.norm is not None:
            context = self.norm(self.reduce(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        tokens = context.flatten(1, 2)
        attended = F.scaled_dot_product_attention(
            self._split(self.query(x).flatten(1, 2)), self._split(self.key(tokens)), self._split(self.value(tokens))
        )
        return self.out(attended.transpose(1, 2).flatten(2)).view_as(x)


class MixFFN(nn.Module):
    """Two linear layers with a 3x3 depth-wise convolution between them that carries position (section 3.1)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.project = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.depthwise(self.expand(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.project(F.gelu(mixed))


class DropPath(nn.Module):
    """Stochastic depth a sample: drops the residual branch with probability ``rate`` while training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        mask = torch.empty((x.shape[0],) + (1,) * (x.dim() - 1), device=x.device, dtype=x.dtype).bernoulli_(keep)
        return x * mask / keep


class MiTBlock(nn.Module):
    """Pre-norm transformer block over tokens ``(B, H, W, C)``."""

    def __init__(self, width: int, heads: int, reduction: int, mlp_ratio: int, eps: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attention = EfficientAttention(width, heads, reduction)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.ffn = MixFFN(width, width * mlp_ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(self.norm1(x)))
        return x + self.drop_path(self.ffn(self.norm2(x)))


class MiTStage(nn.Module):
    """One stage: patch embedding, blocks, norm. ``(B, C, H, W)`` in, ``(B, C', H/s, W/s)`` channels-last out."""

    def __init__(self, config: MiTConfig, index: int) -> None:
        super().__init__()
        width = config.widths[index]
        in_channels = 3 if index == 0 else config.widths[index - 1]
        self.embed = OverlapPatchEmbed(in_channels, width, 7 if index == 0 else 3, 4 if index == 0 else 2)
        total = sum(config.depths)
        rates = [config.drop_path * block / max(1, total - 1) for block in range(total)]
        first = sum(config.depths[:index])
        self.blocks = nn.ModuleList(
            MiTBlock(
                width,
                config.heads[index],
                config.reductions[index],
                config.mlp_ratio,
                config.norm_eps,
                rates[first + i],
            )
            for i in range(config.depths[index])
        )
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens).permute(0, 3, 1, 2)
