"""Wildfire: a warm, dark, contrasty scene under an orange sky, after the description in specs/weather.md, section 8."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

from streams.weather.counter_rng import event_key, uniform
from streams.weather.effect import Metadata, check_choice, check_number
from streams.weather.sky import sky_share
from streams.weather.view import LUMA, View

MODES = ("video", "climategan")
SHIFT = (40 / 255, -10 / 255, -20 / 255)
CONTRAST, DIM, DIM_AFTER = 1.5, 0.73, 0.8
SKY_SHARE = 200 / 255
GREEN = (100, 150)
_SKY_BELOW, _DILATE, _KERNEL = 2 / 3, 0.18, 0.44
_MASK_STEP = 8


@dataclass(frozen=True, slots=True)
class Wildfire:
    """The light of a large fire nearby.

    Attributes:
        strength: 1 is the published look; scales every part of it. 0 leaves the frame untouched.
        mode: ``video`` takes the mean grey of the segment for the contrast, so that brightness does not pump;
            ``climategan`` takes that of every frame and rounds to 8 bits after every step, as the publication does.
    """

    strength: float = 1.0
    mode: str = "video"

    def __post_init__(self) -> None:
        check_number("wildfire", "strength", self.strength, 0, 1, "")
        check_choice("wildfire", "mode", self.mode, MODES)

    def sky(self, view: View) -> NDArray[np.float32]:
        """``(H, W)`` float32 share of the orange overlay before its strength: the sky, grown and blurred wide."""
        height, width = view.depth_m.shape
        mask = sky_share(view)
        mask[round(_SKY_BELOW * height) :] = 0
        small = (max(2, width // _MASK_STEP), max(2, height // _MASK_STEP))
        reduced = cv2.resize(mask, small, interpolation=cv2.INTER_AREA)
        grow = np.ones((max(1, round(_DILATE * small[1])), max(1, round(_DILATE * small[0]))), np.uint8)
        kernel = max(3, round(_KERNEL * small[1])) | 1
        soft = cv2.GaussianBlur(
            cv2.dilate(reduced, grow), (kernel, kernel), kernel / 2, borderType=cv2.BORDER_REPLICATE
        )
        return np.asarray(cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)

    def apply(self, view: View) -> tuple[NDArray[np.float32], Metadata]:
        """Warm, darken, light the sky; see `streams.weather.effect.Effect.apply`."""
        s, seed = self.strength, view.moment.seed
        mask = self.sky(view) if s > 0 else np.zeros((1, 1), np.float32)
        record = Metadata(
            "wildfire", seed, 0.0, math.inf, 0.05, view.statistics.airlight, cover=float(mask.mean()), strength=float(s)
        )  # fmt: skip
        if s == 0:
            return view.rgb, record
        green = math.floor(GREEN[0] + uniform(event_key(seed, "wildfire"), 0, 0, 0) * (GREEN[1] - GREEN[0] + 1)) / 255
        rounds = self.mode == "climategan"
        warm = _warmed(np.ascontiguousarray(view.rgb), np.array(SHIFT, np.float32) * np.float32(s), rounds)
        grey = float(warm.mean(axis=(0, 1), dtype=np.float64) @ LUMA) if rounds else view.statistics.grey
        rgb = _lit(
            warm, mask, np.float32(grey), np.float32(1 + (CONTRAST - 1) * s), np.float32(1 + (DIM - 1) * s),
            np.float32(1 + (DIM_AFTER - 1) * s), np.array((1, green, 0), np.float32), np.float32(SKY_SHARE * s), rounds,
        )  # fmt: skip
        return rgb, record


@njit(cache=True, inline="always")
def _level(value: float, rounds: bool) -> float:
    """A value clipped to [0, 1], and cut to 8 bits where asked."""
    clipped = min(max(value, 0.0), 1.0)
    return math.floor(clipped * 255 + 1e-4) / 255 if rounds else clipped


@njit(cache=True)
def _warmed(rgb: NDArray[np.float32], shift: NDArray[np.float32], rounds: bool) -> NDArray[np.float32]:
    out = np.empty_like(rgb)
    rows, columns, _ = rgb.shape
    for row in range(rows):
        for column in range(columns):
            for c in range(3):
                out[row, column, c] = _level(float(rgb[row, column, c] + shift[c]), rounds)
    return out


@njit(cache=True)
def _lit(
    rgb: NDArray[np.float32], mask: NDArray[np.float32], grey: np.float32, contrast: np.float32, dim: np.float32,
    dim_after: np.float32, flame: NDArray[np.float32], share: np.float32, rounds: bool,
) -> NDArray[np.float32]:  # fmt: skip
    out = np.empty_like(rgb)
    rows, columns = mask.shape
    for row in range(rows):
        for column in range(columns):
            a = mask[row, column] * share
            for c in range(3):
                v = _level(float(grey + (rgb[row, column, c] - grey) * contrast), rounds)
                v = _level(float(v * dim), rounds)
                v = _level(float(v + (flame[c] - v) * a), rounds)
                out[row, column, c] = _level(float(v * dim_after), rounds)
    return out
