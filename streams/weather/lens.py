"""Drops on the lens: each shows the scene small, upside down and blurred until it dries, slides off or is wiped away.

Design of specs/weather.md, section 3: Poisson arrivals, log-normal radii, exponential stay, slow slide. A drop is a
function of the second and the number in which it came, so that any frame can be rendered alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, pdtr

from streams.weather.colour import decode_image, encode_image
from streams.weather.counter_rng import event_key, uniform

ARRIVALS = 0.02  # a second, a megapixel, a mm/h
MEAN_RADIUS, _SPREAD = 0.015, 0.4  # of the height; sigma of the log
MEAN_STAY_S, _LONGEST_STAY_S = 3.0, 15
_SLIDE, _NATIVE_HEIGHT = 30.0, 512  # px/s at most, at a height of 512
WIPER_EVERY_S, _SWEEP_S = 1.2, 0.4
_DEMAGNIFY, _BLUR, _EDGE = 4.0, 0.4, 0.1
LensDrop = tuple[float, float, float]
"""Column, row and radius in pixels."""


def lens_drops(rate_mm_h: float, height: int, width: int, t_seconds: float, seed: int, wiper: bool) -> list[LensDrop]:
    """The drops on the lens at a moment, oldest first.

    Args:
        rate_mm_h: Rain rate.
        height: Rows of the image.
        width: Columns of the image.
        t_seconds: Time; what came before second 0 counts, so that a stream begins with a wet lens.
        seed: Seed of the stream's weather.
        wiper: A blade passes from left to right every 1.2 s and takes every drop along.
    """
    return [drop for drop in _alive(rate_mm_h, height, width, t_seconds, seed, wiper) if drop[1] - drop[2] < height]


def _alive(rate: float, height: int, width: int, t: float, seed: int, wiper: bool) -> Iterator[LensDrop]:
    key = event_key(seed, "lens")
    mean = ARRIVALS * rate * height * width / 1e6
    for second in range(math.floor(t) - _LONGEST_STAY_S, math.floor(t) + 1):
        for number in range(_count(uniform(key, second, 0, 0), mean)):
            u = [uniform(key, second, number, 1 + i) for i in range(6)]
            came = second + u[0]
            age = t - came
            if not 0 <= age < min(-MEAN_STAY_S * math.log(1 - u[1]), _LONGEST_STAY_S):
                continue
            column = u[2] * width
            # The blade reaches this column once every period.
            reaches = _SWEEP_S * u[2]
            if wiper and math.floor((t - reaches) / WIPER_EVERY_S) > math.floor((came - reaches) / WIPER_EVERY_S):
                continue
            radius = MEAN_RADIUS * height * math.exp(_SPREAD * float(ndtri(u[3])) - _SPREAD**2 / 2)
            yield column, u[4] * height + u[5] * _SLIDE * height / _NATIVE_HEIGHT * age, max(radius, 1.0)


def _count(quantile: float, mean: float) -> int:
    """The Poisson quantile; more rain never makes fewer drops."""
    count = 0
    while count < 1000 and float(pdtr(count, mean)) < quantile:
        count += 1
    return count


def draw_lens(rgb: NDArray[np.float32], drops: list[LensDrop]) -> NDArray[np.float32]:
    """The sRGB image ``(H, W, 3)`` float32 in [0, 1] seen through drops; blended in linear light."""
    out = rgb.copy()
    height, width = rgb.shape[:2]
    for column, row, radius in drops:
        reach = math.ceil(radius) + 1
        left, right = max(0, math.floor(column) - reach), min(width, math.floor(column) + reach + 1)
        top, bottom = max(0, math.floor(row) - reach), min(height, math.floor(row) + reach + 1)
        if left >= right or top >= bottom:
            continue
        across, down = np.meshgrid(np.arange(left, right) + 0.5 - column, np.arange(top, bottom) + 0.5 - row)
        inside = np.clip((1 - np.hypot(across, down) / radius) / _EDGE, 0, 1).astype(np.float32)[..., None]
        flipped = cv2.remap(
            rgb, (column - _DEMAGNIFY * across).astype(np.float32), (row - _DEMAGNIFY * down).astype(np.float32),
            cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101,
        )  # fmt: skip
        seen = cv2.GaussianBlur(flipped, (0, 0), max(_BLUR * radius, 0.3))
        behind = decode_image(np.ascontiguousarray(out[top:bottom, left:right]))
        light = behind + (decode_image(np.ascontiguousarray(seen, np.float32)) - behind) * inside
        out[top:bottom, left:right] = encode_image(light.astype(np.float32))
    return out
