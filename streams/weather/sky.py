"""Which pixels show sky: from depth where it is measured, from place and colour where it is only assumed."""

from __future__ import annotations

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

from streams.weather.colour import linear_to_srgb
from streams.weather.ground_plane import DEPTH_CAP_M
from streams.weather.view import View

_SKY_FROM = 0.98


def sky_share(view: View) -> NDArray[np.float32]:
    """Share of sky in every pixel, ``(H, W)`` float32 in [0, 1].

    With measured depth everything at the cap is sky, softened by a pixel so that outlines do not show as bright seams.
    Without, a pixel is sky as far as the street canyon says so and it is nearly as bright as the airlight; the latter
    is a statistic of the segment, so that the answer does not flicker.
    """
    if view.depth_measured:
        mask = (view.depth_m >= _SKY_FROM * DEPTH_CAP_M).astype(np.float32)
        return np.asarray(cv2.blur(cv2.dilate(mask, np.ones((3, 3), np.uint8)), (3, 3)), np.float32)
    place = smooth_step((view.depth_m / np.float32(DEPTH_CAP_M) - 0.15) / 0.35)
    brightest = max(float(linear_to_srgb(np.array(view.statistics.airlight)).max()), 0.05)
    colour = smooth_step((largest_channel(np.ascontiguousarray(view.rgb)) / np.float32(brightest) - 0.6) / 0.2)
    return place * np.asarray(cv2.blur(colour, (3, 3)), np.float32)


def smooth_step(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """3 x^2 - 2 x^3 of x clipped to [0, 1], any shape."""
    clipped = np.clip(x, 0, 1)
    return (clipped * clipped * (3 - 2 * clipped)).astype(np.float32)


@njit(cache=True, inline="always")
def step(x: float) -> float:
    """`smooth_step` of a number, inside compiled kernels."""
    x = min(max(x, 0.0), 1.0)
    return x * x * (3 - 2 * x)


@njit(cache=True)
def largest_channel(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(H, W)`` float32 largest of the three channels of ``(H, W, 3)`` float32."""
    rows, columns, _ = rgb.shape
    out = np.empty((rows, columns), np.float32)
    for row in range(rows):
        for column in range(columns):
            out[row, column] = max(rgb[row, column, 0], rgb[row, column, 1], rgb[row, column, 2])
    return out
