"""Dusk and night: light taken away and tinted, lamps that glow, headlights, sensor noise (spec section 6).

One strength leads from day (0) to deep night (1): surfaces keep 0.02^s of their light and the sky 0.05^(s^2) of what
then is left, so that at dusk the sky is still light when the street is not. Lamps and headlights come on between 0.2
and 0.6. Everything but the noise is a smooth function of the scene, so that frames cohere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

from streams.weather.colour import decode, encode_image, linear_to_srgb, srgb_to_linear
from streams.weather.effect import Metadata, check_choice, check_flag, check_number
from streams.weather.ground import heights_m
from streams.weather.sensor import noisy
from streams.weather.sky import largest_channel, sky_share, step
from streams.weather.view import SceneStatistics, View, triple

TINTS = {"moon": (0.8, 0.9, 1.15), "sodium": (1.1, 1.0, 0.75)}
DARKEST, DARKEST_SKY = 0.02, 0.05
_STOPS = (-6.0, 2.0)  # amplification by day and in deep night
_LAMP_BOOST = 8.0
_LAMP_FLOORS = (0.6, 0.85)  # bounds of the brightness from which on a thing may be a lamp, sRGB
_GLOWS = ((0.6, 0.02), (0.4, 0.08))  # share, sigma in image heights
_GLOW_STEP = 4
_HEADLIGHT_GAIN, _HEADLIGHT_REACH_M = 6.0, 25.0


@dataclass(frozen=True, slots=True)
class Night:
    """Low light of a given strength.

    Attributes:
        strength: 0 is day and leaves the frame untouched, 0.25 dusk, 0.5 a lit evening, 1 deep night.
        tint: ``moon`` (blue) or ``sodium`` (yellow street light); comes in fully at strength 0.5.
        lamps: Small, bright, red to green things above the ground (signals, tail lights) shine and glow.
        headlights: The car's own light on the ground ahead.
        noise: Add sensor noise; it alone changes from frame to frame of a still scene.
        stops: Amplification of the camera, in stops; more is noisier. None grows with the strength, from -6 to 2.
        chroma_blur: Smooth colour, not brightness, over 3 x 3 pixels after the noise, as cameras do.
    """

    strength: float = 0.7
    tint: str = "moon"
    lamps: bool = True
    headlights: bool = True
    noise: bool = True
    stops: float | None = None
    chroma_blur: bool = False

    def __post_init__(self) -> None:
        check_number("night", "strength", self.strength, 0, 1, "")
        check_choice("night", "tint", self.tint, tuple(TINTS))
        for name in ("lamps", "headlights", "noise", "chroma_blur"):
            check_flag("night", name, getattr(self, name))
        if self.stops is not None:
            check_number("night", "stops", self.stops, -8, 8, "")

    @property
    def light(self) -> NDArray[np.float32]:
        """``(3,)`` float32 share of the day's light that surfaces keep, by channel."""
        tint = 1 + (np.array(TINTS[self.tint]) - 1) * min(1.0, 2 * self.strength)
        return (DARKEST**self.strength * tint).astype(np.float32)

    @property
    def sky_light(self) -> float:
        """Share of that light which the sky keeps."""
        return float(DARKEST_SKY ** (self.strength**2))

    @property
    def switched_on(self) -> float:
        """How far lamps and headlights are on, in [0, 1]."""
        return float(step((self.strength - 0.2) / 0.4))

    def relight(self, statistics: SceneStatistics) -> SceneStatistics:
        """Airlight and drops as dark as the sky; see `streams.weather.effect.Relights`."""
        light = self.light.astype(np.float64)
        airlight, drops = light * self.sky_light * statistics.airlight, light * statistics.drop_radiance
        linear_grey = float(srgb_to_linear(np.array(statistics.grey))) * light.mean()
        return replace(
            statistics,
            airlight=triple(airlight),
            drop_radiance=triple(drops),
            grey=float(linear_to_srgb(np.array(linear_grey))),
            light=triple(light * statistics.light),
        )

    def linear(self, view: View) -> NDArray[np.float32]:
        """``(H, W, 3)`` float32 linear light before the sensor; lamps may exceed 1."""
        sky = sky_share(view)
        over_ground = heights_m(view.depth_m, view.statistics.ground, view.camera)
        on = self.switched_on
        shine = np.zeros(view.depth_m.shape, np.float32)
        glow: NDArray[np.float32] = np.zeros((1, 1, 3), np.float32)
        if self.lamps and on > 0:
            shine = _lamp_share(view, sky, over_ground) * np.float32(on)
            glow = _glow(view.rgb, shine)
        return _shade(
            np.ascontiguousarray(view.rgb), view.depth_m, sky, over_ground, shine,
            _enlarged(glow, view.depth_m.shape[::-1]), self.light,
            np.float32(self.sky_light), np.float32(_HEADLIGHT_GAIN * on if self.headlights else 0.0),
            view.camera.fx, view.camera.cx,
        )  # fmt: skip

    def apply(self, view: View) -> tuple[NDArray[np.float32], Metadata]:
        """Darken and light lamps, without noise; see `streams.weather.effect.Effect.apply`."""
        airlight = self.relight(view.statistics).airlight
        record = Metadata(
            "night", view.moment.seed, 0.0, math.inf, 0.05, airlight, strength=float(self.strength)
        )  # fmt: skip
        if self.strength == 0:
            return view.rgb, record
        return encode_image(self.linear(view)), record

    def finish(self, view: View) -> NDArray[np.float32]:
        """Sensor noise, after whatever else is in the air; see `streams.weather.effect.Finishes`."""
        if self.strength == 0:
            return view.rgb
        rgb = view.rgb
        if self.noise:
            stops = _STOPS[0] + (_STOPS[1] - _STOPS[0]) * self.strength if self.stops is None else self.stops
            rgb = noisy(np.ascontiguousarray(rgb), stops, view.moment.seed, view.moment.frame_index)
        return _blur_chroma(rgb) if self.chroma_blur else rgb


def _lamp_share(view: View, sky: NDArray[np.float32], over_ground: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far each pixel is a lamp: bright, small, coloured as signals and tail lights are, off the ground, no sky.

    White is left out: without labels a lit lamp cannot be told from a window frame.
    """
    rgb = np.ascontiguousarray(view.rgb)
    value = largest_channel(rgb)
    side = max(3, round(0.04 * value.shape[0])) | 1
    opened = np.asarray(cv2.morphologyEx(value, cv2.MORPH_OPEN, np.ones((side, side), np.uint8)), np.float32)
    floor = min(max(view.statistics.bright, _LAMP_FLOORS[0]), _LAMP_FLOORS[1])
    return _vivid_spots(rgb, value, opened, sky, over_ground, np.float32(floor))


@njit(cache=True)
def _vivid_spots(
    rgb: NDArray[np.float32], value: NDArray[np.float32], opened: NDArray[np.float32], sky: NDArray[np.float32],
    over_ground: NDArray[np.float32], floor: np.float32,
) -> NDArray[np.float32]:  # fmt: skip
    out = np.zeros_like(value)
    rows, columns = value.shape
    for row in range(rows):
        for column in range(columns):
            v = value[row, column]
            top_hat, clear = v - opened[row, column] - np.float32(0.1), 1 - 4 * sky[row, column]
            red, green, blue = rgb[row, column, 0], rgb[row, column, 1], rgb[row, column, 2]
            if v <= floor or top_hat <= 0 or clear <= 0 or blue >= max(red, green):
                continue
            vividness = (v - min(red, green, blue)) / v
            out[row, column] = (
                step((v - floor) / 0.08) * step(top_hat / 0.2) * step((vividness - 0.4) / 0.2)
                * step((over_ground[row, column] - 0.3) / 0.2) * clear
            )  # fmt: skip
    return out


def _glow(rgb: NDArray[np.float32], shine: NDArray[np.float32]) -> NDArray[np.float32]:
    """Light that spreads around lamps, linear, at a quarter of the size."""
    height, width = shine.shape
    small = (max(1, width // _GLOW_STEP), max(1, height // _GLOW_STEP))
    source = cv2.resize(_lamp_light(np.ascontiguousarray(rgb), shine), small, interpolation=cv2.INTER_AREA)
    spreads = [
        share * cv2.GaussianBlur(source, (0, 0), max(sigma * height / _GLOW_STEP, 0.3), borderType=cv2.BORDER_CONSTANT)
        for share, sigma in _GLOWS
    ]
    return np.asarray(sum(spreads), np.float32)


def _enlarged(image: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.float32)


@njit(cache=True)
def _lamp_light(rgb: NDArray[np.float32], shine: NDArray[np.float32]) -> NDArray[np.float32]:
    out = np.zeros_like(rgb)
    rows, columns = shine.shape
    for row in range(rows):
        for column in range(columns):
            if shine[row, column] > 0:
                for c in range(3):
                    out[row, column, c] = decode(rgb[row, column, c]) * shine[row, column] * np.float32(_LAMP_BOOST)
    return out


@njit(cache=True)
def _shade(
    rgb: NDArray[np.float32], depth_m: NDArray[np.float32], sky: NDArray[np.float32],
    over_ground: NDArray[np.float32], shine: NDArray[np.float32], glow: NDArray[np.float32],
    light: NDArray[np.float32], sky_light: np.float32, headlight: np.float32, fx: float, cx: float,
) -> NDArray[np.float32]:  # fmt: skip
    """J w e (sky or headlights) + lamps + glow, from sRGB to linear light."""
    out = np.empty_like(rgb)
    rows, columns = depth_m.shape
    for row in range(rows):
        for column in range(columns):
            z = depth_m[row, column]
            level = 1 + (sky_light - 1) * sky[row, column]
            if headlight > 0 and z < 150 and sky[row, column] < 1:
                # The beam widens with distance and lies low: bright on the road, fading at knee height and beside it.
                aside = abs((column + 0.5 - cx) / fx * z) / (2.5 + 0.35 * z)
                up = max(over_ground[row, column], np.float32(0)) / 0.8
                level += headlight * math.exp(-z / _HEADLIGHT_REACH_M - aside**4 - up * up) * (1 - sky[row, column])
            for c in range(3):
                day = decode(rgb[row, column, c])
                lamp = shine[row, column] * np.float32(_LAMP_BOOST)
                out[row, column, c] = day * (level * light[c] + lamp) + glow[row, column, c]
    return out


def _blur_chroma(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    parts = cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb)
    smooth = cv2.blur(parts, (3, 3))
    smooth[..., 0] = parts[..., 0]
    return np.clip(cv2.cvtColor(smooth, cv2.COLOR_YCrCb2RGB), 0, 1).astype(np.float32)
