"""Small compiled helpers of the town: hashed random numbers, tileable noise and box-filtered patterns.

Patterns are filtered with the footprint of a pixel, so that windows and markings fade to their mean far away
instead of flickering.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])

TILE = 256
_M1 = np.uint64(0x9E3779B97F4A7C15)
_M2 = np.uint64(0xBF58476D1CE4E5B9)
_M3 = np.uint64(0x94D049BB133111EB)
_S1 = np.uint64(30)
_S2 = np.uint64(27)
_S3 = np.uint64(40)
_MASK64 = (1 << 64) - 1


_OPTIONS: dict[str, Any] = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "arcp", "nsz"},
    "_nrt": False,
}


def kernel(function: F) -> F:
    """Compile with numba, free of the interpreter's lock. NaN and infinity keep their meaning: sky depth is infinite.

    Reference counting is off (``_nrt``): these functions only look into arrays that their caller holds, and counting
    the views they take of single rows costs more than the arithmetic. They must not allocate.
    """
    compiled: F = numba.njit(**_OPTIONS)(function)
    return compiled


def inlined(function: F) -> F:
    """`kernel` for what runs for every pixel: always part of its caller, because passing the arrays on is dear."""
    compiled: F = numba.njit(forceinline=True, **_OPTIONS)(function)
    return compiled


def key_of(*parts: object) -> int:
    """Hash any printable values to 63 bits; equal values give equal keys on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def mix(a: int, b: int) -> int:
    """Mix two integers to 31 bits (splitmix64), far cheaper than `key_of` for per-frame identities."""
    x = (a * 0x9E3779B97F4A7C15 + b * 0xBF58476D1CE4E5B9 + 0x632BE59BD9B4E019) & _MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return (x ^ (x >> 31)) & 0x7FFFFFFF


def noise_tile() -> NDArray[np.float32]:
    """Tileable noise ``(256, 256)`` float32 with a 1/f spectrum, zero mean, unit deviation, clipped to [-2.5, 2.5]."""
    rng = np.random.default_rng(20240117)
    white = np.fft.rfft2(rng.standard_normal((TILE, TILE)))
    fy = np.fft.fftfreq(TILE)[:, None]
    fx = np.fft.rfftfreq(TILE)[None, :]
    radius = np.sqrt(fx * fx + fy * fy)
    radius[0, 0] = 1.0
    spectrum = white / np.maximum(radius, 3.0 / TILE) ** 0.85
    spectrum[0, 0] = 0.0
    field = np.fft.irfft2(spectrum, s=(TILE, TILE))
    return np.ascontiguousarray(np.clip(field / field.std(), -2.5, 2.5), dtype=np.float32)


@inlined
def rnd(seed: int, k: int) -> float:
    """Uniform number in [0, 1) from two integers."""
    x = np.uint64(seed) * _M1 + np.uint64(k) * _M2
    x = (x ^ (x >> _S1)) * _M2
    x = (x ^ (x >> _S2)) * _M3
    return float(x >> _S3) * (1.0 / 16777216.0)


@inlined
def noise(tile: NDArray[np.float32], x: float, y: float) -> float:
    """Bilinear look-up of the noise tile at texel coordinates."""
    xf = math.floor(x)
    yf = math.floor(y)
    fx = x - xf
    fy = y - yf
    x0 = int(xf) & 255
    y0 = int(yf) & 255
    x1 = (x0 + 1) & 255
    y1 = (y0 + 1) & 255
    top = tile[y0, x0] * (1.0 - fx) + tile[y0, x1] * fx
    bottom = tile[y1, x0] * (1.0 - fx) + tile[y1, x1] * fx
    return top * (1.0 - fy) + bottom * fy


@inlined
def texel(tile: NDArray[np.float32], x: float, y: float) -> float:
    """Nearest texel of the noise tile: for grain finer than one can see the blocks of."""
    return float(tile[math.floor(y) & 255, math.floor(x) & 255])


@inlined
def clamp(x: float, lo: float, hi: float) -> float:
    return min(max(x, lo), hi)


@inlined
def ramp(x: float, lo: float, hi: float) -> float:
    """0 below ``lo``, 1 above ``hi``, smooth between."""
    t = min(max((x - lo) / (hi - lo), 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


@inlined
def _pulse_integral(x: float, a: float, b: float) -> float:
    whole = math.floor(x)
    return whole * (b - a) + min(max(x - whole - a, 0.0), b - a)


@inlined
def pulse(x: float, w: float, a: float, b: float) -> float:
    """Share of the interval of width ``w`` about ``x`` inside a pulse [a, b) that repeats with period 1."""
    half = 0.5 * max(w, 1e-4)
    return (_pulse_integral(x + half, a, b) - _pulse_integral(x - half, a, b)) / (2.0 * half)


@inlined
def band(x: float, w: float, a: float, b: float) -> float:
    """Share of the interval of width ``w`` about ``x`` that lies in [a, b]."""
    half = 0.5 * max(w, 1e-4)
    return max(0.0, min(x + half, b) - max(x - half, a)) / (2.0 * half)


@inlined
def near_segment(x: float, y: float, ax: float, ay: float, bx: float, by: float, reach: float) -> bool:
    """Whether a point lies less than ``reach`` >= 0 from a line segment."""
    dx = bx - ax
    dy = by - ay
    px = x - ax
    py = y - ay
    length2 = dx * dx + dy * dy + 1e-9
    # All lengths times length2: shapes ask this a dozen times a sample, and a division and a root are most of it.
    along = min(max(px * dx + py * dy, 0.0), length2)
    ex = px * length2 - along * dx
    ey = py * length2 - along * dy
    far = reach * length2
    return ex * ex + ey * ey < far * far
