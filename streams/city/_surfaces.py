"""Unlit colours of what stands still: facades, roofs, walls, fences, poles, lamps, signs, trees."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streams.city import _env as E
from streams.city import _prims as P
from streams.city._math import band, clamp, kernel, noise, pulse, rnd

RGB = tuple[float, float, float]


@kernel
def _mix(r: float, g: float, b: float, r2: float, g2: float, b2: float, t: float) -> RGB:
    return r + (r2 - r) * t, g + (g2 - g) * t, b + (b2 - b) * t


@kernel
def _wall_tone(tile: NDArray[np.float32], kind: float, u: float, v: float, fu: float, fv: float) -> float:
    """Relative brightness of plaster (0), brick (1) or concrete panels (2)."""
    foot = max(fu, fv)
    tone = 0.045 * noise(tile, u * 0.8, v * 0.8) + 0.04 * noise(tile, u * 4.0 + 9.0, v * 4.0) / (1.0 + 4.0 * foot)
    if kind == 1.0:
        course = v / 0.14
        shift = 0.5 * (math.floor(course) % 2.0)
        mortar = 1.0 - (1.0 - pulse(course, fv / 0.14, 0.0, 0.16)) * (
            1.0 - pulse(u / 0.32 + shift, fu / 0.32, 0.0, 0.07)
        )
        tone += 0.20 * mortar - 0.04
        if foot < 0.15:
            cell = math.floor(course) * 1013 + math.floor(u / 0.32 + shift)
            tone += (1.0 - foot / 0.15) * 0.22 * (rnd(cell, 1) - 0.5)
    elif kind == 2.0:
        seam = 1.0 - (1.0 - pulse(v / 2.9, fv / 2.9, 0.0, 0.02)) * (1.0 - pulse(u / 3.1, fu / 3.1, 0.0, 0.02))
        tone -= 0.22 * seam
    return tone


@kernel
def facade(
    env: NDArray[np.float64], tile: NDArray[np.float32], p: NDArray[np.float64], u: float, v: float, fu: float,
    fv: float, side: bool,
) -> RGB:  # fmt: skip
    """Wall with rows of windows, a ground floor with doors or shop fronts, ledges and a cornice."""
    seed = int(p[P.SEED])
    kind = p[P.PARAM + 4]
    height = p[P.PARAM + 6]
    tone = 1.0 + _wall_tone(tile, kind, u, v, fu, fv)
    # Dirt from the ground up and streaks down from ledges.
    tone *= 1.0 - 0.12 * math.exp(-max(v, 0.0) / 0.9)
    r, g, b = p[P.RGB_A] * tone, p[P.RGB_A + 1] * tone, p[P.RGB_A + 2] * tone
    if height < 0.0:
        return r, g, b
    storey, bay = p[P.PARAM], p[P.PARAM + 1]
    level = math.floor(v / storey)
    column = math.floor(u / bay)
    ww, wh = p[P.PARAM + 2], p[P.PARAM + 3]
    base = 0.30
    shop = p[P.PARAM + 5] > 0.0 and not side
    glass_tone = 0.55 + 0.5 * rnd(seed, 61)
    if side and rnd(seed, 62) < 0.5:
        return r, g, b  # blind side wall
    door = False
    if level < 0.5:
        if shop:
            ww, wh, base = 0.86, 0.72, 0.08
        elif rnd(seed + int(column), 63) < 0.25 and not side:
            ww, wh, base, door = 0.40, 0.74, 0.0, True
    a0 = 0.5 - 0.5 * ww
    cu = pulse(u / bay, fu / bay, a0, a0 + ww)
    cv = pulse(v / storey, fv / storey, base, base + wh)
    border_u = 0.09 / bay
    border_v = 0.09 / storey
    frame = pulse(u / bay, fu / bay, a0 - border_u, a0 + ww + border_u) * pulse(
        v / storey, fv / storey, max(base - 1.6 * border_v, 0.0), base + wh + border_v
    )
    light_frame = rnd(seed, 64) < 0.65
    trim = 0.5 * (r + g + b) / 1.5
    fr = 222.0 if light_frame else trim * 0.55
    r, g, b = _mix(r, g, b, fr, fr * 0.99, fr * 0.96, clamp(frame - cu * cv, 0.0, 1.0) * 0.8)
    hole = cu * cv
    if hole > 0.0:
        cell = seed + int(level) * 131 + int(column) * 7
        lu = u / bay - column
        lv = v / storey - level
        # The pane mirrors the sky more towards its top and shows the dark room below.
        mirror = clamp(0.25 + 0.9 * (lv - base) / wh * rnd(cell, 65), 0.0, 1.0) * glass_tone
        gr = 34.0 + mirror * 0.55 * env[E.HAZE_RGB]
        gg = 38.0 + mirror * 0.58 * env[E.HAZE_RGB + 1]
        gb = 42.0 + mirror * 0.62 * env[E.HAZE_RGB + 2]
        curtain = rnd(cell, 66)
        if curtain < 0.28 and not shop and (lv - base) > wh * (0.2 + curtain * 2.0):
            gr, gg, gb = _mix(gr, gg, gb, 196.0, 190.0, 176.0, 0.7)
        if door:
            d = 0.5 + 0.4 * rnd(cell, 67)
            gr, gg, gb = p[P.RGB_B] * d + 20.0, p[P.RGB_B + 1] * d + 16.0, p[P.RGB_B + 2] * d + 12.0
        elif not (shop and level < 0.5):
            bar = pulse((lu - 0.5) / ww + 0.5, fu / bay / ww, 0.48, 0.54)
            bar = max(bar, 0.7 * pulse((lv - base) / wh, fv / storey / wh, 0.62, 0.67))
            gr, gg, gb = _mix(gr, gg, gb, fr * 0.9, fr * 0.9, fr * 0.88, bar)
        else:
            goods = noise(tile, u * 14.0 + (seed & 127), v * 14.0)
            gr, gg, gb = gr + 34.0 * goods, gg + 26.0 * goods, gb + 18.0 * goods
        r, g, b = _mix(r, g, b, gr, gg, gb, hole)
    if shop:
        board = band(v, fv, 0.82 * storey, 0.98 * storey)
        if board > 0.0:
            letters = pulse(u / 0.45, fu / 0.45, 0.2, 0.75) * band(v, fv, 0.86 * storey, 0.94 * storey)
            letters *= pulse(u / bay, fu / bay, 0.2, 0.8)
            r, g, b = _mix(r, g, b, p[P.RGB_B] + 20.0, p[P.RGB_B + 1] + 20.0, p[P.RGB_B + 2] + 20.0, board)
            r, g, b = _mix(r, g, b, 226.0, 224.0, 214.0, letters * 0.85)
    ledge = 0.0
    if rnd(seed, 68) < 0.5 and level > 0.5:
        ledge = pulse(v / storey, fv / storey, 0.0, 0.05)
    ledge = max(ledge, band(v, fv, height - 0.45, height))
    r, g, b = _mix(r, g, b, r * 0.8 + 30.0, g * 0.8 + 30.0, b * 0.8 + 28.0, ledge)
    shade = band(v, fv, height - 0.75, height - 0.45)
    r, g, b = _mix(r, g, b, r * 0.7, g * 0.7, b * 0.7, shade)
    if rnd(seed, 69) < 0.3 and level > 0.5 and not side and (int(column) + (seed & 1)) % 2 == 0:
        rail = pulse(v / storey, fv / storey, 0.04, 0.32) * pulse(u / bay, fu / bay, 0.08, 0.92)
        bars = 0.45 + 0.4 * pulse(u / 0.16, fu / 0.16, 0.0, 0.4)
        r, g, b = _mix(r, g, b, 64.0, 64.0, 66.0, rail * bars)  # a balcony
    pipe = band(u, fu, 0.18, 0.30)
    r, g, b = _mix(r, g, b, 0.6 * r, 0.6 * g, 0.6 * b, 0.7 * pipe)
    return r, g, b


@kernel
def roof(tile: NDArray[np.float32], p: NDArray[np.float64], u: float, v: float, fu: float, fv: float) -> RGB:
    tiles = pulse(v / 0.35, fv / 0.35, 0.0, 0.18)
    tone = 1.0 - 0.22 * tiles + 0.06 * noise(tile, u * 2.0, v * 5.0)
    gap = pulse(u / 0.3, fu / 0.3, 0.0, 0.12)
    tone -= 0.08 * gap
    return p[P.RGB_A] * tone, p[P.RGB_A + 1] * tone, p[P.RGB_A + 2] * tone


@kernel
def wall(tile: NDArray[np.float32], p: NDArray[np.float64], u: float, v: float, fu: float, fv: float) -> RGB:
    """Garden or retaining wall with a coping and pillars."""
    height = p[P.PARAM]
    kind = p[P.PARAM + 1]
    tone = 1.0 + _wall_tone(tile, kind, u, v, fu, fv) - 0.15 * math.exp(-v / 0.3)
    tone += 0.06 * noise(tile, u * 1.3, v * 0.4)  # streaks
    r, g, b = p[P.RGB_A] * tone, p[P.RGB_A + 1] * tone, p[P.RGB_A + 2] * tone
    pillar = pulse(u / 3.6, fu / 3.6, 0.0, 0.11)
    r, g, b = _mix(r, g, b, r * 0.82, g * 0.82, b * 0.82, pillar)
    coping = band(v, fv, height - 0.16, height + 0.1)
    r, g, b = _mix(r, g, b, 172.0, 168.0, 160.0, coping)
    lip = band(v, fv, height - 0.24, height - 0.16)
    r, g, b = _mix(r, g, b, r * 0.6, g * 0.6, b * 0.6, lip)
    seed = int(p[P.SEED])
    if rnd(seed, 81) < 0.3 and v < 0.8 * height:
        paint = noise(tile, u * 12.0 + (seed & 63), v * 12.0)
        if paint > 0.9:
            r, g, b = _mix(r, g, b, 60.0 + 150.0 * rnd(seed, 82), 80.0, 60.0 + 150.0 * rnd(seed, 83), 0.7)
    return r, g, b


@kernel
def fence(tile: NDArray[np.float32], p: NDArray[np.float64], u: float, v: float, fu: float, fv: float) -> RGB:
    """Wooden slats (0), bars (1) or wire mesh (2) between posts; the gaps show the shade behind."""
    height = p[P.PARAM]
    kind = p[P.PARAM + 1]
    post = pulse(u / 2.4, fu / 2.4, 0.0, 0.06 if kind > 0.0 else 0.09)
    rail = max(band(v, fv, 0.12 * height, 0.12 * height + 0.07), band(v, fv, 0.88 * height, 0.88 * height + 0.07))
    if kind == 0.0:
        solid = pulse(u / 0.17, fu / 0.17, 0.0, 0.76)
    elif kind == 1.0:
        solid = max(pulse(u / 0.24, fu / 0.24, 0.0, 0.32), rail)
    else:
        solid = max(
            0.34,
            1.0 - (1.0 - pulse((u + v) / 0.3, fu / 0.3, 0.0, 0.2)) * (1.0 - pulse((u - v) / 0.3, fu / 0.3, 0.0, 0.2)),
        )
        solid = max(solid, rail)
    solid = max(solid, post)
    tone = 1.0 + 0.08 * noise(tile, u * 9.0, v * 1.5)
    if kind == 0.0:
        cell = math.floor(u / 0.17)
        tone += 0.14 * (rnd(cell + int(p[P.SEED]), 1) - 0.5) / (1.0 + 10.0 * fu) - 0.18 * rail
    r, g, b = p[P.RGB_A] * tone, p[P.RGB_A + 1] * tone, p[P.RGB_A + 2] * tone
    back = 0.75 + 0.25 * noise(tile, u * 6.0 + 70.0, v * 6.0)
    return _mix(44.0 * back, 54.0 * back, 36.0 * back, r, g, b, solid)


@kernel
def traffic_light(env: NDArray[np.float64], p: NDArray[np.float64], u: float, v: float) -> RGB:
    """Three lamps in a dark box; the lit one changes every few seconds."""
    width, tall = p[P.PARAM], p[P.PARAM + 1]
    edge = min(min(u, width - u), min(v, tall - v))
    r, g, b = p[P.RGB_A], p[P.RGB_A + 1], p[P.RGB_A + 2]
    if p[P.PARAM + 3] == 1.0 and edge < 0.05:
        return 226.0, 224.0, 218.0
    if p[P.PARAM + 3] == 2.0:
        r, g, b = 196.0, 152.0, 34.0
    clock = env[E.TIME_S] / 20.0 + p[P.PARAM + 2]
    clock -= math.floor(clock)
    lit = 0 if clock < 0.45 else (2 if clock < 0.9 else 1)
    for k in range(3):
        dx = u - 0.5 * width
        dy = v - tall * (5.0 - 2.0 * k) / 6.0
        if dx * dx + dy * dy < (0.36 * width) ** 2:
            if k == lit:
                if k == 0:
                    return 255.0, 62.0, 40.0
                if k == 1:
                    return 255.0, 190.0, 50.0
                return 60.0, 235.0, 150.0
            return (54.0, 18.0, 16.0) if k == 0 else ((52.0, 40.0, 16.0) if k == 1 else (14.0, 42.0, 28.0))
    return r, g, b


@kernel
def sign(p: NDArray[np.float64], u: float, v: float, part: int, back: bool) -> RGB:
    """Plate by colour scheme: 0 red border on white, 1 white on red, 2 white on blue, 3 yellow, 4 green board."""
    if back:
        return 126.0, 128.0, 130.0
    size = p[P.PARAM]
    scheme = int(p[P.PARAM + 2])
    x = u / size
    y = v / p[P.PARAM + 3]
    seed = int(p[P.SEED])
    glyph = False
    style = rnd(seed, 91)
    if style < 0.3:
        glyph = abs(y) < 0.16 and abs(x) < 0.55
    elif style < 0.6:
        glyph = (abs(x) < 0.13 and abs(y) < 0.42) or (abs(y - 0.25) < 0.12 and abs(x) < 0.34)
    elif style < 0.85:
        glyph = abs(abs(x) - 0.24) < 0.13 and abs(y) < 0.36
    if scheme == 0:
        if part == 2:
            return 190.0, 26.0, 30.0
        return (32.0, 32.0, 34.0) if glyph else (234.0, 232.0, 226.0)
    if scheme == 1:
        return (236.0, 234.0, 230.0) if glyph or part == 2 else (188.0, 24.0, 30.0)
    if scheme == 2:
        return (236.0, 236.0, 236.0) if glyph or part == 2 else (26.0, 74.0, 158.0)
    if scheme == 3:
        return (34.0, 34.0, 32.0) if glyph or part == 2 else (236.0, 190.0, 36.0)
    rows = abs(y) < 0.62 and abs(x) < 0.78 and abs(math.sin(y * 7.5)) > 0.55
    return (232.0, 234.0, 230.0) if rows or part == 2 else (24.0, 104.0, 70.0)


@kernel
def leaves(tile: NDArray[np.float32], p: NDArray[np.float64], u: float, v: float, foot: float, up: float) -> RGB:
    """Clumps of leaves, brighter towards the top; ``up`` runs from -1 (bottom) to 1 (top)."""
    seed = int(p[P.SEED])
    clump = noise(tile, u * 9.0 + (seed & 255), v * 9.0 + (seed >> 8 & 255))
    tone = 0.86 + 0.20 * up + 0.17 * clump
    if foot < 0.3:
        tone += 0.15 * (1.0 - foot / 0.3) * noise(tile, u * 37.0, v * 37.0)
    tone = max(tone, 0.28)
    return p[P.RGB_A] * tone + 8.0 * up, p[P.RGB_A + 1] * tone + 8.0 * up, p[P.RGB_A + 2] * tone
