"""Labels at full resolution from logits at a coarse one, without the full-size logits.

Bilinear interpolation followed by an argmax costs as much as the network itself at 1024 x 2048, and nearly all of it is
spent on pixels whose four surrounding cells agree. Interpolated logits are convex combinations of those of the four
cells around a pixel, and rounding keeps order, so that

* a class that wins in all four wins everywhere between them, and
* a class whose largest value of the four lies below the best class's smallest one wins nowhere between them.

What is left to interpolate is a few classes in the cells along the borders of segments.
"""

from __future__ import annotations

import functools

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_ROUNDING = np.float32(4e-6)
"""Relative margin below which rounding may decide between two classes; such cells are interpolated."""


def upsampled_argmax(logits: Tensor, full: tuple[int, int], crop: tuple[int, int] | None = None) -> Tensor:
    """The classes of ``logits`` resized to ``full``, bilinear with half-pixel centres (align_corners=False).

    Equal to ``interpolate(logits, full).argmax(1)`` wherever two classes differ by more than rounding.

    Args:
        logits: ``(B, C, h, w)`` floating point on the CPU, C at most 256.
        full: Height and width to resize to.
        crop: Height and width of the upper left part that is wanted; all by default.

    Returns:
        ``(B, H, W)`` uint8 of size ``crop``.
    """
    crop = crop or full
    logits = logits.detach().float()
    if not logits.sum().isfinite():  # rare, and order means little then
        resized = torch.nn.functional.interpolate(logits, full, mode="bilinear", align_corners=False)
        return resized.argmax(1)[:, : crop[0], : crop[1]].to(torch.uint8)
    cells = logits.permute(0, 2, 3, 1).contiguous().numpy()
    rows = _axis(cells.shape[1], full[0], crop[0])
    columns = _axis(cells.shape[2], full[1], crop[1])
    labels = np.empty((len(cells), *crop), np.uint8)
    for image, out in zip(cells, labels, strict=True):
        _label(image, *rows, *columns, out)
    return torch.from_numpy(labels)


@functools.lru_cache(maxsize=32)
def _axis(cells: int, full: int, wanted: int) -> tuple[Ints, Floats]:
    """For one axis: the first output index of every source cell, with the end; and each output's share of the next."""
    centres = (np.arange(wanted, dtype=np.float32) + np.float32(0.5)) * np.float32(cells / full) - np.float32(0.5)
    centres = np.maximum(centres, np.float32(0))
    of = np.minimum(centres.astype(np.int64), cells - 1)
    return np.searchsorted(of, np.arange(cells + 1)), (centres - of.astype(np.float32)).astype(np.float32)


@numba.njit(cache=True, nogil=True)
def _winners(cells: Floats, winners: NDArray[np.int16]) -> None:
    """The class of every cell, or -1 where the first two are so close that rounding may decide."""
    height, width, classes = cells.shape
    for i in range(height):
        for j in range(width):
            best, second, winner = cells[i, j, 0], np.float32(-np.inf), 0
            for k in range(1, classes):
                value = cells[i, j, k]
                if value > best:
                    second, best, winner = best, value, k
                elif value > second:
                    second = value
            clear = best - second > _ROUNDING * (abs(best) + abs(second))
            winners[i, j] = winner if clear or classes == 1 else -1


@numba.njit(cache=True, nogil=True)
def _label(cells: Floats, tops: Ints, down: Floats, lefts: Ints, right: Floats, out: NDArray[np.uint8]) -> None:
    height, width, classes = cells.shape
    winners = np.empty((height, width), np.int16)
    _winners(cells, winners)
    rivals = np.empty(classes, np.int64)
    for i in range(height):
        top, bottom, below = tops[i], tops[i + 1], min(i + 1, height - 1)
        if top == bottom:
            continue
        for j in range(width):
            first, last, beside = lefts[j], lefts[j + 1], min(j + 1, width - 1)
            winner = winners[i, j]
            same = winner >= 0 and winners[i, beside] == winner
            if same and winners[below, j] == winner and winners[below, beside] == winner:
                out[top:bottom, first:last] = winner
                continue
            a, b, c, d = cells[i, j], cells[i, beside], cells[below, j], cells[below, beside]
            floor, size = np.float32(-np.inf), np.float32(0)
            for k in range(classes):
                floor = max(floor, min(min(a[k], b[k]), min(c[k], d[k])))
                size = max(size, max(max(abs(a[k]), abs(b[k])), max(abs(c[k]), abs(d[k]))))
            floor -= _ROUNDING * size
            count = 0
            for k in range(classes):
                if max(max(a[k], b[k]), max(c[k], d[k])) >= floor:
                    rivals[count] = k
                    count += 1
            for y in range(top, bottom):
                for x in range(first, last):
                    lower, later = down[y], right[x]
                    upper, sooner = np.float32(1) - lower, np.float32(1) - later
                    best, found = np.float32(-np.inf), rivals[0]
                    for n in range(count):
                        k = rivals[n]
                        value = upper * (sooner * a[k] + later * b[k]) + lower * (sooner * c[k] + later * d[k])
                        if value > best:
                            best, found = value, k
                    out[y, x] = found
