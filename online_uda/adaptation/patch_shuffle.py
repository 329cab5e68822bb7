"""Patches of a frame that change places, and the way back for what a network says of them (DeYO: Lee et al. 2024)."""

from __future__ import annotations

import torch
from torch import Tensor


def window_permutation(grid: tuple[int, int], window: int | None, generator: torch.Generator) -> Tensor:
    """Where each patch comes from: ``(rows * columns,)`` int64, patches changing places within windows only.

    Args:
        grid: Rows and columns of patches.
        window: Side of a window in patches; windows at the far borders may be smaller. None is one window.
        generator: CPU generator.
    """
    rows, columns = grid
    side = max(grid) if window is None else window
    indices = torch.arange(rows * columns).view(rows, columns)
    found = indices.clone()
    for top in range(0, rows, side):
        for left in range(0, columns, side):
            block = indices[top : top + side, left : left + side]
            order = torch.randperm(block.numel(), generator=generator)
            found[top : top + side, left : left + side] = block.flatten()[order].view(block.shape)
    return found.flatten()


def shuffle_patches(maps: Tensor, grid: tuple[int, int], patch: tuple[int, int], permutation: Tensor) -> Tensor:
    """Moves patches of maps; what lies below and right of the grid stays.

    Args:
        maps: ``(B, C, H, W)``.
        grid: Rows and columns of patches.
        patch: Height and width of a patch; the grid must fit into the maps.
        permutation: From `window_permutation`; its argsort is the way back.
    """
    (rows, columns), (height, width) = grid, patch
    batch, channels = maps.shape[:2]
    inner = maps[..., : rows * height, : columns * width].reshape(batch, channels, rows, height, columns, width)
    patches = inner.permute(2, 4, 0, 1, 3, 5).flatten(0, 1)[permutation.to(maps.device)]
    moved = patches.view(rows, columns, batch, channels, height, width).permute(2, 3, 0, 4, 1, 5)
    result = maps.clone()
    result[..., : rows * height, : columns * width] = moved.reshape(batch, channels, rows * height, columns * width)
    return result
