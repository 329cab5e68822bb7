"""The ground: which of road, sidewalk and terrain lies at a point of the street, and its colour.

The ground is not made of polygons. A pixel that sees it is turned into street coordinates and looked up here, so that
kerbs, markings and lawns follow the bends exactly.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streams.city import _env as E
from streams.city import _prims as P
from streams.city._math import band, clamp, inlined, kernel, noise, pulse, rnd, texel

# Columns of the lot table: one row for each metre of the street and each side.
LOT_SURFACE, LOT_HEIGHT, LOT_SETBACK = 0, 1, 2
LOT_MIDDLE = 3  # bend of the street at the start of the row, equal on both sides
LOT_COLUMNS = 4
PAVED, LAWN, EARTH = 0.0, 1.0, 2.0
# Columns of the crossing table: one row for each block.
CROSS_HALF, CROSS_ZEBRA = 0, 1
CORNER_M = 4.0
SIDE_WALK_M = 3.0  # sidewalks of side streets
KERB_M = 0.22


@inlined
def bend_at(env: NDArray[np.float64], lots: NDArray[np.float64], z: float) -> float:
    """`_env.bend` from the lot table, linear within a metre (off by less than 1 mm); exact beyond the table."""
    at = z - env[E.TABLE_Z]
    row = math.floor(at)
    if row < 0 or row >= lots.shape[1] - 1:
        return E.bend(env, z)
    here = lots[0, row, LOT_MIDDLE]
    return here + (lots[0, row + 1, LOT_MIDDLE] - here) * (at - row)


@inlined
def road_edge(env: NDArray[np.float64], x: float, ds: float, cross: float) -> float:
    """Distance past the kerb of the carriageway (negative on it), with rounded corners at a crossing.

    Args:
        env: Numbers of the drive.
        x: Distance from the middle of the street.
        ds: Distance along the street from the nearest crossing.
        cross: Half width of the crossing street, 0 = none.
    """
    main = x - env[E.HALF_M]
    if cross <= 0.0:
        return main
    side = ds - cross
    if main < CORNER_M and side < CORNER_M and main > 0.0 and side > 0.0:
        a = CORNER_M - main
        b = CORNER_M - side
        return CORNER_M - math.sqrt(a * a + b * b)
    return min(main, side)


@inlined
def _mix(r: float, g: float, b: float, r2: float, g2: float, b2: float, t: float) -> tuple[float, float, float]:
    return r + (r2 - r) * t, g + (g2 - g) * t, b + (b2 - b) * t


@kernel
def _markings(
    env: NDArray[np.float64], x: float, s: float, ds: float, side_ds: float, cross: float, zebra: float, fx: float,
    fs: float,
) -> float:  # fmt: skip
    """Share of paint in the footprint: lane lines, stop lines and crossings."""
    ax = abs(x)
    half = env[E.HALF_M]
    paint = 0.0
    reach = cross + 5.6 if cross > 0.0 else 0.0
    if ds > reach or cross <= 0.0:
        lane = env[E.LANE_M]
        lanes = int(env[E.LANES])
        edge = lanes * lane
        if env[E.TRAM] == 0.0 and ax < 0.1 + fx:
            dash = pulse(s / 9.0, fs / 9.0, 0.0, 0.42)
            solid = 1.0 if ds < reach + 18.0 and cross > 0.0 else dash
            paint = solid * band(ax, fx, 0.0, 0.085)
        if lanes > 1 and abs(ax - lane) < 0.1 + fx:
            paint += pulse(s / 9.0, fs / 9.0, 0.0, 0.42) * band(ax, fx, lane - 0.075, lane + 0.075)
        if ax < edge - 0.1 - fx:
            return min(paint, 1.0)
        if env[E.BIKE_M] > 0.0:
            paint += pulse(s / 2.0, fs / 2.0, 0.0, 0.6) * band(ax, fx, edge - 0.08, edge + 0.08)
            edge += env[E.BIKE_M]
        if env[E.PARKING_M] > 0.0:
            paint += band(ax, fx, edge - 0.06, edge + 0.06)
            paint += pulse(s / 6.0, fs / 6.0, 0.0, 0.02) * band(ax, fx, edge, half)
    elif ax < half - 0.3:
        if zebra > 0.0:
            along = band(ds, fs, cross + 0.8, cross + 4.0)
            paint = along * pulse(x / 1.0, fx / 1.0, 0.0, 0.5)
        if side_ds * x < 0.0:
            paint += band(ds, fs, cross + 4.7, cross + 5.2)
    if cross > 0.0 and ax > half + 0.4 and ds < cross - 0.2:
        along = band(ax, fx, half + 1.0, half + 3.8)
        paint += along * pulse(side_ds, fs, 0.0, 0.5) * zebra
        if ax > half + 6.0:
            paint += pulse(ax / 6.0, fx / 6.0, 0.0, 0.5) * band(ds, fs, 0.0, 0.08)
    return clamp(paint, 0.0, 1.0)


@kernel
def _asphalt(
    env: NDArray[np.float64], tile: NDArray[np.float32], x: float, s: float, ds: float, cross: float, fx: float,
    fs: float,
) -> tuple[float, float, float]:  # fmt: skip
    """Asphalt with grain, worn wheel tracks, patches, covers and rails."""
    seed = int(env[E.SEED])
    r, g, b = env[E.ASPHALT_RGB], env[E.ASPHALT_RGB + 1], env[E.ASPHALT_RGB + 2]
    foot = max(fx, fs)
    tone = 0.05 * noise(tile, x * 2.1, s * 2.1) / (1.0 + foot) + 0.05 * noise(tile, x * 0.5 + 80.0, s * 0.23)
    if foot < 0.3:
        tone += 0.07 * (1.0 - foot / 0.3) * texel(tile, x * 43.0, s * 43.0)
    lane = env[E.LANE_M]
    in_lane = abs(x) - lane * math.floor(abs(x) / lane)
    tone += 0.03 - 0.05 * clamp(1.6 - 4.0 * abs(in_lane / lane - 0.5), 0.0, 1.0)
    ax = abs(x)
    edge = env[E.LANES] * lane
    if env[E.BIKE_RED] > 0.0 and env[E.BIKE_M] > 0.0 and edge + 0.08 < ax < edge + env[E.BIKE_M] - 0.05:
        r, g, b = 138.0, 78.0, 66.0
    cell = math.floor(s / 11.0)
    if rnd(seed + int(cell), 77) < 0.3:
        px = (rnd(seed + int(cell), 78) - 0.5) * 2.0 * edge
        if abs(x - px) < 1.1 and abs(s - 11.0 * cell - 5.0) < 3.0:
            tone -= 0.13
    if rnd(seed + int(cell), 79) < 0.25:
        px = (rnd(seed + int(cell), 80) - 0.5) * 1.6 * edge
        rr = (x - px) ** 2 + (s - 11.0 * cell - 8.0) ** 2
        if rr < 0.12:
            tone -= 0.35 if rr > 0.085 else 0.18
    if env[E.TRAM] > 0.0:
        for middle in (-0.5 * lane, 0.5 * lane):
            off = abs(x - middle)
            rail = band(off, fx, 0.66, 0.76)
            bed = band(off, fx, 0.0, 1.15)
            r, g, b = _mix(r, g, b, r * 0.86 + 18.0, g * 0.86 + 16.0, b * 0.86 + 12.0, bed)
            r, g, b = _mix(r, g, b, 58.0, 56.0, 56.0, rail)
    scale = 1.0 + tone
    return r * scale, g * scale, b * scale


@kernel
def _paving(
    env: NDArray[np.float64], tile: NDArray[np.float32], x: float, s: float, edge: float, fx: float, fs: float
) -> tuple[float, float, float]:
    """Sidewalk slabs or blocks with a kerb stone along the carriageway."""
    kind = env[E.PAVING_KIND]
    size = 0.6 if kind == 0.0 else 0.25
    tone = 0.05 * noise(tile, x * 3.0, s * 3.0) / (1.0 + max(fx, fs)) + 0.05 * noise(tile, x * 0.4, s * 0.3 + 31.0)
    if kind < 2.0:
        joint = 0.05 if kind == 0.0 else 0.12
        gap = 1.0 - (1.0 - pulse(x / size, fx / size, 0.0, joint)) * (1.0 - pulse(s / size, fs / size, 0.0, joint))
        tone -= 0.16 * gap
        if fs < 0.4:
            cell = math.floor(x / size) * 7919 + math.floor(s / size)
            tone += 0.09 * (rnd(cell, 3) - 0.5) * (1.0 - fs * 2.5)
    elif max(fx, fs) < 0.2:
        tone += 0.05 * noise(tile, x * 29.0, s * 29.0)
    r = env[E.PAVING_RGB] * (1.0 + tone)
    g = env[E.PAVING_RGB + 1] * (1.0 + tone)
    b = env[E.PAVING_RGB + 2] * (1.0 + tone)
    kerb = band(edge, fx, 0.0, KERB_M)
    if kerb > 0.0:
        stone = 1.0 - 0.25 * pulse(s, fs, 0.0, 0.04) + 0.04 * noise(tile, s * 9.0, 3.0)
        r, g, b = _mix(r, g, b, 176.0 * stone, 174.0 * stone, 168.0 * stone, kerb)
        riser = band(edge, fx, 0.0, 0.09)
        r, g, b = _mix(r, g, b, 74.0, 72.0, 70.0, 0.8 * riser)
    return r, g, b


@kernel
def _grass(
    env: NDArray[np.float64], tile: NDArray[np.float32], x: float, s: float, earth: bool, foot: float
) -> tuple[float, float, float]:
    tone = 0.12 * noise(tile, x * 4.0, s * 4.0) / (1.0 + foot) + 0.09 * noise(tile, x * 0.6, s * 0.6 + 50.0)
    if foot < 0.25:
        tone += 0.14 * (1.0 - 4.0 * foot) * noise(tile, x * 41.0, s * 41.0)
    r, g, b = env[E.GRASS_RGB], env[E.GRASS_RGB + 1], env[E.GRASS_RGB + 2]
    dry = clamp(0.35 * noise(tile, x * 0.9 + 17.0, s * 0.9) - 0.1, 0.0, 0.7)
    if earth:
        dry = clamp(dry + 0.55, 0.0, 1.0)
    r, g, b = _mix(r, g, b, 142.0, 122.0, 88.0, dry)
    return r * (1.0 + tone), g * (1.0 + tone), b * (1.0 + tone)


@inlined
def ground(
    env: NDArray[np.float64], lots: NDArray[np.float64], crossings: NDArray[np.float64], tile: NDArray[np.float32],
    x: float, s: float, fx: float, fs: float,
) -> tuple[int, float, float, float]:  # fmt: skip
    """Label and unlit colour of the ground.

    Args:
        env: Numbers of the drive.
        lots: ``(2, rows, LOT_COLUMNS)`` lot table, left side first.
        crossings: ``(blocks, 2)`` crossing table.
        tile: Noise tile.
        x: Metres to the right of the middle of the street.
        s: Metres along the street.
        fx: Footprint of the pixel across the street, metres.
        fs: Footprint along it.
    """
    ax = abs(x)
    block = env[E.BLOCK_M]
    index = math.floor(s / block + 0.5)
    side_ds = s - index * block
    ds = abs(side_ds)
    row = int(index - env[E.FIRST_BLOCK])
    cross = 0.0
    zebra = 0.0
    if 0 <= row < crossings.shape[0]:
        cross = crossings[row, CROSS_HALF]
        zebra = crossings[row, CROSS_ZEBRA]
    edge = road_edge(env, ax, ds, cross)
    if edge < 0.0:
        r, g, b = _asphalt(env, tile, x, s, ds, cross, fx, fs)
        gutter = band(-edge, fx, 0.0, 0.3)
        r, g, b = _mix(r, g, b, r * 0.86, g * 0.86, b * 0.86, gutter)
        paint = _markings(env, x, s, ds, side_ds, cross, zebra, fx, fs)
        if paint > 0.0:
            white = env[E.MARKING] * (1.0 + 0.05 * noise(tile, x * 6.0, s * 6.0))
            wear = 0.88 - 0.12 * clamp(noise(tile, x * 2.0, s * 2.0 + 99.0), -1.0, 1.0)
            r, g, b = _mix(r, g, b, white, white, white * 0.98, paint * wear)
        return P.ROAD, r, g, b
    walk = env[E.SIDEWALK_M]
    verge = env[E.VERGE_M]
    near_cross = cross > 0.0 and ds < cross + SIDE_WALK_M
    over = ax - env[E.HALF_M]
    if verge > 0.0 and 0.45 < over < 0.45 + verge and not (cross > 0.0 and ds < cross + 9.0):
        r, g, b = _grass(env, tile, x, s, False, max(fx, fs))
        return P.TERRAIN, r, g, b
    if over >= walk and not near_cross:
        bin_row = math.floor(s - env[E.TABLE_Z])
        surface = LAWN
        if 0 <= bin_row < lots.shape[1]:
            surface = lots[1 if x > 0.0 else 0, bin_row, LOT_SURFACE]
        if surface != PAVED:
            r, g, b = _grass(env, tile, x, s, surface == EARTH, max(fx, fs))
            return P.TERRAIN, r, g, b
    r, g, b = _paving(env, tile, x, s, edge, fx, fs)
    return P.SIDEWALK, r, g, b
