"""Unlit colours of what moves: car bodies and glass, buses and lorries, people and cycles, by part."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streams.city import _env as E
from streams.city import _prims as P
from streams.city import _shapes as S
from streams.city import _shapes_figures as B
from streams.city._math import band, clamp, kernel, noise, pulse, rnd

RGB = tuple[float, float, float]


@kernel
def _mix(r: float, g: float, b: float, r2: float, g2: float, b2: float, t: float) -> RGB:
    return r + (r2 - r) * t, g + (g2 - g) * t, b + (b2 - b) * t


@kernel
def _glass(env: NDArray[np.float64], up: float) -> RGB:
    """Dark panes that mirror the sky towards their top (``up`` 0-1)."""
    m = 0.12 + 0.34 * clamp(up, 0.0, 1.0)
    return 20.0 + m * env[E.HAZE_RGB], 23.0 + m * env[E.HAZE_RGB + 1], 26.0 + m * env[E.HAZE_RGB + 2]


@kernel
def _body(env: NDArray[np.float64], p: NDArray[np.float64], shine: float) -> RGB:
    """Paint that mirrors the sky by ``shine``."""
    r, g, b = p[P.RGB_A], p[P.RGB_A + 1], p[P.RGB_A + 2]
    return _mix(r, g, b, env[E.HAZE_RGB], env[E.HAZE_RGB + 1], env[E.HAZE_RGB + 2], shine)


@kernel
def car_part(env: NDArray[np.float64], p: NDArray[np.float64], u: float, v: float, part: int, cabin: bool) -> RGB:
    """Sides of a car."""
    if part == S.WHEEL:
        return 24.0, 24.0, 25.0
    if part == S.RIM:
        return 128.0, 130.0, 133.0
    if part == S.DARK:
        return 16.0, 16.0, 17.0
    if part == S.GLASS:
        return _glass(env, v / p[P.PARAM + 5])
    if part == S.TRIM:
        a = u / p[P.PARAM + 6]
        if p[P.PARAM + 7] < 0:
            a = 1.0 - a
        return (214.0, 212.0, 204.0) if a < 0.5 else (150.0, 22.0, 20.0)
    if cabin:
        return _body(env, p, 0.05)
    height = abs(p[P.PARAM + 7])
    t = v / height
    r, g, b = _body(env, p, 0.05 + 0.20 * band(t, 0.04, 0.50, 0.62))
    shade = 1.0 - 0.35 * clamp((0.34 - t) * 4.0, 0.0, 1.0)
    a = u / p[P.PARAM + 6]
    seam = band(a, 0.006, 0.375, 0.382) + band(a, 0.006, 0.615, 0.622)
    shade *= 1.0 - 0.45 * clamp(seam, 0.0, 1.0)
    return r * shade, g * shade, b * shade


@kernel
def car_strip(env: NDArray[np.float64], p: NDArray[np.float64], u: float, v: float) -> RGB:
    """Strips across a car: 0 nose, 1 bonnet, 2 windscreen, 3 roof, 4 rear window, 5 boot, 6 tail."""
    k = int(p[P.PARAM])
    half, size = p[P.PARAM + 1], p[P.PARAM + 2]
    t = v / size
    au = abs(u) / half
    if k == 1 or k == 5:
        return _body(env, p, 0.16)
    if k == 3:
        return _body(env, p, 0.20)
    if k == 2 or k == 4:
        if au > 0.93 or t < 0.04 or t > 0.95:
            return _body(env, p, 0.0)
        return _glass(env, t if k == 2 else 1.0 - t)
    if k == 6:
        t = 1.0 - t
    r, g, b = _body(env, p, 0.06)
    if t < 0.18:
        return 30.0, 30.0, 31.0
    if k == 0:
        if au > 0.58 and 0.62 < t < 0.92:
            return 224.0, 224.0, 218.0
        if au < 0.52 and 0.60 < t < 0.90:
            return 34.0 + 14.0 * pulse(t * 14.0, 0.3, 0.0, 0.5), 34.0, 36.0
    elif au > 0.62 and 0.58 < t < 0.90:
        return 176.0, 20.0, 20.0
    low, high = (0.30, 0.46) if k == 0 else (0.56, 0.76)
    if au < 0.30 and low < t < high:
        return 228.0, 228.0, 224.0
    if t < 0.40:
        return r * 0.78, g * 0.78, b * 0.78
    return r, g, b


@kernel
def box_side(
    env: NDArray[np.float64], tile: NDArray[np.float32], p: NDArray[np.float64], u: float, v: float, fu: float,
    fv: float, part: int,
) -> RGB:  # fmt: skip
    """Sides of buses (0), trams (2), cabs (3), cargo boxes (4-6) and bellows (7)."""
    if part == S.WHEEL:
        return 26.0, 26.0, 27.0
    if part == S.RIM:
        return 116.0, 117.0, 118.0
    if part == S.DARK:
        return 18.0, 18.0, 18.0
    style = int(p[P.PARAM + 6])
    length, height = p[P.PARAM], p[P.PARAM + 7]
    t = v / height
    a = u / length
    if p[P.HEADING] > 0:
        a = 1.0 - a  # 0 at the nose
    r, g, b = p[P.RGB_A], p[P.RGB_A + 1], p[P.RGB_A + 2]
    if style == 7:
        dark = 34.0 + 18.0 * pulse(u / 0.2, fu / 0.2, 0.0, 0.5)
        return dark, dark, dark
    if style == 0 or style == 2:
        low, high = (0.46, 0.84) if style == 0 else (0.42, 0.80)
        if style == 2:
            # Two-tone livery: a light upper part, a coloured belt below the windows and a dark skirt.
            r, g, b = _mix(r, g, b, 222.0, 220.0, 212.0, band(t, 0.02, 0.30, 0.42) + band(t, 0.02, 0.86, 1.0))
            if t < 0.10:
                r, g, b = 52.0, 54.0, 58.0
        else:
            r, g, b = _mix(r, g, b, p[P.RGB_B], p[P.RGB_B + 1], p[P.RGB_B + 2], 0.8 * band(t, 0.02, 0.34, 0.40))
        window = pulse(u / 1.45, fu / 1.45, 0.04, 0.96) * band(t, fv / height, low, high)
        gr, gg, gb = _glass(env, (t - low) / (high - low))
        people = noise(tile, u * 9.0, v * 5.0 + 40.0)
        if t < low + 0.2 and people > 0.6:
            gr, gg, gb = gr + 26.0, gg + 20.0, gb + 18.0
        r, g, b = _mix(r, g, b, gr, gg, gb, window)
        door = pulse(u / (length / 3.0), fu, 0.42, 0.42 + 3.9 / length) * band(t, 0.02, 0.12, 0.84)
        dr, dg, db = _glass(env, 0.3 + 0.3 * t)
        leaf = pulse(u / 0.65, fu / 0.65, 0.0, 0.1)
        dr, dg, db = _mix(dr, dg, db, 150.0, 150.0, 148.0, leaf)
        r, g, b = _mix(r, g, b, dr, dg, db, door * 0.9)
        return r, g, b
    if style == 3:
        if 0.52 < t < 0.86 and 0.10 < a < 0.72:
            return _glass(env, (t - 0.5) * 2.5)
        if t < 0.25:
            return r * 0.5, g * 0.5, b * 0.5
        seam = band(a, 0.02, 0.78, 0.80)
        return r * (1.0 - 0.4 * seam), g * (1.0 - 0.4 * seam), b * (1.0 - 0.4 * seam)
    if v < 1.05:
        return 52.0, 52.0, 54.0  # chassis
    if style == 4:
        rib = pulse(u / 0.6, fu / 0.6, 0.0, 0.08)
        tone = 1.0 - 0.10 * rib
        r, g, b = r * tone, g * tone, b * tone
        logo = band(t, 0.02, 0.55, 0.78) * band(a, 0.02, 0.25, 0.75) * pulse(u / 0.7, fu / 0.7, 0.1, 0.8)
        return _mix(r, g, b, p[P.RGB_B], p[P.RGB_B + 1], p[P.RGB_B + 2], 0.8 * logo)
    if style == 5:
        fold = 0.93 + 0.10 * math.sin(u * 7.0) / (1.0 + 4.0 * fu)
        stripe = band(t, 0.02, 0.40, 0.52)
        r, g, b = _mix(r * fold, g * fold, b * fold, p[P.RGB_B], p[P.RGB_B + 1], p[P.RGB_B + 2], stripe)
        return r, g, b
    rib = pulse(u / 1.0, fu / 1.0, 0.0, 0.16)
    return r * (0.72 + 0.2 * rib), g * (0.72 + 0.2 * rib), b * (0.72 + 0.2 * rib)


@kernel
def box_end(env: NDArray[np.float64], p: NDArray[np.float64], u: float, v: float, fu: float, fv: float) -> RGB:
    """Front (1), rear (2) or plain (0) end of a bus, tram, cab or cargo box."""
    style = int(p[P.PARAM + 6])
    end = int(p[P.PARAM + 1])
    width, height = p[P.PARAM], p[P.PARAM + 7]
    t = v / height
    au = abs(u - 0.5 * width) / (0.5 * width)
    r, g, b = p[P.RGB_A], p[P.RGB_A + 1], p[P.RGB_A + 2]
    if end == 0:
        return 44.0, 44.0, 46.0
    if style >= 4:
        if end == 1:
            return r * 0.9, g * 0.9, b * 0.9
        seam = band(au, fu, 0.0, 0.025) + band(au, fu, 0.93, 1.0) + band(t, fv / height, 0.93, 1.0)
        r, g, b = _mix(r, g, b, 110.0, 110.0, 112.0, clamp(seam, 0.0, 1.0) * 0.7)
        rod = pulse(au, fu, 0.36, 0.40)
        r, g, b = _mix(r, g, b, 130.0, 130.0, 132.0, rod * 0.8)
        if t < 0.12:
            return (176.0, 24.0, 22.0) if au > 0.7 else (40.0, 40.0, 42.0)
        return r, g, b
    low = 0.40 if style == 2 else (0.46 if style == 3 else 0.38)
    if end == 2 and style == 0:
        low = 0.56
    if end == 2 and style == 3:
        return r * 0.8, g * 0.8, b * 0.8
    if low < t < 0.84 and au < 0.90:
        return _glass(env, (t - low) / (0.84 - low))
    if style != 3 and 0.86 < t < 0.97 and au < 0.62:
        glow = pulse(u / 0.22, fu / 0.22, 0.2, 0.7)
        return 24.0 + 200.0 * glow, 24.0 + 120.0 * glow, 24.0 + 10.0 * glow
    if t < 0.08:
        return 34.0, 34.0, 35.0
    if au > 0.62 and 0.12 < t < 0.24:
        return (228.0, 226.0, 218.0) if end == 1 else (180.0, 22.0, 22.0)
    if style == 3 and 0.14 < t < 0.40 and au < 0.6:
        bar = pulse(t * 12.0, 12.0 * fv / height, 0.0, 0.5)
        return r * (0.35 + 0.3 * bar), g * (0.35 + 0.3 * bar), b * (0.35 + 0.3 * bar)
    if style == 2 and 0.26 < t < low:
        return 222.0, 220.0, 212.0
    return r, g, b


@kernel
def figure(
    env: NDArray[np.float64], tile: NDArray[np.float32], p: NDArray[np.float64], u: float, v: float, part: int,
    towards: float,
) -> RGB:  # fmt: skip
    """People and cycles by part; ``towards`` > 0 when they face the camera."""
    seed = int(p[P.SEED])
    fold = 1.0 + 0.06 * noise(tile, u * 60.0 + (seed & 63), v * 60.0)
    if part == B.SKIN:
        tan = 0.45 + 0.55 * rnd(seed, 101)
        if towards < -0.3 and v > 1.3:
            return 70.0 * fold, 52.0 * fold, 40.0 * fold  # back of the head
        return 222.0 * tan, 172.0 * tan, 142.0 * tan
    if part == B.HAIR:
        tone = 0.5 + 1.2 * rnd(seed, 102)
        if p[P.MATERIAL] == P.M_BIKE and rnd(seed, 103) < 0.75:
            white = rnd(seed, 104)
            return 40.0 + 180.0 * white, 40.0 + 170.0 * white, 44.0 + 160.0 * white  # a helmet
        return 66.0 * tone, 50.0 * tone, 38.0 * tone
    if part == B.TOP:
        return p[P.RGB_A] * fold, p[P.RGB_A + 1] * fold, p[P.RGB_A + 2] * fold
    if part == B.LEGS:
        dark = 0.75 * fold
        return p[P.RGB_B] * dark, p[P.RGB_B + 1] * dark, p[P.RGB_B + 2] * dark + 4.0
    if part == B.SHOES:
        return 40.0, 36.0, 34.0
    if part == B.BAG:
        return p[P.RGB_B + 1] + 30.0, p[P.RGB_B] * 0.6, p[P.RGB_B + 2] * 0.6 + 20.0
    if part == B.TYRE:
        return 24.0, 24.0, 25.0
    if part == B.SPOKES:
        # Thin spokes over the street behind: the mean of both, as the eye sees it from afar.
        return (
            0.62 * env[E.ASPHALT_RGB] + 26.0, 0.62 * env[E.ASPHALT_RGB + 1] + 26.0, 0.62 * env[E.ASPHALT_RGB + 2] + 26.0
        )  # fmt: skip
    if part == B.METAL:
        return 112.0, 114.0, 118.0
    if part == B.SEAT:
        return 32.0, 31.0, 31.0
    if part == B.LAMP_PART:
        return (232.0, 230.0, 216.0) if towards > -0.2 else (170.0, 24.0, 22.0)
    tint = rnd(seed, 105)
    return 60.0 + 170.0 * rnd(seed, 106), 40.0 + 130.0 * tint, 44.0 + 150.0 * rnd(seed, 107)
