"""Smooth random patches over a plane, anchored in the world: the same place always has the same value."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from streams.weather.counter_rng import uniform

_OCTAVES = 3


@njit(cache=True)
def value_noise(key: np.uint64, x: float, z: float) -> float:
    """Three octaves of value noise, smooth, in [-1, 1]; the largest patches are about 1 wide."""
    total, weight, scale = 0.0, 0.0, 1.0
    for octave in range(_OCTAVES):
        px, pz = x * scale, z * scale
        ix, iz = math.floor(px), math.floor(pz)
        fx, fz = px - ix, pz - iz
        sx, sz = fx * fx * (3 - 2 * fx), fz * fz * (3 - 2 * fz)
        near = uniform(key, ix, iz, octave) * (1 - sx) + uniform(key, ix + 1, iz, octave) * sx
        far = uniform(key, ix, iz + 1, octave) * (1 - sx) + uniform(key, ix + 1, iz + 1, octave) * sx
        total += ((near * (1 - sz) + far * sz) * 2 - 1) / scale
        weight += 1 / scale
        scale *= 2
    return total / weight
