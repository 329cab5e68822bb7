"""How a drive looks and how its street is built: light, colours, lanes. Drawn once from the key of the drive."""

from __future__ import annotations

import math
import random

import numpy as np
from numpy.typing import NDArray

from streams.city import _env as E

ZONES = ("downtown", "mixed", "houses", "park", "industry")


def _light(rng: random.Random, env: NDArray[np.float64]) -> None:
    """Sun, sky, haze and camera: from overcast to a low warm sun."""
    overcast = rng.random() < 0.4
    elevation = math.radians(rng.uniform(30, 64))
    azimuth = rng.uniform(-math.pi, math.pi)
    env[E.SUN : E.SUN + 3] = (
        math.cos(elevation) * math.sin(azimuth),
        math.sin(elevation),
        math.cos(elevation) * math.cos(azimuth),
    )
    warmth = rng.uniform(0.0, 1.0) * (1.0 - math.sin(elevation) * 0.6)
    strength = rng.uniform(0.0, 0.18) if overcast else rng.uniform(0.7, 1.1)
    env[E.SUN_RGB : E.SUN_RGB + 3] = strength * np.array([1.0, 0.96 - 0.10 * warmth, 0.90 - 0.28 * warmth])
    level = rng.uniform(0.68, 0.92) if overcast else rng.uniform(0.46, 0.60)
    blue = 0.0 if overcast else rng.uniform(0.0, 0.10)
    env[E.AMBIENT_RGB : E.AMBIENT_RGB + 3] = level * np.array([1.0 - 0.7 * blue, 1.0, 1.0 + blue])
    grey = rng.uniform(165, 235)
    if overcast:
        tint = rng.uniform(-6, 8)
        env[E.HAZE_RGB : E.HAZE_RGB + 3] = (grey - tint, grey, grey + tint)
        env[E.ZENITH_RGB : E.ZENITH_RGB + 3] = np.array([0.86, 0.89, 0.93]) * grey
    else:
        env[E.HAZE_RGB : E.HAZE_RGB + 3] = (200 + 30 * warmth, 212 + 8 * warmth, 228 - 18 * warmth)
        env[E.ZENITH_RGB : E.ZENITH_RGB + 3] = (rng.uniform(70, 120), rng.uniform(125, 165), rng.uniform(195, 235))
    env[E.HAZE_M] = rng.uniform(400, 1600)
    env[E.CLOUD] = rng.uniform(0.5, 1.0) if overcast else rng.uniform(0.0, 0.7)
    env[E.CLOUD_SHIFT : E.CLOUD_SHIFT + 2] = (rng.uniform(0, 256), rng.uniform(0, 256))
    env[E.SHADOW] = 0.0 if overcast else rng.uniform(0.7, 1.0)
    env[E.EXPOSURE] = rng.uniform(0.95, 1.28) * (1.0 if overcast else 1.08)
    env[E.SATURATION] = rng.uniform(0.70, 1.10)
    env[E.CONTRAST] = rng.uniform(0.90, 1.15)
    env[E.WARM] = rng.uniform(-0.04, 0.05)
    env[E.GRAIN] = rng.uniform(1.5, 4.5)
    env[E.VIGNETTE] = rng.uniform(0.05, 0.28)


def _street(rng: random.Random, env: NDArray[np.float64]) -> None:
    """Cross-section, bends and surfaces."""
    lanes = 1 if rng.random() < 0.7 else 2
    env[E.LANES] = lanes
    env[E.LANE_M] = rng.uniform(2.9, 3.4)
    env[E.PARKING_M] = rng.choice((0.0, 2.2, 2.2) if lanes == 1 else (0.0, 2.2))
    env[E.BIKE_M] = rng.choice((0.0, 0.0, 1.4, 1.6))
    env[E.HALF_M] = lanes * env[E.LANE_M] + env[E.PARKING_M] + env[E.BIKE_M]
    env[E.VERGE_M] = rng.choice((0.0, 0.0, 1.4, 1.9, 2.4))
    env[E.SIDEWALK_M] = rng.uniform(3.0, 6.0) + env[E.VERGE_M]
    long_wave, short_wave = rng.uniform(350, 700), rng.uniform(140, 260)
    for k, (wave, slope) in enumerate(((long_wave, rng.uniform(0.0, 0.12)), (short_wave, rng.uniform(0.0, 0.05)))):
        omega = 2 * math.pi / wave
        env[E.BEND + 3 * k : E.BEND + 3 * k + 3] = (slope / omega, omega, rng.uniform(0, 2 * math.pi))
    env[E.BLOCK_M] = rng.randint(64, 104)
    env[E.TRAM] = 1.0 if rng.random() < 0.38 else 0.0
    dark = rng.uniform(78, 128)
    env[E.ASPHALT_RGB : E.ASPHALT_RGB + 3] = (dark + rng.uniform(-3, 5), dark, dark + rng.uniform(-4, 6))
    paving = rng.choice(((158, 152, 146), (176, 168, 158), (150, 132, 120), (168, 150, 132), (138, 138, 140)))
    env[E.PAVING_RGB : E.PAVING_RGB + 3] = np.array(paving) * rng.uniform(0.88, 1.12)
    env[E.PAVING_KIND] = rng.choice((0, 0, 1, 1, 2))
    grass = rng.choice(((86, 118, 52), (104, 124, 62), (72, 104, 48), (128, 126, 78)))
    env[E.GRASS_RGB : E.GRASS_RGB + 3] = np.array(grass) * rng.uniform(0.85, 1.15)
    env[E.BIKE_RED] = float(rng.random() < 0.4)
    env[E.MARKING] = rng.uniform(190, 245)
    env[E.SKYLINE] = rng.uniform(0.015, 0.05)


def draw_style(key: int) -> NDArray[np.float64]:
    """Look and street of one drive.

    Args:
        key: Key of the drive.

    Returns:
        ``(SIZE,)`` float64 vector laid out as in `streams.city._env`; the entries of a moment (time, tables) are 0.
    """
    rng = random.Random(key)
    env = np.zeros(E.SIZE)
    _light(rng, env)
    _street(rng, env)
    env[E.SEED] = key & 0x7FFFFFFF
    return env


def zone_weights(key: int) -> list[float]:
    """How often each of `ZONES` comes along a drive; one or two prevail."""
    rng = random.Random(key ^ 0x5EED)
    return [0.25 + base * rng.random() ** 2 * 3.0 for base in (1.0, 1.0, 1.0, 0.6, 0.6)]
