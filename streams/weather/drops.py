"""Falling drops: how many, how large, how fast, and where each of them is at any time.

Sizes follow Marshall and Palmer, N(D) = N0 exp(-L D) with N0 = 8000 /m3/mm and L = 4.1 R^-0.21 /mm; fall speeds follow
Atlas, v(D) = 9.65 - 10.3 exp(-0.6 D) m/s (specs/weather.md, section 2).

A drop is drawn as a streak only where its image is at least a pixel wide, z <= D f. Each drop therefore lives in a
periodic box that just holds the part of the viewing frustum where it can be seen (depth D f, the frustum's width and
height there, and a margin). Density and statistics are those of one large box for all sizes, at about a hundredth of
the drops. Every time a drop leaves through the bottom it gets a new place from the generator, keyed by (seed, event,
drop, times fallen): the rain never repeats, and any moment can be computed on its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streams.frame import Intrinsics
from streams.weather.counter_rng import event_key, uniform, uniform_column

N0_PER_M3_MM = 8000.0
DIAMETER_MAX_MM = 6.0
DIAMETER_MIN_MM = 0.1
NEAR_CLIP_M = 0.5
_MARGIN_M = 0.05
_TABLE_STEPS = 4096


def slope_per_mm(rate_mm_h: float) -> float:
    """Slope of the Marshall-Palmer drop size distribution at rain rate ``rate_mm_h``, in 1/mm."""
    return 4.1 * rate_mm_h**-0.21


def fall_speed_mps(diameter_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Terminal speed of drops of ``diameter_mm`` (any shape) in m/s, never negative (Atlas)."""
    return np.maximum(9.65 - 10.3 * np.exp(-0.6 * diameter_mm), 0.0)


def smallest_streak_mm(focal_px: float) -> float:
    """Diameter of the smallest drop that is a pixel wide at the near clip of 0.5 m."""
    return max(DIAMETER_MIN_MM, NEAR_CLIP_M * 1000 / focal_px)


def resolved_density_per_m3(rate_mm_h: float, focal_px: float) -> float:
    """Drops per cubic metre that are large enough to be a streak at the near clip: (N0/L) exp(-L D_min)."""
    slope = slope_per_mm(rate_mm_h)
    return N0_PER_M3_MM / slope * math.exp(-slope * smallest_streak_mm(focal_px))


def near_clip_correction(rate_mm_h: float, height: int, width: int, focal_px: float) -> float:
    """Drops in the part of the frustum in front of the near clip, which are not drawn."""
    volume_m3 = width * height / (3 * focal_px**2) * NEAR_CLIP_M**3
    return volume_m3 * resolved_density_per_m3(rate_mm_h, focal_px)


def expected_streaks(rate_mm_h: float, height: int, width: int, focal_px: float) -> float:
    """Expected number of drops in view that are at least a pixel wide, before the near-clip correction."""
    return width * height * focal_px / 3 * N0_PER_M3_MM * 6 / slope_per_mm(rate_mm_h) ** 4 * 1e-9


@dataclass(frozen=True, slots=True)
class DropField:
    """The drops of one rain in front of one camera; places are computed, not stored.

    Attributes:
        key: Key of the random numbers.
        diameter_m: ``(n,)`` float64, ascending.
        speed_mps: ``(n,)`` float64 fall speed.
        camera: Intrinsics in pixels.
        height, width: Image size in pixels.
        margin_m: Room around the frustum that hides appearance and disappearance.
        wind_mps: Sideways wind, positive to the right.
    """

    key: np.uint64
    diameter_m: NDArray[np.float64]
    speed_mps: NDArray[np.float64]
    camera: Intrinsics
    height: int
    width: int
    margin_m: float
    wind_mps: float

    def positions(self, t_seconds: float, ego_speed_mps: float = 0.0) -> NDArray[np.float64]:
        """Where every drop is at ``t_seconds`` for a camera that drives forward at ``ego_speed_mps``.

        Returns:
            ``(n, 3)`` float64 metres: x to the right, y down, z ahead of the camera. Drops outside the view and nearer
            than the near clip are included.
        """
        c = self.camera
        return _positions(
            self.key, self.diameter_m, self.speed_mps, c.fx, c.fy, c.cx, c.cy, self.height, self.width,
            self.margin_m, self.wind_mps, ego_speed_mps, t_seconds,
        )  # fmt: skip


@lru_cache(maxsize=32)
def make_drop_field(
    rate_mm_h: float, height: int, width: int, camera: Intrinsics, exposure_s: float, wind_mps: float, seed: int,
    event: str = "rain",
) -> DropField:  # fmt: skip
    """Draw the drops of a rain for a camera.

    Args:
        rate_mm_h: Rain rate, above 0.
        height: Rows of the image.
        width: Columns of the image.
        camera: Intrinsics in pixels.
        exposure_s: Exposure time; the margin of the box holds the streak of the fastest drop.
        wind_mps: Sideways wind.
        seed: Seed of the stream's weather.
        event: Name that separates the random numbers of events.
    """
    key = event_key(seed, event)
    slope, smallest = slope_per_mm(rate_mm_h), smallest_streak_mm(camera.fx)
    margin = _MARGIN_M + (10.0 + abs(wind_mps)) * exposure_s
    if smallest >= DIAMETER_MAX_MM:  # an image so small that no drop is a pixel wide
        diameter = np.empty(0)
    else:
        edges = np.linspace(smallest, DIAMETER_MAX_MM, _TABLE_STEPS)
        middle = (edges[1:] + edges[:-1]) / 2
        mass = N0_PER_M3_MM * np.exp(-slope * middle) * np.diff(edges)
        # Larger drops are counted as 6 mm ones: beyond that drops break up.
        mass = np.append(mass, N0_PER_M3_MM / slope * math.exp(-slope * DIAMETER_MAX_MM))
        diameter = draw_sizes(key, np.append(middle, DIAMETER_MAX_MM), mass, height, width, camera, margin)
    return DropField(key, diameter * 1e-3, fall_speed_mps(diameter), camera, height, width, margin, wind_mps)


def kept_at_rate(field: DropField, rate_mm_h: float, ceiling_mm_h: float) -> NDArray[np.bool_]:
    """Which drops of a field drawn for ``ceiling_mm_h`` fall at a lower rate: ``(n,)`` bool.

    N0 is the same at every rate, so that keeping a drop of diameter D with probability exp(-(L - L_ceiling) D) gives
    exactly the sizes of the lower rate; each drop decides once, so that rain that grows adds drops and moves none.
    """
    excess = slope_per_mm(rate_mm_h) - slope_per_mm(ceiling_mm_h)
    mark = uniform_column(field.key, field.diameter_m.size, -1, 7)
    return np.asarray(mark < np.exp(-excess * field.diameter_m * 1e3))


def draw_sizes(
    key: np.uint64, size_mm: NDArray[np.float64], mass_per_m3: NDArray[np.float64], height: int, width: int,
    camera: Intrinsics, margin_m: float,
) -> NDArray[np.float64]:  # fmt: skip
    """Diameters in mm, ascending, of all particles in their boxes.

    Args:
        key: Key of the random numbers.
        size_mm: ``(k,)`` diameters, ascending.
        mass_per_m3: ``(k,)`` particles of each size in a cubic metre.
        height: Rows of the image.
        width: Columns of the image.
        camera: Intrinsics in pixels.
        margin_m: Room around the frustum.
    """
    cumulative = np.cumsum(mass_per_m3 * _box_volume_m3(size_mm * 1e-3, height, width, camera, margin_m))
    count = round(float(cumulative[-1]))
    # Stratified quantiles: the size histogram of every seed matches the distribution closely.
    jitter = uniform_column(key, count, -1, 0)
    index = np.searchsorted(cumulative, (np.arange(count) + jitter) / max(count, 1) * cumulative[-1])
    return size_mm[np.minimum(index, size_mm.size - 1)]


def _box_volume_m3(
    diameter_m: NDArray[np.float64], height: int, width: int, camera: Intrinsics, margin_m: float
) -> NDArray[np.float64]:
    depth = diameter_m * camera.fx
    return (width / camera.fx * depth + 2 * margin_m) * (height / camera.fy * depth + 2 * margin_m) * depth


@njit(cache=True)
def _positions(
    key: np.uint64, diameter: NDArray[np.float64], speed: NDArray[np.float64], fx: float, fy: float, cx: float,
    cy: float, height: int, width: int, margin: float, wind: float, ego: float, t: float,
) -> NDArray[np.float64]:  # fmt: skip
    out = np.empty((diameter.size, 3))
    for i in range(diameter.size):
        box_z = diameter[i] * fx
        box_x = width / fx * box_z + 2 * margin
        box_y = height / fy * box_z + 2 * margin
        fallen = uniform(key, i, 0, 1) * box_y + speed[i] * t
        falls = math.floor(fallen / box_y)
        ahead = uniform(key, i, falls, 2) * box_z - ego * t
        passes = math.floor(ahead / box_z)
        aside = uniform(key, i, falls, 3 + passes * 4) * box_x + wind * t
        out[i, 0] = aside - math.floor(aside / box_x) * box_x - cx / fx * box_z - margin
        out[i, 1] = fallen - falls * box_y - cy / fy * box_z - margin
        out[i, 2] = ahead - passes * box_z
    return out
