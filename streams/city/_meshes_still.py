"""Polygons of what grows and is built: houses, walls, fences, hedges, trees, bushes."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streams.city import _prims as P
from streams.city._math import kernel, rnd

PLASTER = np.array(
    [
        [214, 204, 180], [222, 214, 198], [206, 186, 140], [196, 172, 142], [186, 184, 178], [208, 178, 160],
        [178, 158, 132], [166, 172, 160], [170, 178, 188], [226, 222, 212], [190, 140, 104], [150, 146, 140],
    ],
    dtype=np.float64,
)  # fmt: skip
BRICK = np.array([[142, 82, 64], [122, 72, 58], [158, 98, 76], [110, 78, 66], [164, 124, 96]], dtype=np.float64)
CONCRETE = np.array([[156, 154, 150], [134, 134, 132], [176, 172, 164], [120, 126, 132]], dtype=np.float64)
ROOFS = np.array([[128, 66, 50], [104, 58, 48], [74, 72, 74], [92, 84, 78], [146, 86, 60]], dtype=np.float64)
LEAVES = np.array(
    [[70, 100, 44], [58, 86, 42], [86, 110, 50], [52, 78, 46], [96, 106, 46], [74, 92, 60]], dtype=np.float64
)
CLOTHES = np.array(
    [
        [26, 28, 34], [40, 44, 58], [62, 64, 68], [112, 112, 112], [196, 194, 188], [150, 36, 36], [36, 62, 118],
        [72, 104, 152], [54, 84, 62], [168, 132, 48], [120, 84, 62], [182, 96, 116], [88, 60, 94], [206, 158, 40],
    ],
    dtype=np.float64,
)  # fmt: skip


@kernel
def building(prims: NDArray[np.float64], n: int, i: NDArray[np.float64]) -> int:
    """Q0: wall (0 plaster, 1 brick, 2 concrete), Q1: roof (0 flat, 1 ridge along, 2 gable in front), Q2: shop below."""
    seed = int(i[P.ISEED])
    length, depth, height = i[P.LENGTH], i[P.WIDTH], i[P.HEIGHT]
    first = n
    wall = int(i[P.Q0])
    n = P.box(
        prims, n, i[P.X], 0.0, i[P.Z], i[P.TURN], length, depth, height, P.M_FACADE, P.M_SIDE_WALL, P.BUILDING, seed
    )
    storey = 2.8 + 0.9 * rnd(seed, 1)
    storeys = max(1.0, math.floor(height / storey + 0.3))
    storey = height / storeys
    for k in range(first, n):
        p = prims[k]
        p[P.PARAM] = storey
        face = length if k == first or k == first + 3 else depth
        bays = max(1.0, math.floor(face / (2.0 + 1.6 * rnd(seed, 2)) + 0.5))
        p[P.PARAM + 1] = face / bays
        p[P.PARAM + 2] = 0.34 + 0.36 * rnd(seed, 3)
        p[P.PARAM + 3] = 0.42 + 0.20 * rnd(seed, 4)
        p[P.PARAM + 4] = wall
        p[P.PARAM + 5] = i[P.Q2]
        p[P.PARAM + 6] = height
        p[P.PARAM + 7] = face
        P.pick(prims, k, P.RGB_A, PLASTER if wall == 0 else (BRICK if wall == 1 else CONCRETE), seed, 5)
        P.pick(prims, k, P.RGB_B, CLOTHES, seed, 6)
        if k == n - 1:
            P.pick(prims, k, P.RGB_A, ROOFS, seed, 7)
    roof = int(i[P.Q1])
    if roof == 0:
        return n
    ux, uz = math.sin(i[P.TURN]), math.cos(i[P.TURN])
    fx, fz = -uz, ux
    rise = (0.35 + 0.3 * rnd(seed, 8)) * 0.5 * (depth if roof == 1 else length)
    run = 0.5 * (depth if roof == 1 else length)
    size = math.sqrt(rise * rise + run * run)
    over = 0.35
    for k in range(2):
        s = 1.0 - 2.0 * k
        # Slopes rise from the front and back (ridge along the street) or from both sides (gable in front).
        if roof == 1:
            bx = i[P.X] + (0.0 if k == 0 else ux * length + fx * depth)
            bz = i[P.Z] + (0.0 if k == 0 else uz * length + fz * depth)
            n = P.put(
                prims, n, bx - s * fx * over, height - over * rise / run, bz - s * fz * over, s * ux, s * uz,
                s * fx * run / size, rise / size, s * fz * run / size, length, size * (1 + over / run), P.M_ROOF,
                P.BUILDING, seed,
            )  # fmt: skip
            gx = i[P.X] + (fx * depth if k == 0 else ux * length)
            gz = i[P.Z] + (fz * depth if k == 0 else uz * length)
            n = P.put(
                prims, n, gx, height, gz, -s * fx, -s * fz, 0.0, 1.0, 0.0, depth, rise, P.M_SIDE_WALL, P.BUILDING, seed
            )
        else:
            bx = i[P.X] + (fx * depth if k == 0 else ux * length)
            bz = i[P.Z] + (fz * depth if k == 0 else uz * length)
            n = P.put(
                prims, n, bx - s * ux * over, height - over * rise / run, bz - s * uz * over, -s * fx, -s * fz,
                s * ux * run / size, rise / size, s * uz * run / size, depth, size * (1 + over / run), P.M_ROOF,
                P.BUILDING, seed,
            )  # fmt: skip
            gx = i[P.X] + (0.0 if k == 0 else ux * length + fx * depth)
            gz = i[P.Z] + (0.0 if k == 0 else uz * length + fz * depth)
            n = P.put(
                prims, n, gx, height, gz, s * ux, s * uz, 0.0, 1.0, 0.0, length, rise, P.M_SIDE_WALL, P.BUILDING, seed
            )
        width = prims[n - 1, P.POLY + 2]
        prims[n - 1, P.POLY + 4] = 0.5 * width
        prims[n - 1, P.POLY + 6] = 0.5 * width
        for j in range(P.RGB_A, P.BILLBOARD):
            prims[n - 1, j] = prims[first, j]
            prims[n - 2, j] = prims[first + 4, j]
        prims[n - 1, P.PARAM + 6] = -1.0  # no windows in a gable
    return n


@kernel
def barrier(prims: NDArray[np.float64], n: int, i: NDArray[np.float64]) -> int:
    """Wall, fence or hedge: a thin box. Q0 is its texture."""
    seed = int(i[P.ISEED])
    kind = int(i[P.KIND])
    material = P.M_WALL if kind == P.K_WALL else (P.M_FENCE if kind == P.K_FENCE else P.M_HEDGE)
    label = P.WALL if kind == P.K_WALL else (P.FENCE if kind == P.K_FENCE else P.VEGETATION)
    first = n
    n = P.box(
        prims, n, i[P.X], 0.0, i[P.Z], i[P.TURN], i[P.LENGTH], i[P.WIDTH], i[P.HEIGHT], material, material, label, seed
    )
    for k in range(first, n):
        p = prims[k]
        p[P.PARAM] = i[P.HEIGHT]
        p[P.PARAM + 1] = i[P.Q0]
        p[P.PARAM + 2] = p[P.POLY + 2]
        if kind == P.K_HEDGE:
            P.pick(prims, k, P.RGB_A, LEAVES, seed, 1)
        elif kind == P.K_WALL:
            P.pick(prims, k, P.RGB_A, BRICK if i[P.Q0] == 1.0 else CONCRETE, seed, 2)
        else:
            wood = i[P.Q0] == 0.0
            shade = 0.8 + 0.4 * rnd(seed, 3)
            if wood:
                P.colour(prims, k, P.RGB_A, 146.0 * shade, 112.0 * shade, 78.0 * shade)
            else:
                dark = rnd(seed, 4) < 0.5
                P.colour(prims, k, P.RGB_A, 60.0 if dark else 150.0, 82.0 if dark else 156.0, 66.0 if dark else 158.0)
        if k == n - 1:
            p[P.MATERIAL] = P.M_PLAIN
    return n


@kernel
def tree(prims: NDArray[np.float64], n: int, i: NDArray[np.float64]) -> int:
    """Trunk and three overlapping crowns at different depths, so that the crown turns a little as one passes."""
    seed = int(i[P.ISEED])
    height, width = i[P.HEIGHT], i[P.WIDTH]
    conifer = i[P.Q0] == 1.0
    trunk = height * (0.12 if conifer else 0.28 + 0.12 * rnd(seed, 1))
    n = P.billboard(
        prims, n, i[P.X], 0.0, i[P.Z], 0.10 + 0.012 * height, 0.0, trunk + 0.25 * height, P.M_TRUNK, P.VEGETATION,
        seed, 110.0,
    )  # fmt: skip
    brown = 0.7 + 0.5 * rnd(seed, 2)
    P.colour(prims, n - 1, P.RGB_A, 92.0 * brown, 78.0 * brown, 64.0 * brown)
    blobs = 1 if conifer else 3
    for k in range(blobs):
        ry = 0.5 * (height - trunk) * (1.0 if k == 0 else 0.72)
        rx = 0.5 * width * (1.0 if k == 0 else 0.72)
        angle = 6.283 * rnd(seed, 10 + k)
        off = 0.0 if k == 0 else 0.24 * width
        y = height - 0.5 * (height - trunk) + (0.0 if k == 0 else (rnd(seed, 20 + k) - 0.45) * 0.3 * height)
        n = P.billboard(
            prims, n, i[P.X] + off * math.cos(angle), y, i[P.Z] + off * math.sin(angle), rx * 1.12, -ry, ry * 1.12,
            P.M_CROWN, P.VEGETATION, seed + k * 7919, 400.0,
        )  # fmt: skip
        p = prims[n - 1]
        p[P.PARAM] = rx
        p[P.PARAM + 1] = ry
        p[P.PARAM + 2] = i[P.Q0]
        P.pick(prims, n - 1, P.RGB_A, LEAVES, seed, 30)
    return n


@kernel
def bush(prims: NDArray[np.float64], n: int, i: NDArray[np.float64]) -> int:
    seed = int(i[P.ISEED])
    for k in range(2):
        rx = 0.5 * i[P.WIDTH]
        ry = 0.62 * i[P.HEIGHT]
        n = P.billboard(
            prims, n, i[P.X] + (rnd(seed, k) - 0.5) * 0.6, 0.35 * i[P.HEIGHT], i[P.Z] + (k - 0.5) * 0.7, rx * 1.1,
            -0.35 * i[P.HEIGHT], ry * 1.1, P.M_CROWN, P.VEGETATION, seed + k, 90.0,
        )  # fmt: skip
        p = prims[n - 1]
        p[P.PARAM] = rx
        p[P.PARAM + 1] = ry
        P.pick(prims, n - 1, P.RGB_A, LEAVES, seed, 30)
    return n
