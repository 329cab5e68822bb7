"""Smooth random patches over a plane, anchored in the world: the same place always has the same value."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streams.weather.counter_rng import uniform

_OCTAVES = 3


@njit(cache=True, inline="always")
def _between(here: float, beside: float, beyond: float, across: float, fx: float, fz: float) -> float:
    """The value in [-1, 1] at a share ``fx``, ``fz`` of the way between four corners in [0, 1], smooth at each."""
    sx, sz = fx * fx * (3 - 2 * fx), fz * fz * (3 - 2 * fz)
    near = here * (1 - sx) + beside * sx
    far = beyond * (1 - sx) + across * sx
    return (near * (1 - sz) + far * sz) * 2 - 1


@njit(cache=True)
def value_noise(key: np.uint64, x: float, z: float) -> float:
    """Three octaves of value noise, smooth, in [-1, 1]; the largest patches are about 1 wide."""
    total, weight, scale = 0.0, 0.0, 1.0
    for octave in range(_OCTAVES):
        px, pz = x * scale, z * scale
        ix, iz = math.floor(px), math.floor(pz)
        fx, fz = px - ix, pz - iz
        here, beside = uniform(key, ix, iz, octave), uniform(key, ix + 1, iz, octave)
        beyond, across = uniform(key, ix, iz + 1, octave), uniform(key, ix + 1, iz + 1, octave)
        total += _between(here, beside, beyond, across, fx, fz) / scale
        weight += 1 / scale
        scale *= 2
    return total / weight


@njit(cache=True)
def noise_lattice(
    key: np.uint64, x_low: float, x_high: float, z_low: float, z_high: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """What `value_noise` draws at the corners of its patches within bounds, drawn once, for `noise_between`.

    Returns:
        ``(octaves, i, j)`` values, and ``(octaves, 2)`` corner that the first of each octave belongs to.
    """
    finest = 2.0 ** (_OCTAVES - 1)
    wide = math.floor(x_high * finest) - math.floor(x_low * finest) + 2
    deep = math.floor(z_high * finest) - math.floor(z_low * finest) + 2
    values, first = np.zeros((_OCTAVES, wide, deep)), np.zeros((_OCTAVES, 2), np.int64)
    for octave in range(_OCTAVES):
        scale = 2.0**octave
        left, near = math.floor(x_low * scale), math.floor(z_low * scale)
        first[octave, 0], first[octave, 1] = left, near
        for i in range(math.floor(x_high * scale) - left + 2):
            for j in range(math.floor(z_high * scale) - near + 2):
                values[octave, i, j] = uniform(key, left + i, near + j, octave)
    return values, first


@njit(cache=True)
def noise_between(values: NDArray[np.float64], first: NDArray[np.int64], x: float, z: float) -> float:
    """`value_noise` at a place within the bounds of a `noise_lattice`, to the bit."""
    total, weight, scale = 0.0, 0.0, 1.0
    for octave in range(_OCTAVES):
        px, pz = x * scale, z * scale
        ix, iz = math.floor(px), math.floor(pz)
        fx, fz = px - ix, pz - iz
        i, j = np.uint64(ix - first[octave, 0]), np.uint64(iz - first[octave, 1])
        one = np.uint64(1)
        here, beside = values[octave, i, j], values[octave, i + one, j]
        beyond, across = values[octave, i, j + one], values[octave, i + one, j + one]
        total += _between(here, beside, beyond, across, fx, fz) / scale
        weight += 1 / scale
        scale *= 2
    return total / weight
