"""Cut-outs: which part of a crown, car side, lorry side, sign or hedge lies at (u, v); 0 where one sees past it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streams.city import _prims as P
from streams.city import _shapes_figures as figures
from streams.city._math import inlined, kernel, noise, texel

BODY, GLASS, WHEEL, RIM, DARK, TRIM, BOX_PART = 1, 2, 3, 4, 5, 6, 7


@inlined
def crown_radius(u: float, v: float, rx: float, ry: float) -> float:
    """Distance from the middle of a crown in radii of its ellipse."""
    return math.sqrt((u / rx) ** 2 + (v / ry) ** 2)


@inlined
def in_crown(tile: NDArray[np.float32], u: float, v: float, r: float, seed: int) -> bool:
    """Whether there are leaves at (u, v) of a broad-leaved crown, at `crown_radius` ``r``."""
    if r < 0.48:
        return True
    if r > 1.28:
        return False
    ox = float(seed & 255)
    oy = float((seed >> 8) & 255)
    if r > 0.55 and texel(tile, u * 26.0 + oy, v * 26.0 + ox) > 1.9 - r:
        return False
    return r + 0.16 * noise(tile, u * 9.0 + ox, v * 9.0 + oy) <= 0.88


@kernel
def crown(tile: NDArray[np.float32], u: float, v: float, rx: float, ry: float, kind: int, seed: int) -> int:
    """Leaves inside a ragged ellipse about the middle, or a ragged cone for conifers."""
    ox = float(seed & 255)
    oy = float((seed >> 8) & 255)
    if kind == 1:
        ragged = 0.16 * noise(tile, u * 9.0 + ox, v * 9.0 + oy)
        t = (v + ry) / (2.0 * ry)
        if t > 1.0:
            return 0
        edge = abs(u) / (rx * (1.02 - t) + 0.05) + 0.12 * math.sin(t * 34.0)
        return 1 if edge + ragged < 0.9 else 0
    return 1 if in_crown(tile, u, v, crown_radius(u, v, rx, ry), seed) else 0


@kernel
def car_roofline(p: NDArray[np.float64], a: float, height: float) -> float:
    """Height of the lower body (bonnet, waist, boot) at ``a`` (0 nose, 1 tail); see `meshes_vehicles`."""
    hx, hy, nose, gy = p[P.PARAM], p[P.PARAM + 1], p[P.PARAM + 5], p[P.PARAM + 4]
    if a < hx:
        return height * (nose + (hy - nose) * a / hx)
    return height * (hy + (gy - hy) * (a - hx) / (1.0 - hx))


@kernel
def car_side(p: NDArray[np.float64], u: float, v: float) -> int:
    """Lower side of a car: u runs along its length; PARAM + 6 is the length, + 7 the height, negative if mirrored."""
    length = p[P.PARAM + 6]
    height = abs(p[P.PARAM + 7])
    a = u / length
    if p[P.PARAM + 7] < 0:
        a = 1.0 - a
    radius = 0.235 * height if height < 1.7 else 0.19 * height
    for centre in (0.19, 0.80):
        dx = (a - centre) * length
        dy = v - radius
        r2 = dx * dx + dy * dy
        if r2 < radius * radius:
            return RIM if r2 < 0.42 * radius * radius else WHEEL
        if r2 < 1.45 * radius * radius and v < 0.62 * height:
            return DARK
    if v < 0.13 * height:
        return 0
    if v < 0.20 * height:
        return DARK
    if v > car_roofline(p, a, height):
        return 0
    if (a < 0.05 or a > 0.965) and 0.40 * height < v < 0.56 * height:
        return TRIM
    return BODY


@kernel
def car_cabin(p: NDArray[np.float64], u: float, v: float) -> int:
    """Side windows between the pillars; v runs up the leaning side, PARAM + 5 is its height."""
    length = p[P.PARAM + 6]
    a = u / length
    if p[P.PARAM + 7] < 0:
        a = 1.0 - a
    t = v / p[P.PARAM + 5]
    hx, wx, rx, gx = p[P.PARAM], p[P.PARAM + 2], p[P.PARAM + 3], p[P.PARAM + 4]
    front = hx + (wx - hx) * t
    back = gx + (rx - gx) * t
    if a < front or a > back:
        return 0
    if t > 0.88 or t < 0.06 or a < front + 0.022 or a > back - 0.03:
        return BODY
    middle = 0.5 * (wx + rx)
    if abs(a - middle) < 0.012 or abs(a - (0.6 * rx + 0.4 * gx)) < 0.010:
        return BODY
    return GLASS


@kernel
def big_side(p: NDArray[np.float64], u: float, v: float) -> int:
    """Side of a lorry, bus or tram: PARAM: length, skirt height, wheel radius, two to three axles along the length."""
    length = p[P.PARAM]
    skirt = p[P.PARAM + 1]
    radius = p[P.PARAM + 2]
    if radius > 0.0 and v < 2.6 * radius:
        for k in range(3):
            centre = p[P.PARAM + 3 + k]
            if centre < 0.0:
                continue
            dx = u - centre * length
            dy = v - radius
            r2 = dx * dx + dy * dy
            if r2 < radius * radius:
                return RIM if r2 < 0.3 * radius * radius else WHEEL
            if r2 < 1.4 * radius * radius and v >= skirt:
                return DARK
    if v < skirt:
        return 0
    return BOX_PART


@kernel
def sign(u: float, v: float, size: float, kind: int) -> int:
    """Plate about the origin: 0-1 disc, 2 triangle, 3 octagon, 4 square, 5 board, 6 inverted triangle; 2 = border."""
    x = u / size
    y = v / size
    if kind <= 1:
        r = math.sqrt(x * x + y * y)
        return 0 if r > 1.0 else (2 if r > 0.74 else 1)
    if kind == 2 or kind == 6:
        if kind == 6:
            y = -y
        d = max(-y - 0.72, 0.5 * y + 0.866 * abs(x) - 0.56)
        return 0 if d > 0.0 else (2 if d > -0.22 else 1)
    if kind == 3:
        d = max(max(abs(x), abs(y)), (abs(x) + abs(y)) * 0.7071)
        return 0 if d > 0.93 else (2 if d > 0.84 else 1)
    d = max(abs(x), abs(y))
    return 2 if d > 0.88 else 1


@kernel
def hedge(tile: NDArray[np.float32], u: float, v: float, height: float, seed: int) -> int:
    return 1 if v < height * (0.90 + 0.05 * noise(tile, u * 11.0 + (seed & 255), v * 7.0)) else 0


@kernel
def part_at(tile: NDArray[np.float32], p: NDArray[np.float64], u: float, v: float, q: float, towards: float) -> int:
    """Part of the cut-out with record ``p`` at (u, v), 0 = nothing; ``towards`` > 0 when it faces the camera."""
    material = int(p[P.MATERIAL])
    seed = int(p[P.SEED])
    if material == P.M_CROWN:
        return crown(tile, u, v, p[P.PARAM], p[P.PARAM + 1], int(p[P.PARAM + 2]), seed)
    if material == P.M_CAR_SIDE:
        return car_side(p, u, v)
    if material == P.M_CAR_CABIN:
        return car_cabin(p, u, v)
    if material == P.M_PERSON:
        return figures.person(p, u, v, q)
    if material == P.M_BIKE:
        return figures.bike(p, u, v, q, towards)
    if material == P.M_BIG_SIDE:
        return big_side(p, u, v)
    if material == P.M_SIGN:
        return sign(u, v, p[P.PARAM], int(p[P.PARAM + 1]))
    return hedge(tile, u, v, p[P.PARAM], seed)
