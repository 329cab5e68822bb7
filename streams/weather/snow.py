"""Snow: flakes in front of a scene dimmed by the snow too small to see, and snow that settles (spec section 5).

Sizes follow Gunn and Marshall, N(D) = 3800 S^-0.87 exp(-2.55 S^-0.48 D) in melted diameter D (mm) and S mm/h of water;
aggregates are drawn three times as large. Extinction is that of ITU-R P.1814 at 550 nm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streams.frame import Intrinsics
from streams.weather.colour import decode, encode_image
from streams.weather.counter_rng import event_key, uniform_column
from streams.weather.drops import NEAR_CLIP_M, DropField, draw_sizes
from streams.weather.effect import Metadata, check_flag, check_number
from streams.weather.ground import heights_m, stands
from streams.weather.streaks import Streaks, draw_streaks, project_streaks
from streams.weather.value_noise import value_noise
from streams.weather.view import View

CONTRAST_THRESHOLD = 0.05
_AGGREGATE = 3.0
_MELTED_MAX_MM = 6.0
_SWAY_MPS = 0.3
_SIZES = 2048
_RATES_OF_ENVELOPE = 24
_SETTLE_MM = 0.5
_SETTLED_WHITE = 0.9
_PATCH_M = 3.0
_GROUND_M = 0.25


def snow_extinction_per_km(rate_mm_h: float, dry: bool = False) -> float:
    """Extinction of falling snow: 3.84 S^0.72 (wet) or 5.53 S^1.38 (dry) dB/km, as 1/km (ITU-R P.1814)."""
    decibel = 5.53 * rate_mm_h**1.38 if dry else 3.84 * rate_mm_h**0.72
    return decibel * math.log(10) / 10


def flakes_per_m3_mm(rate_mm_h: float, melted_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gunn-Marshall density of flakes by melted diameter, any shape, in 1/m3/mm."""
    return np.asarray(3800 * rate_mm_h**-0.87 * np.exp(-2.55 * rate_mm_h**-0.48 * melted_mm))


@dataclass(frozen=True, slots=True)
class Snow:
    """Snowfall of a given rate.

    Attributes:
        rate_mm_h: Water in the falling snow; 1 is light, 5 heavy, 10 a blizzard. 0 leaves the frame untouched.
        dry: Dry snow dims far more than wet snow of the same rate.
        exposure_ms: Exposure time of the camera.
        wind_mps: Sideways wind, positive to the right.
        settled_mm: Water in the snow that lies on the ground when the clock starts; what falls adds to it. None leaves
            the ground bare.
        ceiling_mm_h: Largest rate that snowfall of changing rate reaches; as for rain.
    """

    rate_mm_h: float = 3.0
    dry: bool = False
    exposure_ms: float = 5.0
    wind_mps: float = 0.0
    settled_mm: float | None = None
    ceiling_mm_h: float | None = None

    def __post_init__(self) -> None:
        check_number("snow", "rate", self.rate_mm_h, 0, 20, "mm/h")
        check_flag("snow", "dry", self.dry)
        check_number("snow", "exposure", self.exposure_ms, 0.1, 100, "ms")
        check_number("snow", "wind", self.wind_mps, -30, 30, "m/s")
        if self.settled_mm is not None:
            check_number("snow", "settled", self.settled_mm, 0, 1000, "mm")
        if self.ceiling_mm_h is not None:
            check_number("snow", "ceiling", self.ceiling_mm_h, self.rate_mm_h, 20, "mm/h")

    def field(self, view: View) -> DropField:
        """The flakes in front of the camera of ``view``; diameters are drawn ones, three times the melted."""
        ceiling = self.ceiling_mm_h or self.rate_mm_h
        height, width = view.depth_m.shape
        return _make_field(
            ceiling, self.ceiling_mm_h is not None, height, width, view.camera, self.exposure_ms / 1000, self.wind_mps,
            view.moment.seed,
        )  # fmt: skip

    def streaks(self, view: View) -> Streaks:
        """The flakes at the moment of ``view``, far to near; they fall, drift with the wind and sway."""
        moment, field, exposure_s = view.moment, self.field(view), self.exposure_ms / 1000
        start, sway = field.positions(moment.t_seconds, moment.ego_speed_mps), _sway(field, moment.t_seconds)
        start[:, 0] += sway[:, 0]
        seen = start[:, 2] >= NEAR_CLIP_M
        if self.ceiling_mm_h:
            seen &= self._falls(field)
        flake = np.flatnonzero(seen)
        flake = flake[np.argsort(-start[flake, 2], kind="stable")]
        motion = np.stack(
            [
                field.wind_mps + sway[flake, 1],
                field.speed_mps[flake],
                np.full(flake.size, -moment.ego_speed_mps),
            ],
            axis=1,
        )
        return project_streaks(field, flake, start[flake], motion * exposure_s)

    def cover(self, t_seconds: float) -> float:
        """Share of the ground under snow, 1 - exp(-fallen / 0.5 mm)."""
        if self.settled_mm is None:
            return 0.0
        return 1 - math.exp(-(self.settled_mm + self.rate_mm_h * t_seconds / 3600) / _SETTLE_MM)

    def apply(self, view: View) -> tuple[NDArray[np.float32], Metadata]:
        """Settle, dim by distance, draw the flakes; see `streams.weather.effect.Effect.apply`."""
        airlight = view.statistics.airlight
        if self.rate_mm_h == 0 and not self.settled_mm:
            clear = Metadata("snow", view.moment.seed, 0.0, math.inf, CONTRAST_THRESHOLD, airlight)
            return view.rgb, clear
        extinction = snow_extinction_per_km(self.rate_mm_h, self.dry)
        colour = tuple(0.95 * air + 0.05 for air in airlight)
        moment, cover = view.moment, self.cover(view.moment.t_seconds)
        linear = _settle_and_dim(
            np.ascontiguousarray(view.rgb), view.depth_m, heights_m(view.depth_m, view.statistics.ground, view.camera),
            cover, event_key(moment.seed, "snow cover"), view.camera.fx, view.camera.cx,
            moment.ego_speed_mps * moment.t_seconds, extinction / 1000, np.array(airlight, np.float32),
            np.array(view.statistics.light, np.float32),
        )  # fmt: skip
        drops, covered = 0, 0.0
        if self.rate_mm_h > 0:
            flakes = self.streaks(view)
            drops = int(flakes.in_view.sum())
            covered = draw_streaks(linear, view.depth_m, _opaque(flakes), 1.0, (colour[0], colour[1], colour[2]))
        record = Metadata(
            event="snow", seed=moment.seed, extinction_per_km=extinction,
            visibility_m=-math.log(CONTRAST_THRESHOLD) / extinction * 1000 if extinction else math.inf,
            contrast_threshold=CONTRAST_THRESHOLD, airlight=airlight, drops=drops, cover=covered,
            gain=1.0 if drops else 0.0, strength=cover,
        )  # fmt: skip
        return encode_image(linear), record

    def _falls(self, field: DropField) -> NDArray[np.bool_]:
        assert self.ceiling_mm_h is not None
        if self.rate_mm_h == 0:
            return np.zeros(field.diameter_m.size, np.bool_)
        melted_mm = field.diameter_m * 1e3 / _AGGREGATE
        share = flakes_per_m3_mm(self.rate_mm_h, melted_mm) / _envelope(self.ceiling_mm_h, melted_mm)
        return np.asarray(uniform_column(field.key, melted_mm.size, -1, 7) < share)


def _envelope(ceiling_mm_h: float, melted_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest density of each size over all rates up to the ceiling: light snow has more of the small flakes."""
    rates = np.geomspace(ceiling_mm_h / 50, ceiling_mm_h, _RATES_OF_ENVELOPE)
    return np.max([flakes_per_m3_mm(rate, melted_mm) for rate in rates], axis=0)


@lru_cache(maxsize=32)
def _make_field(
    rate_mm_h: float, thinned: bool, height: int, width: int, camera: Intrinsics, exposure_s: float, wind_mps: float,
    seed: int,
) -> DropField:  # fmt: skip
    key = event_key(seed, "snow")
    margin = 0.1 + (2.0 + abs(wind_mps)) * exposure_s
    smallest = max(0.1, NEAR_CLIP_M * 1000 / camera.fx / _AGGREGATE)
    melted = np.empty(0)
    if smallest < _MELTED_MAX_MM:  # else the image is so small that no flake is a pixel wide
        edges = np.linspace(smallest, _MELTED_MAX_MM, _SIZES)
        middle = (edges[1:] + edges[:-1]) / 2
        density = _envelope(rate_mm_h, middle) if thinned else flakes_per_m3_mm(rate_mm_h, middle)
        drawn = draw_sizes(key, middle * _AGGREGATE, density * np.diff(edges), height, width, camera, margin)
        melted = drawn / _AGGREGATE
    speed = 0.8 + 0.4 * uniform_column(key, melted.size, -3, 0)
    return DropField(key, melted * _AGGREGATE * 1e-3, speed, camera, height, width, margin, wind_mps)


def _sway(field: DropField, t_seconds: float) -> NDArray[np.float64]:
    """``(n, 2)`` sideways offset in metres and its speed: up to 0.3 m/s at 1 to 2 Hz, a phase for each flake."""
    count = field.diameter_m.size
    omega = 2 * math.pi * (1 + uniform_column(field.key, count, -3, 1))
    angle = omega * t_seconds + 2 * math.pi * uniform_column(field.key, count, -3, 2)
    return np.stack([_SWAY_MPS / omega * np.sin(angle), _SWAY_MPS * np.cos(angle)], axis=1)


def _opaque(flakes: Streaks) -> Streaks:
    """Flakes wider than about 3 px hide what is behind them; smaller ones do as streaks of rain do."""
    large = np.clip((flakes.width_px - 1) / 2, 0, 1)
    alpha = 1 - (1 - flakes.alpha) ** (1 + 3 * large * large * (3 - 2 * large))
    return Streaks(
        flakes.drop, flakes.head, flakes.tail, flakes.depth_m, flakes.width_px, flakes.blur_px, alpha, flakes.in_view
    )


@njit(cache=True)
def _settle_and_dim(
    rgb: NDArray[np.float32], depth_m: NDArray[np.float32], over_ground: NDArray[np.float32], cover: float,
    key: np.uint64, fx: float, cx: float, driven_m: float, beta: float, airlight: NDArray[np.float32],
    light: NDArray[np.float32],
) -> NDArray[np.float32]:  # fmt: skip
    """Linear light of the scene with snow on the ground, seen through falling snow, from sRGB."""
    out = np.empty_like(rgb)
    rows, columns = depth_m.shape
    for row in range(rows):
        for column in range(columns):
            z = depth_m[row, column]
            t = math.exp(-beta * z)
            white = 0.0
            near_ground = abs(over_ground[row, column]) < _GROUND_M and z < 200
            if cover > 0 and near_ground and not stands(depth_m, over_ground, row, column):
                x = (column + 0.5 - cx) / fx * z
                noise = 0.5 + 0.5 * value_noise(key, x / _PATCH_M, (z + driven_m) / _PATCH_M)
                # Patches grow together: the share of points with noise below the cover is about the cover.
                white = min(max((cover - noise) / 0.3 + cover, 0.0), 1.0)
            # What light and shadow do to the ground stays visible on the snow.
            shade = 0.7 + 0.3 * min(decode(rgb[row, column, 1]) / np.float32(0.2), np.float32(1))
            for c in range(3):
                day = decode(rgb[row, column, c])
                settled = _SETTLED_WHITE * shade * light[c]
                surface = day + (settled - day) * white
                out[row, column, c] = airlight[c] + (surface - airlight[c]) * t
    return out
