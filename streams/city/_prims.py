"""The record that the rasteriser draws: a flat polygon with a material, and the codes of things and materials.

A polygon lies in the plane ``P0 + u * U + v * V`` (U, V orthonormal; u to the right and v up as seen from outside),
with up to four corners in (u, v) metres. A billboard keeps P0 and V and turns U towards the camera every frame.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streams.city._math import kernel, rnd

# Columns of a polygon record.
P0 = 0
U = 3
V = 6
POLY = 9
MATERIAL = 17
LABEL = 18
SEED = 19
RGB_A = 20
RGB_B = 23
PARAM = 26
BILLBOARD = 34
MAX_M = 35  # not drawn beyond this distance: it would be thinner than a pixel
HEADING = 36
ONE_SIDED = 37
LABEL2 = 38  # label of parts numbered 8 and up
COLUMNS = 39

# Columns of an instance: one thing of the world before it becomes polygons.
KIND, X, Y, Z, TURN, LENGTH, WIDTH, HEIGHT, ISEED, Q0, Q1, Q2 = range(12)
INSTANCE_COLUMNS = 12

# Kinds of things.
(K_BUILDING, K_WALL, K_FENCE, K_HEDGE, K_TREE, K_BUSH, K_LAMP, K_SIGN, K_LIGHT, K_PERSON, K_BIKE, K_CAR, K_TRUCK,
 K_BUS, K_TRAM, K_POLE) = range(16)  # fmt: skip

# Materials; those from M_PERSON on are cut-outs with a shape function.
(M_FACADE, M_ROOF, M_WALL, M_FENCE, M_POLE, M_LIGHT, M_TRUNK, M_CAR_STRIP, M_BOX_SIDE, M_BOX_END, M_PLAIN,
 M_SIDE_WALL) = range(12)  # fmt: skip
M_PERSON, M_BIKE, M_CROWN, M_HEDGE, M_CAR_SIDE, M_BIG_SIDE, M_SIGN, M_CAR_CABIN = range(20, 28)
FIRST_CUTOUT = 20

# Cityscapes train ids.
(ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION, TERRAIN, SKY, PERSON, RIDER, CAR, TRUCK, BUS,
 TRAIN, MOTORCYCLE, BICYCLE) = range(19)  # fmt: skip


@kernel
def put(
    prims: NDArray[np.float64], n: int, x: float, y: float, z: float, ux: float, uz: float,
    vx: float, vy: float, vz: float, w: float, h: float, material: int, label: int, seed: int,
) -> int:  # fmt: skip
    """Write a ``w`` by ``h`` rectangle with level U as record ``n``; returns ``n + 1``."""
    p = prims[n]
    for k in range(COLUMNS):
        p[k] = 0.0
    p[0] = x
    p[1] = y
    p[2] = z
    p[3] = ux
    p[5] = uz
    p[6] = vx
    p[7] = vy
    p[8] = vz
    p[POLY + 2] = w
    p[POLY + 4] = w
    p[POLY + 5] = h
    p[POLY + 7] = h
    p[MATERIAL] = material
    p[LABEL] = label
    p[LABEL2] = label
    p[SEED] = seed
    p[MAX_M] = 1e9
    return n + 1


@kernel
def colour(prims: NDArray[np.float64], n: int, column: int, r: float, g: float, b: float) -> None:
    prims[n, column] = r
    prims[n, column + 1] = g
    prims[n, column + 2] = b


@kernel
def corners(prims: NDArray[np.float64], n: int, u0: float, u1: float, v0: float, v1: float, inset: float) -> None:
    """Replace the rectangle of record ``n`` by a trapezoid whose top is narrower by ``inset`` on each side."""
    p = prims[n]
    p[POLY] = u0
    p[POLY + 1] = v0
    p[POLY + 2] = u1
    p[POLY + 3] = v0
    p[POLY + 4] = u1 - inset
    p[POLY + 5] = v1
    p[POLY + 6] = u0 + inset
    p[POLY + 7] = v1


@kernel
def billboard(
    prims: NDArray[np.float64], n: int, x: float, y: float, z: float, half: float, low: float, high: float,
    material: int, label: int, seed: int, max_m: float,
) -> int:  # fmt: skip
    """Write an upright polygon that turns to the camera, ``[-half, half]`` by ``[low, high]`` about (x, y, z)."""
    n = put(prims, n, x, y, z, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, material, label, seed)
    corners(prims, n - 1, -half, half, low, high, 0.0)
    prims[n - 1, BILLBOARD] = 1.0
    prims[n - 1, MAX_M] = max_m
    return n


@kernel
def box(
    prims: NDArray[np.float64], n: int, x: float, y: float, z: float, turn: float, length: float, depth: float,
    height: float, front: int, sides: int, label: int, seed: int,
) -> int:  # fmt: skip
    """Write front, left, right, back and top of a box whose front starts at its left corner and runs along ``turn``."""
    ux = math.sin(turn)
    uz = math.cos(turn)
    fx = -uz  # into the box: U x V
    fz = ux
    n = put(prims, n, x, y, z, ux, uz, 0.0, 1.0, 0.0, length, height, front, label, seed)
    n = put(prims, n, x + fx * depth, y, z + fz * depth, -fx, -fz, 0.0, 1.0, 0.0, depth, height, sides, label, seed)
    ex = x + ux * length
    ez = z + uz * length
    n = put(prims, n, ex, y, ez, fx, fz, 0.0, 1.0, 0.0, depth, height, sides, label, seed)
    n = put(prims, n, ex + fx * depth, y, ez + fz * depth, -ux, -uz, 0.0, 1.0, 0.0, length, height, sides, label, seed)
    n = put(prims, n, x, y + height, z, ux, uz, fx, 0.0, fz, length, depth, M_ROOF, label, seed)
    for k in range(n - 5, n):
        prims[k, ONE_SIDED] = 1.0
    return n


@kernel
def pick(prims: NDArray[np.float64], n: int, column: int, table: NDArray[np.float64], seed: int, salt: int) -> None:
    """Colour record ``n`` with a row of a palette, a little lighter or darker."""
    row = table[int(rnd(seed, salt) * table.shape[0])]
    fade = 0.85 + 0.3 * rnd(seed, salt + 100)
    colour(prims, n, column, row[0] * fade, row[1] * fade, row[2] * fade)
