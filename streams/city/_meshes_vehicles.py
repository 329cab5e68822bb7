"""Cars, lorries, buses and trams as polygons.

A car is a profile seen from the side, drawn out to its width: bonnet, windscreen, roof, rear window and boot are
strips across, and each side is a lower body with wheels below a leaning cabin. All other vehicles are boxes on wheels.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streams.city import _prims as P
from streams.city._math import kernel, rnd

# Profile as shares of length and height: bonnet end x, y; roof front x; roof rear x; rear window foot x, y; nose y.
PROFILES = np.array(
    [
        [0.27, 0.63, 0.42, 0.70, 0.87, 0.66, 0.50],  # saloon
        [0.24, 0.62, 0.40, 0.80, 0.965, 0.62, 0.50],  # hatchback
        [0.26, 0.62, 0.40, 0.86, 0.98, 0.62, 0.50],  # estate
        [0.25, 0.61, 0.38, 0.87, 0.975, 0.61, 0.53],  # off-roader
        [0.13, 0.55, 0.29, 0.955, 0.99, 0.55, 0.47],  # van
    ]
)
SIZES = np.array([[4.6, 1.80, 1.45], [4.1, 1.76, 1.48], [4.7, 1.80, 1.50], [4.5, 1.86, 1.70], [5.0, 1.92, 1.98]])
PAINTS = np.array(
    [
        [28, 29, 32], [44, 46, 50], [94, 97, 101], [150, 153, 156], [186, 188, 190], [222, 222, 220], [226, 226, 224],
        [34, 50, 88], [58, 84, 132], [120, 22, 24], [158, 34, 30], [60, 66, 58], [30, 64, 52], [112, 96, 76],
        [188, 150, 44], [70, 30, 40],
    ],
    dtype=np.float64,
)  # fmt: skip
LIVERIES = np.array(
    [[206, 168, 28], [186, 36, 32], [228, 226, 220], [44, 92, 152], [52, 122, 70], [214, 112, 30], [150, 156, 160]],
    dtype=np.float64,
)


@kernel
def _paint(prims: NDArray[np.float64], first: int, n: int, table: NDArray[np.float64], seed: int, salt: int) -> None:
    row = table[int(rnd(seed, salt) * table.shape[0])]
    row2 = table[int(rnd(seed, salt + 1) * table.shape[0])]
    fade = 0.88 + 0.24 * rnd(seed, salt + 2)
    for k in range(first, n):
        for c in range(3):
            prims[k, P.RGB_A + c] = row[c] * fade
            prims[k, P.RGB_B + c] = row2[c]


@kernel
def _strip(
    prims: NDArray[np.float64], n: int, x: float, z: float, fx: float, fz: float, a0: float, y0: float, half0: float,
    a1: float, y1: float, half1: float, index: int, label: int, seed: int,
) -> int:  # fmt: skip
    """One strip across the car from (a0 ahead, y0) to (a1, y1), seen from outside with its left on the car's right."""
    dx = a1 - a0
    dy = y1 - y0
    size = math.sqrt(dx * dx + dy * dy)
    px = x + fx * a0
    pz = z + fz * a0
    n = P.put(
        prims, n, px, y0, pz, -fz, fx, fx * dx / size, dy / size, fz * dx / size, 1.0, size, P.M_CAR_STRIP, label, seed
    )
    k = n - 1
    p = prims[k]
    p[P.POLY] = -half0
    p[P.POLY + 2] = half0
    p[P.POLY + 4] = half1
    p[P.POLY + 6] = -half1
    p[P.PARAM] = index
    p[P.PARAM + 1] = max(half0, half1)
    p[P.PARAM + 2] = size
    p[P.ONE_SIDED] = 1.0
    return n


@kernel
def car(prims: NDArray[np.float64], n: int, i: NDArray[np.float64]) -> int:
    seed = int(i[P.ISEED])
    kind = int(i[P.Q0])
    first = n
    prof = PROFILES[kind]
    size = SIZES[kind]
    length, width, height = size[0], size[1], size[2]
    scale = 0.95 + 0.1 * rnd(seed, 3)
    length *= scale
    height *= 0.97 + 0.06 * rnd(seed, 4)
    x, z = i[P.X], i[P.Z]
    fx, fz = math.sin(i[P.TURN]), math.cos(i[P.TURN])
    half = 0.5 * width
    waist = height * min(prof[1], prof[5])
    inset = 0.13 * (height - waist) / 0.6
    top = half - inset
    h = 0.5 * length
    along = (h, h, h - prof[0] * length, h - prof[2] * length, h - prof[3] * length, h - prof[4] * length, -h, -h)
    up = (0.16, prof[6], prof[1], 1.0, 1.0, prof[5], prof[5], 0.16)
    for k in range(7):
        half0 = top if k == 3 or k == 4 else half
        half1 = top if k == 2 or k == 3 else half
        n = _strip(
            prims, n, x, z, fx, fz, along[k], up[k] * height, half0, along[k + 1], up[k + 1] * height, half1, k,
            P.CAR, seed,
        )  # fmt: skip
    cabin = height - waist
    lean = math.sqrt(cabin * cabin + inset * inset)
    for side in (-1.0, 1.0):
        # U runs forward on the car's right (+1) and backward on its left.
        sx = x + side * fz * half - side * fx * h
        sz = z - side * fx * half - side * fz * h
        n = P.put(
            prims, n, sx, 0.0, sz, side * fx, side * fz, 0.0, 1.0, 0.0, length, height * max(prof[1], prof[5]),
            P.M_CAR_SIDE, P.CAR, seed,
        )  # fmt: skip
        n = P.put(
            prims, n, sx, waist, sz, side * fx, side * fz, -side * fz * inset / lean, cabin / lean,
            side * fx * inset / lean, length, lean, P.M_CAR_CABIN, P.CAR, seed,
        )  # fmt: skip
        for k in (n - 2, n - 1):
            p = prims[k]
            p[P.PARAM] = prof[0]
            p[P.PARAM + 1] = prof[1]
            p[P.PARAM + 2] = prof[2]
            p[P.PARAM + 3] = prof[3]
            p[P.PARAM + 4] = prof[4]
            p[P.PARAM + 5] = prof[6]
            p[P.PARAM + 6] = length
            p[P.PARAM + 7] = -side * height
        prims[n - 2, P.PARAM + 4] = prof[5]
        prims[n - 1, P.PARAM + 5] = lean
    _paint(prims, first, n, PAINTS, seed, 11)
    return n


@kernel
def carriage(
    prims: NDArray[np.float64], n: int, x: float, z: float, turn: float, ahead: float, length: float, width: float,
    low: float, height: float, skirt: float, wheel: float, axles: tuple[float, float, float], style: int, label: int,
    seed: int, ends: int,
) -> int:  # fmt: skip
    """A box from ``ahead - length`` to ``ahead`` of the centre, floor at ``low``; ``ends``: 1 front, 2 rear, 3 both."""
    fx, fz = math.sin(turn), math.cos(turn)
    half = 0.5 * width
    rear = ahead - length
    for side in (-1.0, 1.0):
        start = rear if side > 0 else ahead
        sx = x + side * fz * half + fx * start
        sz = z - side * fx * half + fz * start
        material = P.M_BIG_SIDE if wheel > 0.0 else P.M_BOX_SIDE
        y = 0.0 if wheel > 0.0 else low
        n = P.put(prims, n, sx, y, sz, side * fx, side * fz, 0.0, 1.0, 0.0, length, height - y, material, label, seed)
        p = prims[n - 1]
        p[P.PARAM] = length
        p[P.PARAM + 1] = skirt
        p[P.PARAM + 2] = wheel
        for k in range(3):
            a = axles[k]
            p[P.PARAM + 3 + k] = (1.0 - a if side > 0 else a) if a >= 0.0 else -1.0
        p[P.PARAM + 6] = style
        p[P.PARAM + 7] = height - y
        p[P.HEADING] = side
        p[P.ONE_SIDED] = 1.0 if wheel <= 0.0 else 0.0
    bottom = max(low, skirt)
    for end in (1.0, -1.0):
        start = ahead if end > 0 else rear
        n = P.put(
            prims, n, x + end * fz * half + fx * start, bottom, z - end * fx * half + fz * start, -end * fz, end * fx,
            0.0, 1.0, 0.0, width, height - bottom, P.M_BOX_END, label, seed,
        )  # fmt: skip
        p = prims[n - 1]
        p[P.PARAM] = width
        shown = (end > 0 and (ends & 1) == 1) or (end < 0 and (ends & 2) == 2)
        p[P.PARAM + 1] = (1.0 if end > 0 else 2.0) if shown else 0.0
        p[P.PARAM + 6] = style
        p[P.PARAM + 7] = height - bottom
        p[P.ONE_SIDED] = 1.0
    n = P.put(
        prims, n, x + fz * half + fx * ahead, height, z - fx * half + fz * ahead, -fz, fx, -fx, 0.0, -fz, width,
        length, P.M_PLAIN, label, seed,
    )  # fmt: skip
    return n


@kernel
def truck(prims: NDArray[np.float64], n: int, i: NDArray[np.float64]) -> int:
    """Cab and cargo box; Q0 is the cargo: 0 box, 1 curtain with writing, 2 tipper."""
    seed = int(i[P.ISEED])
    first = n
    length, width, height = i[P.LENGTH], i[P.WIDTH], i[P.HEIGHT]
    cab = 2.0 + 0.3 * rnd(seed, 5)
    cab_height = min(height, 2.5 + 0.5 * rnd(seed, 6))
    front = 0.5 * length
    n = carriage(
        prims, n, i[P.X], i[P.Z], i[P.TURN], front, cab, width * 0.97, 0.4, cab_height, 0.45, 0.48, (0.62, -1.0, -1.0),
        3, P.TRUCK, seed, 3,
    )  # fmt: skip
    _paint(prims, first, n, LIVERIES, seed, 21)
    second = n
    n = carriage(
        prims, n, i[P.X], i[P.Z], i[P.TURN], front - cab - 0.25, length - cab - 0.25, width, 0.4, height, 0.85, 0.48,
        (0.72, 0.88, -1.0), 4 + int(i[P.Q0]), P.TRUCK, seed, 3,
    )  # fmt: skip
    _paint(prims, second, n, LIVERIES, seed, 31)
    if rnd(seed, 41) < 0.45:
        for k in range(second, n):
            P.colour(prims, k, P.RGB_A, 214.0, 214.0, 210.0)
    return n


@kernel
def bus(prims: NDArray[np.float64], n: int, i: NDArray[np.float64]) -> int:
    seed = int(i[P.ISEED])
    first = n
    n = carriage(
        prims, n, i[P.X], i[P.Z], i[P.TURN], 0.5 * i[P.LENGTH], i[P.LENGTH], i[P.WIDTH], 0.3, i[P.HEIGHT], 0.32, 0.46,
        (0.22, 0.72, -1.0), 0, P.BUS, seed, 3,
    )  # fmt: skip
    _paint(prims, first, n, LIVERIES, seed, 51)
    return n


@kernel
def tram(prims: NDArray[np.float64], n: int, i: NDArray[np.float64]) -> int:
    """Three cars with bellows between; the street bends little, so that they stand in one line."""
    seed = int(i[P.ISEED])
    first = n
    section = i[P.LENGTH] / 3.0
    for k in range(3):
        ends = 1 if k == 0 else (2 if k == 2 else 0)
        n = carriage(
            prims, n, i[P.X], i[P.Z], i[P.TURN], 0.5 * i[P.LENGTH] - k * section, section - 0.5, i[P.WIDTH], 0.18,
            i[P.HEIGHT], 0.18, 0.0, (-1.0, -1.0, -1.0), 2, P.TRAIN, seed, ends,
        )  # fmt: skip
    n = carriage(
        prims, n, i[P.X], i[P.Z], i[P.TURN], 0.5 * i[P.LENGTH] - 0.4, i[P.LENGTH] - 1.3, i[P.WIDTH] * 0.86, 0.4,
        i[P.HEIGHT] - 0.15, 0.2, 0.0, (-1.0, -1.0, -1.0), 7, P.TRAIN, seed, 0,
    )  # fmt: skip
    _paint(prims, first, n, LIVERIES, seed, 61)
    return n
