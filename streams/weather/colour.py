"""sRGB to linear light and back, by interpolated tables that compiled kernels can inline.

Every renderer blends in linear light and takes and gives sRGB values in [0, 1] (specs/weather.md, section 1). The
tables have 1024 (decode) and 4096 (encode) steps; linear interpolation keeps both within 2e-5 of IEC 61966-2-1.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

_DECODE_STEPS = 1024
_ENCODE_STEPS = 4096
HISTOGRAM_BINS = 1024
_TURNS = 4


def srgb_to_linear(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Exact IEC 61966-2-1 decoding of values in [0, 1], any shape."""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Exact IEC 61966-2-1 encoding of values in [0, 1], any shape."""
    return np.where(value <= 0.0031308, value * 12.92, 1.055 * np.maximum(value, 0.0031308) ** (1 / 2.4) - 0.055)


def _table(values: NDArray[np.float64]) -> NDArray[np.float32]:
    # One extra entry lets the interpolation at exactly 1.0 read its right neighbour.
    return np.append(values, values[-1]).astype(np.float32)


_DECODE = _table(srgb_to_linear(np.linspace(0, 1, _DECODE_STEPS + 1)))
_ENCODE = _table(linear_to_srgb(np.linspace(0, 1, _ENCODE_STEPS + 1)))


@njit(cache=True, inline="always")
def _interpolate(table: NDArray[np.float32], value: np.float32, steps: int) -> np.float32:
    position = min(max(value, np.float32(0)), np.float32(1)) * np.float32(steps)
    cell = np.int32(position)
    # Unsigned, so that no index is looked at twice for being negative.
    low, high = table[np.uint32(cell)], table[np.uint32(cell) + np.uint32(1)]
    return low + (high - low) * (position - np.float32(cell))


@njit(cache=True, inline="always")
def decode(value: np.float32) -> np.float32:
    """sRGB value to linear light; clipped to [0, 1]. For use inside compiled kernels."""
    return _interpolate(_DECODE, value, _DECODE_STEPS)


@njit(cache=True, inline="always")
def encode(value: np.float32) -> np.float32:
    """Linear light to sRGB value; clipped to [0, 1]. For use inside compiled kernels."""
    return _interpolate(_ENCODE, value, _ENCODE_STEPS)


@njit(cache=True)
def decode_image(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    """Linear light of an sRGB image ``(H, W, 3)`` float32 in [0, 1]."""
    out = np.empty_like(rgb)
    source, target = rgb.ravel(), out.ravel()
    for i in range(source.size):
        target[i] = decode(source[i])
    return out


@njit(cache=True)
def encode_image(linear: NDArray[np.float32]) -> NDArray[np.float32]:
    """sRGB image in [0, 1] of linear light ``(H, W, 3)`` float32, clipped to [0, 1]."""
    out = np.empty_like(linear)
    source, target = linear.ravel(), out.ravel()
    for i in range(source.size):
        target[i] = encode(source[i])
    return out


@njit(cache=True)
def encode_with_histogram(linear: NDArray[np.float32]) -> NDArray[np.int64]:
    """Turns linear light ``(H, W, 3)`` into sRGB clipped to [0, 1], in place, and counts its values.

    Returns:
        ``(1024,)`` int64 counts in equal bins over [0, 1].
    """
    # Neighbours are alike: counted in turns, so that no count waits for the one before.
    counts = np.zeros((_TURNS, HISTOGRAM_BINS), np.int64)
    flat = linear.ravel()
    for i in range(flat.size):
        value = encode(flat[i])
        flat[i] = value
        bin_ = np.uint32(min(np.int32(value * np.float32(HISTOGRAM_BINS)), np.int32(HISTOGRAM_BINS - 1)))
        counts[np.uint32(i) & np.uint32(_TURNS - 1), bin_] += 1
    return counts.sum(axis=0)


@njit(cache=True)
def subtract_clipped(rgb: NDArray[np.float32], offset: np.float32) -> None:
    """Subtract ``offset`` from every value of ``rgb`` in place and clip to [0, 1]."""
    flat = rgb.ravel()
    for i in range(flat.size):
        flat[i] = min(max(flat[i] - offset, np.float32(0)), np.float32(1))


def offset_for_mean(counts: NDArray[np.int64], mean: float) -> float:
    """The offset o for which the mean of clip(v - o, 0, 1) is ``mean``, v being distributed as ``counts``.

    Plain subtraction of the mean difference falls short when dark values clip at 0, so the equation is solved by
    bisection; the mean falls monotonically with o.

    Args:
        counts: ``(1024,)`` histogram over [0, 1] as given by `encode_with_histogram`.
        mean: Target mean in [0, 1].
    """
    centres = (np.arange(counts.size) + 0.5) / counts.size
    weights = counts / counts.sum()
    low, high = -1.0, 1.0
    for _ in range(24):
        middle = (low + high) / 2
        if float(weights @ np.clip(centres - middle, 0, 1)) > mean:
            low = middle
        else:
            high = middle
    return (low + high) / 2


@njit(cache=True)
def from_uint8(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """An image ``(H, W, 3)`` uint8 as float32 in [0, 1]."""
    out = np.empty(image.shape, np.float32)
    source, target = image.ravel(), out.ravel()
    for i in range(source.size):
        target[i] = np.float32(source[i]) * np.float32(1 / 255)
    return out


@njit(cache=True)
def to_uint8(rgb: NDArray[np.float32]) -> NDArray[np.uint8]:
    """sRGB ``(H, W, 3)`` float32 in [0, 1] rounded to 8 bits."""
    out = np.empty(rgb.shape, np.uint8)
    source, target = rgb.ravel(), out.ravel()
    for i in range(source.size):
        target[i] = np.uint8(source[i] * np.float32(255) + np.float32(0.5))
    return out
