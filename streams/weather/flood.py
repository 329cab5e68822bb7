"""Flood: a level sheet of muddy, rippled water over the ground plane (spec section 9).

A pixel is water where the ray meets the water before it meets the scene; kerbs, cars and walls stand out by themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

from streams.frame import IGNORE_ID
from streams.weather.colour import decode, encode
from streams.weather.effect import Metadata, check_choice, check_number
from streams.weather.ground_plane import DEPTH_CAP_M
from streams.weather.view import View
from streams.weather.water import fresnel, reflected_pixel

LABELS = ("keep", "ignore")
MUD = (0.35, 0.30, 0.22)
SEEN_THROUGH = 0.35
_LEAST_HEIGHT_M = 0.15
_FOAM_M, _FOAM = 0.03, 0.2
_AMPLITUDE_M, _GRAVITY = 0.01, 9.81
# Wavelength in metres and direction of travel (radians from the right) of the four sines. The longest is 1 cm high, the
# others as steep as that.
_WAVES = np.array([(2.0, 0.4), (1.1, 1.9), (0.6, 2.9), (0.3, -0.7)])
_ACROSS, _ALONG = np.cos(_WAVES[:, 1]), np.sin(_WAVES[:, 1])
_UNSEEN = 750.0
"""exp of less than minus this is 0 in double precision."""


@dataclass(frozen=True, slots=True)
class Flood:
    """Standing water.

    Attributes:
        level_m: Height of the water over the ground; 0 leaves the frame untouched. It stays 15 cm below the camera.
        labels: ``keep`` scores what stood there before; ``ignore`` leaves what is under water out of the scores.
    """

    level_m: float = 0.3
    labels: str = "keep"

    def __post_init__(self) -> None:
        check_number("flood", "level", self.level_m, 0, 2, "m")
        check_choice("flood", "labels", self.labels, LABELS)

    def water_depth_m(self, view: View) -> NDArray[np.float32]:
        """``(H, W)`` float32 distance along the axis to the water; inf where the scene is nearer or there is none."""
        plane, camera = view.statistics.ground, view.camera
        # Sky below the horizon of the plane (over the edge of a hill) is no water.
        farthest = 0.98 * DEPTH_CAP_M if view.depth_measured else math.inf
        return _surface(
            view.depth_m, np.array(plane[:3]), max(plane[3] - self.level_m, _LEAST_HEIGHT_M), camera.fx, camera.fy,
            camera.cx, camera.cy, farthest,
        )  # fmt: skip

    def apply(self, view: View) -> tuple[NDArray[np.float32], Metadata]:
        """Lay the water over the scene; see `streams.weather.effect.Effect.apply`."""
        airlight, moment, camera = view.statistics.airlight, view.moment, view.camera
        surface = self.water_depth_m(view) if self.level_m > 0 else np.full((1, 1), np.inf, np.float32)
        record = Metadata(
            "flood", moment.seed, 0.0, math.inf, 0.05, airlight, cover=float(np.isfinite(surface).mean()),
            strength=float(self.level_m),
        )  # fmt: skip
        if self.level_m == 0:
            return view.rgb, record
        rgb = _lay(
            np.ascontiguousarray(view.rgb), view.depth_m, surface, np.array(view.statistics.ground[:3]),
            camera.fx, camera.fy, camera.cx, camera.cy, np.array(airlight, np.float32), moment.t_seconds,
            moment.ego_speed_mps * moment.t_seconds,
        )  # fmt: skip
        return rgb, record

    def relabel(self, view: View, label: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The label as it shall be scored; see `streams.weather.effect.Relabels`."""
        if self.labels == "keep" or self.level_m == 0:
            return label
        water = np.isfinite(self.water_depth_m(view)).astype(np.uint8)
        under = np.asarray(cv2.resize(water, label.shape[::-1], interpolation=cv2.INTER_NEAREST)) > 0
        return np.where(under, np.uint8(IGNORE_ID), label)


@njit(cache=True)
def _surface(
    depth_m: NDArray[np.float32], normal: NDArray[np.float64], over_water_m: float, fx: float, fy: float, cx: float,
    cy: float, farthest_m: float,
) -> NDArray[np.float32]:  # fmt: skip
    out = np.full(depth_m.shape, np.inf, np.float32)
    rows, columns = depth_m.shape
    for row in range(rows):
        down = normal[1] * ((row + 0.5 - cy) / fy)
        for column in range(columns):
            along = normal[0] * ((column + 0.5 - cx) / fx) + down + normal[2]
            if along > 1e-4:
                z = over_water_m / along
                if z < depth_m[row, column] and z < DEPTH_CAP_M and depth_m[row, column] < farthest_m:
                    out[row, column] = z
    return out


@njit(cache=True)
def _lay(
    rgb: NDArray[np.float32], depth_m: NDArray[np.float32], surface: NDArray[np.float32],
    normal: NDArray[np.float64], fx: float, fy: float, cx: float, cy: float, airlight: NDArray[np.float32], t: float,
    driven_m: float,
) -> NDArray[np.float32]:  # fmt: skip
    """The sRGB image with water where its surface is finite; what is dry stays as it is, to the bit."""
    out = rgb.copy()
    rows, columns = depth_m.shape
    flat = rgb.reshape(-1, 3)
    steep = _AMPLITUDE_M * 2 * math.pi / _WAVES[0, 0]
    numbers = 2 * math.pi / _WAVES[:, 0]
    phases = np.sqrt(_GRAVITY * numbers) * t
    for row in range(rows):
        for column in range(columns):
            z = surface[row, column]
            if not z < DEPTH_CAP_M:
                continue
            x, y = (column + 0.5 - cx) / fx * z, (row + 0.5 - cy) / fy * z
            distance = math.sqrt(x * x + y * y + z * z)
            level = (x * normal[0] + y * normal[1] + z * normal[2]) / distance
            # Waves shorter than what a pixel covers are not seen.
            covered = z / fx / max(level, 0.01)
            slope_x, slope_z = 0.0, 0.0
            for k in range(_WAVES.shape[0]):
                hidden = (2 * covered / _WAVES[k, 0]) ** 2
                if hidden > _UNSEEN:
                    continue
                way = x * _ACROSS[k] + (z + driven_m) * _ALONG[k]
                slope = steep * math.exp(-hidden) * math.cos(numbers[k] * way - phases[k] + k)
                slope_x += slope * _ACROSS[k]
                slope_z += slope * _ALONG[k]
            nx, ny, nz = normal[0] + slope_x, normal[1], normal[2] + slope_z
            size = math.sqrt(nx * nx + ny * ny + nz * nz)
            nx, ny, nz = nx / size, ny / size, nz / size
            share = fresnel((x * nx + y * ny + z * nz) / distance)
            pixel = reflected_pixel(depth_m, x, y, z, nx, ny, nz, fx, fy, cx, cy)
            foam = _FOAM if depth_m[row, column] - z < max(_FOAM_M, 0.5 * z / fx) else 0.0
            for c in range(3):
                mirrored = airlight[c] if pixel < 0 else decode(flat[pixel, c])
                through = decode(rgb[row, column, c])
                body = SEEN_THROUGH * through + (1 - SEEN_THROUGH) * MUD[c] * airlight[c]
                out[row, column, c] = encode(np.float32((share * mirrored + (1 - share) * body) * (1 + foam)))
    return out
