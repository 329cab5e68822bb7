"""Noise of a camera sensor: counted photons, read noise and row noise, from a counter keyed by seed and frame.

A linear value I in [0, 1] means I Q electrons, Q = 2000 * 2^-stops. Photons are Poisson; reading adds 3 electrons rms a
pixel and 0.5 electrons rms a row (spec section 6). From 6 electrons on, Poisson quantiles come from those of the normal
law by the first two terms of the Cornish-Fisher series, m + z sqrt(m) + (z^2 - 1) / 6.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.special import ndtri

from streams.weather.colour import decode, encode
from streams.weather.counter_rng import event_key, mix

FULL_WELL_ELECTRONS = 2000.0
READ_NOISE_ELECTRONS = 3.0
ROW_NOISE_ELECTRONS = 0.5
_SERIES_FROM = 6.0
_STEPS = 4096
_HALF, _ROW = np.uint64(32), np.uint64(52)
_LOW = np.uint64(0xFFFFFFFF)
_TO_UNIT = 1.0 / 4294967296.0
# Quantiles of the normal law at the middles of equal cells: unit variance to 1e-3, tails to 3.7 sigma.
_QUANTILES = ndtri((np.arange(_STEPS) + 0.5) / _STEPS).astype(np.float32)


def electrons_at_white(stops: float) -> float:
    """Q: electrons of a pixel at linear value 1 when the camera amplifies by ``stops``."""
    return FULL_WELL_ELECTRONS * 2.0**-stops


def noisy(rgb: NDArray[np.float32], stops: float, seed: int, frame_index: int) -> NDArray[np.float32]:
    """The sRGB image ``(H, W, 3)`` float32 in [0, 1] as a sensor records it, clipped to [0, 1].

    Args:
        rgb: What reaches the sensor.
        stops: Amplification; every stop halves the electrons behind a value.
        seed: Seed of the stream's weather.
        frame_index: Index in the stream; every frame has noise of its own.
    """
    key = np.uint64(mix(event_key(seed, "sensor") ^ np.uint64(frame_index % 2**64)))
    return _noisy(rgb, electrons_at_white(stops), key)


@njit(cache=True)
def _noisy(rgb: NDArray[np.float32], white: float, key: np.uint64) -> NDArray[np.float32]:
    out = np.empty_like(rgb)
    rows, columns, channels = rgb.shape
    row_key = mix(key)
    for row in range(rows):
        state = mix(row_key + np.uint64(row))
        offset = ROW_NOISE_ELECTRONS * _QUANTILES[state >> _ROW]
        state = mix(key ^ state)
        for column in range(columns):
            for c in range(channels):
                state = mix(state + np.uint64(1))
                first, second = float(state >> _HALF) * _TO_UNIT, float(state & _LOW) * _TO_UNIT
                mean = float(decode(rgb[row, column, c])) * white
                if mean > _SERIES_FROM:
                    z = _QUANTILES[int(first * _STEPS)]
                    count = mean + math.sqrt(mean) * z + (z * z - 1) / 6
                else:
                    count = _poisson(mean, first)
                count += READ_NOISE_ELECTRONS * _QUANTILES[int(second * _STEPS)] + offset
                out[row, column, c] = encode(np.float32(count / white))
    return out


@njit(cache=True, inline="always")
def _poisson(mean: float, quantile: float) -> float:
    """The Poisson quantile by summing probabilities from 0 upwards."""
    probability = math.exp(-mean)
    total, count = probability, 0.0
    while quantile > total and count < 40:
        count += 1
        probability *= mean / count
        total += probability
    return count
