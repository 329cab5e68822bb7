"""Fog by visibility: Koschmieder's law, homogeneous or in drifting banks (spec section 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streams.weather.colour import decode, encode
from streams.weather.counter_rng import event_key
from streams.weather.effect import Metadata, check_flag, check_number
from streams.weather.ground_plane import DEPTH_CAP_M
from streams.weather.guided_filter import guided_filter
from streams.weather.value_noise import noise_between, noise_lattice
from streams.weather.view import View

_REFINE_RADIUS_PER_WIDTH = 20 / 1024
_REFINE_EPSILON = 1e-3
_BANK_SIZE_M = 20.0
_RAY_STEPS = 64
_DRIFT_MPS = 1.0
_MIST_TINT = (0.9, 1.0, 1.1)


def fog_extinction_per_m(visibility_m: float, contrast_threshold: float = 0.05) -> float:
    """Extinction coefficient -ln(C) / V: contrast falls to C at distance V (Koschmieder)."""
    return -math.log(contrast_threshold) / visibility_m


@dataclass(frozen=True, slots=True)
class Fog:
    """Fog of a given visibility.

    Attributes:
        visibility_m: Distance at which contrast has fallen to ``contrast_threshold``; inf leaves the frame untouched.
        contrast_threshold: 0.05 (meteorological optical range) or 0.02 (older usage; denser at equal visibility).
        refine: Smooth transmission along image edges with a guided filter, which hides errors of depth.
        patchiness: Share by which density varies in banks that drift through the scene at 1 m/s; 0 is homogeneous.
        mist: Scatter blue more than red, as thin mist does; otherwise fog is grey.
    """

    visibility_m: float = 150.0
    contrast_threshold: float = 0.05
    refine: bool = True
    patchiness: float = 0.0
    mist: bool = False

    def __post_init__(self) -> None:
        check_number("fog", "visibility", self.visibility_m, 1, math.inf, "m")
        check_number("fog", "contrast", self.contrast_threshold, 0.001, 0.5, "")
        check_flag("fog", "refine", self.refine)
        check_number("fog", "patchiness", self.patchiness, 0, 1, "")
        check_flag("fog", "mist", self.mist)

    def transmission(self, view: View) -> NDArray[np.float32]:
        """``(H, W)`` float32 share of light in [0, 1] that reaches the camera unscattered (green channel)."""
        beta = fog_extinction_per_m(self.visibility_m, self.contrast_threshold)
        if self.patchiness > 0:
            moment, camera = view.moment, view.camera
            plane = _patchy_transmission(
                view.depth_m, beta, self.patchiness, camera.fx, camera.cx, event_key(moment.seed, "fog"),
                _DRIFT_MPS * moment.t_seconds, moment.ego_speed_mps * moment.t_seconds,
            )  # fmt: skip
        else:
            plane = np.exp(view.depth_m * np.float32(-beta))
        if self.refine:
            radius = max(1, round(_REFINE_RADIUS_PER_WIDTH * plane.shape[1]))
            plane = guided_filter(view.rgb, plane, radius, _REFINE_EPSILON, step=max(1, radius // 5))
        return plane

    def apply(self, view: View) -> tuple[NDArray[np.float32], Metadata]:
        """Blend towards the airlight by distance; see `streams.weather.effect.Effect.apply`."""
        airlight = view.statistics.airlight
        beta = (
            0.0 if math.isinf(self.visibility_m) else fog_extinction_per_m(self.visibility_m, self.contrast_threshold)
        )
        record = Metadata(
            "fog", view.moment.seed, beta * 1000, self.visibility_m, self.contrast_threshold, airlight
        )  # fmt: skip
        if beta == 0:
            return view.rgb, record
        tint = np.array(_MIST_TINT if self.mist else (1.0, 1.0, 1.0), np.float32)
        rgb = np.ascontiguousarray(view.rgb)
        return _blend(rgb, self.transmission(view), np.array(airlight, np.float32), tint), record


@njit(cache=True)
def _blend(
    rgb: NDArray[np.float32], transmission: NDArray[np.float32], airlight: NDArray[np.float32],
    tint: NDArray[np.float32],
) -> NDArray[np.float32]:  # fmt: skip
    """sRGB of J t^tint + A (1 - t^tint) in linear light."""
    out = np.empty_like(rgb)
    rows, columns = transmission.shape
    for row in range(rows):
        for column in range(columns):
            t = min(max(transmission[row, column], np.float32(0)), np.float32(1))
            for c in range(3):
                share = t if tint[c] == 1 else t ** tint[c]
                out[row, column, c] = encode(airlight[c] + (decode(rgb[row, column, c]) - airlight[c]) * share)
    return out


@njit(cache=True)
def _patchy_transmission(
    depth_m: NDArray[np.float32], beta: float, patchiness: float, fx: float, cx: float, key: np.uint64,
    drift_m: float, driven_m: float,
) -> NDArray[np.float32]:  # fmt: skip
    """exp(-integral of beta (1 + patchiness n) along the ray), integrated once a column in steps of about 4 m."""
    out = np.empty_like(depth_m)
    rows, columns = depth_m.shape
    step_m = DEPTH_CAP_M / _RAY_STEPS
    left, right, farthest = (0.5 - cx) / fx, (columns - 0.5 - cx) / fx, (_RAY_STEPS - 0.5) * step_m
    values, first = noise_lattice(
        key,
        (min(left * farthest, left * 0.5 * step_m) - drift_m) / _BANK_SIZE_M,
        (max(right * farthest, right * 0.5 * step_m) - drift_m) / _BANK_SIZE_M,
        (0.5 * step_m + driven_m) / _BANK_SIZE_M,
        (farthest + driven_m) / _BANK_SIZE_M,
    )
    optical = np.zeros((columns, _RAY_STEPS + 1))
    for column in range(columns):
        aside = (column + 0.5 - cx) / fx
        for k in range(_RAY_STEPS):
            z = (k + 0.5) * step_m
            x = (aside * z - drift_m) / _BANK_SIZE_M
            noise = noise_between(values, first, x, (z + driven_m) / _BANK_SIZE_M)
            optical[column, k + 1] = optical[column, k] + beta * (1 + patchiness * noise) * step_m
    for row in range(rows):
        for column in range(columns):
            position = depth_m[row, column] / step_m
            k = min(int(position), _RAY_STEPS - 1)
            here = optical[column, k]
            out[row, column] = math.exp(-here - (optical[column, k + 1] - here) * (position - k))
    return out
