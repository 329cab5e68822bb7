"""Streaks: the image of falling drops over one exposure, drawn anti-aliased, back to front, behind nearer surfaces."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streams.weather.drops import NEAR_CLIP_M, DropField

# The Cityscapes set-up of the published rain sets: 6 mm lens at f/6 focused at 6 m, 2.2 um pixels, f = 2262 px.
_LENS_MM, _STOP, _FOCUS_MM, _PIXEL_MM, _NATIVE_FOCAL_PX = 6.0, 6.0, 6000.0, 2.2e-3, 2262.0
_LARGEST_GAIN_ALPHA = 0.6


@dataclass(frozen=True, slots=True)
class Streaks:
    """Streaks of one exposure, sorted from far to near; every array has one entry a streak.

    Attributes:
        drop: int64 index of the drop in its field.
        head: ``(n, 2)`` float64 pixel position (u, v) when the shutter opens; pixel centres lie at half-integers.
        tail: ``(n, 2)`` float64 pixel position when it closes.
        depth_m: float64 distance along the optical axis when the shutter opens.
        width_px: float64 width D f / z.
        blur_px: float64 diameter of the circle of confusion.
        alpha: float64 share of the exposure that a pixel of the streak is covered, w / (w + L).
        in_view: bool; the head lies inside the image.
    """

    drop: NDArray[np.int64]
    head: NDArray[np.float64]
    tail: NDArray[np.float64]
    depth_m: NDArray[np.float64]
    width_px: NDArray[np.float64]
    blur_px: NDArray[np.float64]
    alpha: NDArray[np.float64]
    in_view: NDArray[np.bool_]

    @property
    def length_px(self) -> NDArray[np.float64]:
        """``(n,)`` float64 distance from head to tail in pixels."""
        return np.hypot(*(self.tail - self.head).T)


def make_streaks(
    field: DropField,
    t_seconds: float,
    exposure_s: float,
    ego_speed_mps: float = 0.0,
    kept: NDArray[np.bool_] | None = None,
) -> Streaks:
    """The streaks that touch the image during the exposure that starts at ``t_seconds`` (spec section 2).

    Args:
        field: Drops in front of the camera.
        t_seconds: Time at which the shutter opens.
        exposure_s: Exposure time.
        ego_speed_mps: Forward speed of the camera.
        kept: ``(n,)`` which drops of the field fall; None keeps all.
    """
    start = field.positions(t_seconds, ego_speed_mps)
    seen = start[:, 2] >= NEAR_CLIP_M
    drop = np.flatnonzero(seen if kept is None else seen & kept)
    drop = drop[np.argsort(-start[drop, 2], kind="stable")]
    motion = np.stack(
        [np.full(drop.size, field.wind_mps), field.speed_mps[drop], np.full(drop.size, -ego_speed_mps)], axis=1
    )
    return project_streaks(field, drop, start[drop], motion * exposure_s)


def project_streaks(
    field: DropField, drop: NDArray[np.int64], start: NDArray[np.float64], path: NDArray[np.float64]
) -> Streaks:
    """Streaks of particles that touch the image.

    Args:
        field: What the particles belong to.
        drop: ``(n,)`` their indices, far to near.
        start: ``(n, 3)`` metres when the shutter opens, none nearer than the near clip.
        path: ``(n, 3)`` metres that each moves during the exposure.
    """
    camera, diameter = field.camera, field.diameter_m[drop]
    end = start + path
    end[:, 2] = np.maximum(end[:, 2], NEAR_CLIP_M / 4)  # a drop never passes through the lens within an exposure
    focal, centre = np.array([camera.fx, camera.fy]), np.array([camera.cx, camera.cy])
    head = start[:, :2] / start[:, 2:] * focal + centre
    tail = end[:, :2] / end[:, 2:] * focal + centre
    depth = start[:, 2]
    width = diameter * camera.fx / depth
    size = np.array([field.width, field.height])
    in_view = ((head >= 0) & (head < size)).all(axis=1)
    reach = width[:, None] * 2
    touches = ((np.maximum(head, tail) + reach > 0) & (np.minimum(head, tail) - reach < size)).all(axis=1)
    length = np.hypot(*(tail - head).T)
    depth_mm = depth * 1000
    circle_mm = _LENS_MM**2 * np.abs(depth_mm - _FOCUS_MM) / (_STOP * depth_mm * (_FOCUS_MM - _LENS_MM))
    blur = circle_mm / _PIXEL_MM * camera.fx / _NATIVE_FOCAL_PX
    alpha = width / (width + length)
    return Streaks(*(column[touches] for column in (drop, head, tail, depth, width, blur, alpha, in_view)))


def streak_gains(alpha: NDArray[np.float64], gain: float) -> NDArray[np.float64]:
    """Gain of every streak: ``gain``, limited so that gain times alpha is at most 0.6."""
    return np.minimum(gain, _LARGEST_GAIN_ALPHA / np.maximum(alpha, 1e-9))


def draw_streaks(
    linear: NDArray[np.float32],
    depth_m: NDArray[np.float32],
    streaks: Streaks,
    gain: float,
    radiance: tuple[float, float, float],
    ripple: NDArray[np.float64] | None = None,
) -> float:
    """Composite streaks into ``linear`` in place: I = (1 - a) I + g a E with a = alpha times the streak's profile.

    The profile is Gaussian across (sigma = w / 2.5, widened by defocus and by the pixel itself at constant energy) and
    ramps over the width at both ends. Pixels whose surface is nearer than the drop are skipped.

    Args:
        linear: ``(H, W, 3)`` float32 linear light, changed in place.
        depth_m: ``(H, W)`` float32 scene depth.
        streaks: Sorted far to near.
        gain: Brightness gain g, see `streak_gains`.
        radiance: Linear RGB light E that a drop sends to the camera.
        ripple: ``(n, 2)`` float64 wavelength (pixels) and phase (turns) of the brightness along each streak; None
            for even streaks.

    Returns:
        Share of pixels covered by streaks, in [0, 1].
    """
    waves = np.zeros((0, 2)) if ripple is None else ripple
    covered = np.zeros(linear.shape[:2], np.bool_)
    _draw(
        linear, depth_m, covered, streaks.head, streaks.tail, streaks.depth_m, streaks.width_px, streaks.blur_px,
        streaks.alpha, streak_gains(streaks.alpha, gain), np.array(radiance, np.float32), waves,
    )  # fmt: skip
    return float(np.count_nonzero(covered)) / covered.size


@njit(cache=True, inline="always")
def _ramp(distance: float, width: float) -> float:
    if distance >= 0.5 * width:
        return 1.0
    x = min(max(distance / width + 0.5, 0.0), 1.0)
    return x * x * (3 - 2 * x)


@njit(cache=True)
def _draw(
    image: NDArray[np.float32], scene_depth: NDArray[np.float32], covered: NDArray[np.bool_],
    head: NDArray[np.float64], tail: NDArray[np.float64], depth: NDArray[np.float64], width: NDArray[np.float64],
    blur: NDArray[np.float64], alpha: NDArray[np.float64], gain: NDArray[np.float64], radiance: NDArray[np.float32],
    waves: NDArray[np.float64],
) -> None:  # fmt: skip
    rows, columns = scene_depth.shape
    for i in range(depth.size):
        u0, v0, u1, v1 = head[i, 0], head[i, 1], tail[i, 0], tail[i, 1]
        length = math.hypot(u1 - u0, v1 - v0)
        du, dv = ((u1 - u0) / length, (v1 - v0) / length) if length > 1e-6 else (0.0, 1.0)
        variance = (width[i] * width[i] + blur[i] * blur[i]) / 6.25 + 1 / 12
        strength = alpha[i] * (width[i] / 2.5) / math.sqrt(variance)
        side, twice = 3 * math.sqrt(variance), 2 * variance
        end = max(width[i], blur[i], 1.0)
        margin_u, margin_v = side * abs(dv) + end * abs(du), side * abs(du) + end * abs(dv)
        left, right = min(u0, u1) - margin_u, max(u0, u1) + margin_u
        top, bottom = min(v0, v1) - margin_v, max(v0, v1) + margin_v
        for row in range(max(0, math.floor(top)), min(rows, math.floor(bottom) + 1)):
            y = row + 0.5 - v0
            low, high = left, right
            if abs(dv) > 0.2:  # only the few pixels of this row that the streak crosses
                middle, reach = u0 + y * du / dv, side / abs(dv)
                low, high = max(low, middle - reach), min(high, middle + reach)
            for column in range(max(0, math.floor(low)), min(columns, math.floor(high) + 1)):
                if scene_depth[row, column] < depth[i]:
                    continue
                x = column + 0.5 - u0
                along, across = x * du + y * dv, x * dv - y * du
                if along <= -0.5 * end or along >= length + 0.5 * end:
                    continue  # past the soft ends
                profile = math.exp(-across * across / twice)
                profile *= _ramp(along, end) * _ramp(length - along, end)
                a = strength * profile
                if a < 1e-4:
                    continue
                if profile >= 0.5:
                    covered[row, column] = True
                light = gain[i] * a
                if waves.shape[0]:
                    light *= 1 + 0.3 * math.cos(2 * math.pi * (along / waves[i, 0] + waves[i, 1]))
                for c in range(3):
                    image[row, column, c] = image[row, column, c] * (1 - a) + light * radiance[c]
