"""Rain: resolved drops as streaks in front of a scene dimmed by all the drops too small to see (spec section 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

from streams.frame import Intrinsics
from streams.weather.colour import (
    decode,
    decode_image,
    encode_image,
    encode_with_histogram,
    offset_for_mean,
    subtract_clipped,
)
from streams.weather.counter_rng import uniform_column
from streams.weather.drops import DropField, kept_at_rate, make_drop_field
from streams.weather.effect import Metadata, check_flag, check_number
from streams.weather.ground import heights_m
from streams.weather.ground_plane import ground_plane_depth
from streams.weather.lens import draw_lens, lens_drops
from streams.weather.streaks import Streaks, draw_streaks, make_streaks
from streams.weather.view import View
from streams.weather.water import wet_ground

REFERENCE_EXPOSURE_S = math.sqrt(1.16e-3) / 50
"""Exposure at which the published renderer's streaks have gain 1 (tau_0 = 0.68 ms)."""
CONTRAST_THRESHOLD = 0.05
_SOAKED_MM_H = 50.0


def rain_extinction_per_km(rate_mm_h: float) -> float:
    """Extinction of unresolved rain, 0.312 R^0.67 per km (Weber 2015)."""
    return 0.312 * rate_mm_h**0.67


def marshall_palmer_extinction_per_km(rate_mm_h: float) -> float:
    """Extinction from the drop sizes by geometric optics (efficiency 2): 0.365 R^0.63 per km. Within 6 % of Weber."""
    return math.pi * 8000 * 1e-6 / (4.1 * rate_mm_h**-0.21) ** 3 * 1000


@dataclass(frozen=True, slots=True)
class Rain:
    """Rain of a given rate.

    Attributes:
        rate_mm_h: Rain rate; 0 leaves the frame untouched.
        match_mean: Subtract the change of mean brightness, so that mean(output) = mean(input).
        gain: Brightness of streaks; 1 is true to energy and faint. None takes exposure / 0.68 ms, as the published
            rain sets do. Limited a streak so that gain times alpha is at most 0.6.
        exposure_ms: Exposure time of the camera.
        wind_mps: Sideways wind, positive to the right.
        ripple: Vary the brightness along streaks as oscillating drops do.
        wet: Darken the ground and let it mirror what stands on it, the more the heavier the rain up to 50 mm/h.
        lens: Drops on the lens.
        wiper: With ``lens``: a blade wipes it every 1.2 s.
        ceiling_mm_h: Largest rate that rain of changing rate reaches; its drops are those of this rate, thinned, so
            that no drop jumps when the rate changes. None draws the drops of the rate itself.
    """

    rate_mm_h: float = 50.0
    match_mean: bool = True
    gain: float | None = None
    exposure_ms: float = 5.0
    wind_mps: float = 0.0
    ripple: bool = False
    wet: bool = False
    lens: bool = False
    wiper: bool = False
    ceiling_mm_h: float | None = None

    def __post_init__(self) -> None:
        check_number("rain", "rate", self.rate_mm_h, 0, 1000, "mm/h")
        check_flag("rain", "match_mean", self.match_mean)
        if self.gain is not None:
            check_number("rain", "gain", self.gain, 0, 100, "")
        check_number("rain", "exposure", self.exposure_ms, 0.1, 100, "ms")
        check_number("rain", "wind", self.wind_mps, -30, 30, "m/s")
        for name in ("ripple", "wet", "lens", "wiper"):
            check_flag("rain", name, getattr(self, name))
        if self.ceiling_mm_h is not None:
            check_number("rain", "ceiling", self.ceiling_mm_h, self.rate_mm_h, 1000, "mm/h")

    def field(self, view: View) -> DropField:
        """The drops in front of the camera of ``view``."""
        height, width = view.depth_m.shape
        return make_drop_field(
            self.ceiling_mm_h or self.rate_mm_h,
            height,
            width,
            view.camera,
            self.exposure_ms / 1000,
            self.wind_mps,
            view.moment.seed,
        )

    def streaks(self, view: View) -> Streaks:
        """The streaks at the moment of ``view``, far to near."""
        moment, field = view.moment, self.field(view)
        kept = kept_at_rate(field, self.rate_mm_h, self.ceiling_mm_h) if self.ceiling_mm_h else None
        return make_streaks(field, moment.t_seconds, self.exposure_ms / 1000, moment.ego_speed_mps, kept)

    def apply(self, view: View) -> tuple[NDArray[np.float32], Metadata]:
        """Dim by distance, draw the streaks, restore the mean; see `streams.weather.effect.Effect.apply`."""
        airlight = view.statistics.airlight
        if self.rate_mm_h == 0:
            clear = Metadata("rain", view.moment.seed, 0.0, math.inf, CONTRAST_THRESHOLD, airlight)
            return view.rgb, clear
        extinction_per_km = rain_extinction_per_km(self.rate_mm_h)
        gain = self.exposure_ms / 1000 / REFERENCE_EXPOSURE_S if self.gain is None else self.gain
        rgb = self._wetted(view) if self.wet else np.ascontiguousarray(view.rgb)
        mean = float(rgb.mean(dtype=np.float64))
        linear = _attenuate(rgb, _transmission(view, extinction_per_km / 1000), np.array(airlight, np.float32))
        streaks = self.streaks(view)
        waves = _waves(self.field(view), streaks) if self.ripple else None
        cover = draw_streaks(linear, view.depth_m, streaks, gain, view.statistics.drop_radiance, waves)
        counts = encode_with_histogram(linear)
        if self.match_mean:
            subtract_clipped(linear, np.float32(offset_for_mean(counts, mean)))
        return linear, Metadata(
            event="rain",
            seed=view.moment.seed,
            extinction_per_km=extinction_per_km,
            visibility_m=-math.log(CONTRAST_THRESHOLD) / extinction_per_km * 1000,
            contrast_threshold=CONTRAST_THRESHOLD,
            airlight=airlight,
            drops=int(streaks.in_view.sum()),
            cover=cover,
            gain=gain,
        )

    def finish(self, view: View) -> NDArray[np.float32]:
        """Drops on the lens; see `streams.weather.effect.Finishes`."""
        if not self.lens or self.rate_mm_h == 0:
            return view.rgb
        height, width = view.depth_m.shape
        moment = view.moment
        return draw_lens(view.rgb, lens_drops(self.rate_mm_h, height, width, moment.t_seconds, moment.seed, self.wiper))

    def _wetted(self, view: View) -> NDArray[np.float32]:
        camera, plane = view.camera, view.statistics.ground
        linear = decode_image(np.ascontiguousarray(view.rgb))
        height = linear.shape[0]
        rough = np.asarray(cv2.blur(linear, (max(1, height // 128), max(1, height // 16))), np.float32)
        return encode_image(
            wet_ground(
                linear, rough, view.depth_m, heights_m(view.depth_m, plane, camera), np.array(plane[:3]),
                min(1.0, self.rate_mm_h / _SOAKED_MM_H), camera.fx, camera.fy, camera.cx, camera.cy,
                np.array(view.statistics.airlight, np.float32),
            )
        )  # fmt: skip


def _waves(field: DropField, streaks: Streaks) -> NDArray[np.float64]:
    """Wavelength (1 to 3 widths) and phase of the ripple of every streak, fixed for each drop."""
    count = field.diameter_m.size
    widths = 1 + 2 * uniform_column(field.key, count, -2, 0)[streaks.drop]
    phase = uniform_column(field.key, count, -2, 1)[streaks.drop]
    return np.stack([widths * streaks.width_px, phase], axis=1)


def _transmission(view: View, beta_per_m: float) -> NDArray[np.float32]:
    """Share of light ``(H, W)`` that comes through; kept where depth is the same street canyon in every frame."""
    if view.depth_measured:
        return _left_over(view.depth_m, np.float32(beta_per_m))
    return _of_canyon(*view.depth_m.shape, view.camera, beta_per_m)


@lru_cache(maxsize=4)
def _of_canyon(height: int, width: int, camera: Intrinsics, beta_per_m: float) -> NDArray[np.float32]:
    return _left_over(ground_plane_depth(height, width, camera).copy(), np.float32(beta_per_m))


@njit(cache=True)
def _left_over(depth_m: NDArray[np.float32], beta: np.float32) -> NDArray[np.float32]:
    """exp(-beta z)."""
    out = np.empty_like(depth_m)
    rows, columns = depth_m.shape
    for row in range(rows):
        for column in range(columns):
            out[row, column] = math.exp(-beta * depth_m[row, column])
    return out


@njit(cache=True)
def _attenuate(
    rgb: NDArray[np.float32], transmission: NDArray[np.float32], airlight: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Linear light I = J t + A (1 - t), from sRGB."""
    out = np.empty_like(rgb)
    rows, columns = transmission.shape
    for row in range(rows):
        for column in range(columns):
            t = transmission[row, column]
            for c in range(3):
                out[row, column, c] = airlight[c] + (decode(rgb[row, column, c]) - airlight[c]) * t
    return out
