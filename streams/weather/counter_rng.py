"""A counter-based random generator: every number is a hash of its key, so any frame can be rendered alone.

The mixer is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

from __future__ import annotations

import zlib

import numpy as np
from numba import njit
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11))


@njit(cache=True, inline="always")
def mix(state: np.uint64) -> np.uint64:
    """One SplitMix64 step of a 64-bit state."""
    state = state + _GOLDEN
    state = (state ^ (state >> _SHIFTS[0])) * _MIX_1
    state = (state ^ (state >> _SHIFTS[1])) * _MIX_2
    return state ^ (state >> _SHIFTS[2])


@njit(cache=True)
def uniform(key: np.uint64, a: int, b: int, c: int) -> float:
    """A number in [0, 1) that depends only on the key and three counters (each any int64)."""
    state = mix(mix(mix(key ^ np.uint64(a)) ^ np.uint64(b)) ^ np.uint64(c))
    return float(state >> _SHIFTS[3]) * (1.0 / 9007199254740992.0)


@njit(cache=True)
def uniform_column(key: np.uint64, count: int, b: int, c: int) -> NDArray[np.float64]:
    """``(count,)`` float64 of `uniform` with the first counter running from 0."""
    out = np.empty(count)
    for i in range(count):
        out[i] = uniform(key, i, b, c)
    return out


def event_key(seed: int, event: str) -> np.uint64:
    """The key of one event of one stream: events with the same seed do not share random numbers."""
    return np.uint64(mix(np.uint64(seed % 2**64) ^ (np.uint64(zlib.crc32(event.encode())) << np.uint64(32))))
