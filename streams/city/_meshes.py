"""Turns instances (things) into polygons and ground shadows."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streams.city import _env as E
from streams.city import _meshes_vehicles as vehicles
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
DECAL_COLUMNS = 8  # x, z, axis x, axis z, half along, half across, strength, softness
POLYGONS_EACH = 28
DECALS_EACH = 2


@kernel
def _pick(prims: NDArray[np.float64], n: int, column: int, table: NDArray[np.float64], seed: int, salt: int) -> None:
    row = table[int(rnd(seed, salt) * table.shape[0])]
    fade = 0.85 + 0.3 * rnd(seed, salt + 100)
    P.colour(prims, n, column, row[0] * fade, row[1] * fade, row[2] * fade)


@kernel
def _building(prims: NDArray[np.float64], n: int, i: NDArray[np.float64]) -> int:
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
        _pick(prims, k, P.RGB_A, PLASTER if wall == 0 else (BRICK if wall == 1 else CONCRETE), seed, 5)
        _pick(prims, k, P.RGB_B, CLOTHES, seed, 6)
        if k == n - 1:
            _pick(prims, k, P.RGB_A, ROOFS, seed, 7)
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
def _barrier(prims: NDArray[np.float64], n: int, i: NDArray[np.float64]) -> int:
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
            _pick(prims, k, P.RGB_A, LEAVES, seed, 1)
        elif kind == P.K_WALL:
            _pick(prims, k, P.RGB_A, BRICK if i[P.Q0] == 1.0 else CONCRETE, seed, 2)
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
def _tree(prims: NDArray[np.float64], n: int, i: NDArray[np.float64]) -> int:
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
        _pick(prims, n - 1, P.RGB_A, LEAVES, seed, 30)
    return n


@kernel
def _bush(prims: NDArray[np.float64], n: int, i: NDArray[np.float64]) -> int:
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
        _pick(prims, n - 1, P.RGB_A, LEAVES, seed, 30)
    return n


@kernel
def _pole(
    prims: NDArray[np.float64], n: int, x: float, z: float, half: float, low: float, high: float, seed: int, grey: float
) -> int:
    n = P.billboard(prims, n, x, 0.0, z, half, low, high, P.M_POLE, P.POLE, seed, 470.0 * half)
    P.colour(prims, n - 1, P.RGB_A, grey, grey * 1.01, grey * 0.99)
    prims[n - 1, P.PARAM] = half
    return n


@kernel
def _arm(
    prims: NDArray[np.float64], n: int, x: float, y: float, z: float, turn: float, reach: float, thick: float,
    seed: int, grey: float,
) -> int:  # fmt: skip
    """A level beam seen from the front and from the side."""
    ux, uz = math.sin(turn), math.cos(turn)
    n = P.put(prims, n, x, y, z, ux, uz, 0.0, 1.0, 0.0, reach, thick, P.M_POLE, P.POLE, seed)
    n = P.put(prims, n, x, y, z, ux, uz, -uz, 0.0, ux, reach, thick, P.M_POLE, P.POLE, seed)
    for k in (n - 2, n - 1):
        P.colour(prims, k, P.RGB_A, grey, grey, grey)
        prims[k, P.PARAM] = 10.0
        prims[k, P.MAX_M] = 60.0
    return n


@kernel
def _lamp(prims: NDArray[np.float64], n: int, i: NDArray[np.float64]) -> int:
    seed = int(i[P.ISEED])
    grey = 58.0 + 90.0 * rnd(int(i[P.Q1]), 1)
    n = _pole(prims, n, i[P.X], i[P.Z], 0.12, 0.0, i[P.HEIGHT], seed, grey)
    n = _pole(prims, n, i[P.X], i[P.Z], 0.17, 0.0, 0.9, seed, grey)
    if i[P.LENGTH] > 0.0:
        n = _arm(prims, n, i[P.X], i[P.HEIGHT] - 0.12, i[P.Z], i[P.TURN], i[P.LENGTH], 0.13, seed, grey)
        ux, uz = math.sin(i[P.TURN]), math.cos(i[P.TURN])
        n = P.billboard(
            prims, n, i[P.X] + ux * i[P.LENGTH], 0.0, i[P.Z] + uz * i[P.LENGTH], 0.35, i[P.HEIGHT] - 0.22,
            i[P.HEIGHT] + 0.06, P.M_POLE, P.POLE, seed, 60.0,
        )  # fmt: skip
    else:
        n = P.billboard(
            prims, n, i[P.X], 0.0, i[P.Z], 0.22, i[P.HEIGHT] - 0.1, i[P.HEIGHT] + 0.45, P.M_POLE, P.POLE, seed, 60.0
        )
    P.colour(prims, n - 1, P.RGB_A, 150.0, 150.0, 146.0)
    prims[n - 1, P.PARAM] = 10.0
    return n


@kernel
def _sign(prims: NDArray[np.float64], n: int, i: NDArray[np.float64]) -> int:
    """Plate on a pole, facing the traffic that comes along ``TURN``; Q0 shape, Q1 colour scheme, HEIGHT of its middle."""
    seed = int(i[P.ISEED])
    if i[P.LENGTH] > 0.0:
        n = _pole(prims, n, i[P.X], i[P.Z], 0.075, 0.0, i[P.HEIGHT] + 0.3, seed, 128.0 + 40.0 * rnd(seed, 1))
    ux, uz = math.sin(i[P.TURN]), math.cos(i[P.TURN])
    vx, vz = -uz, ux
    size = i[P.WIDTH]
    tall = size * (0.66 if i[P.Q0] == 5.0 else 1.0)
    n = P.put(
        prims, n, i[P.X] - 0.1 * vx, i[P.HEIGHT], i[P.Z] - 0.1 * vz, ux, uz, 0.0, 1.0, 0.0, 1.0, 1.0, P.M_SIGN, P.SIGN,
        seed,
    )  # fmt: skip
    P.corners(prims, n - 1, -size, size, -tall, tall, 0.0)
    p = prims[n - 1]
    p[P.PARAM] = size
    p[P.PARAM + 1] = i[P.Q0]
    p[P.PARAM + 2] = i[P.Q1]
    p[P.PARAM + 3] = tall
    p[P.MAX_M] = 130.0 * size
    return n


@kernel
def _light(prims: NDArray[np.float64], n: int, i: NDArray[np.float64]) -> int:
    """Lamp boxes at the kerb and, with LENGTH, at the end of an arm over the lanes. Q0: phase, Q1: housing."""
    seed = int(i[P.ISEED])
    grey = 70.0 + 60.0 * rnd(seed, 1)
    ux, uz = math.sin(i[P.TURN]), math.cos(i[P.TURN])
    vx, vz = -uz, ux
    n = _pole(prims, n, i[P.X], i[P.Z], 0.11, 0.0, 3.9 if i[P.LENGTH] == 0.0 else 5.9, seed, grey)
    count = 1
    if i[P.LENGTH] > 0.0:
        n = _arm(prims, n, i[P.X], 5.5, i[P.Z], i[P.TURN] - math.pi, i[P.LENGTH], 0.15, seed, grey)
        count = 2
    for k in range(count):
        off = 0.0 if k == 0 else -i[P.LENGTH] + 0.3
        y = 2.5 if k == 0 else 4.75
        half = 0.26 if k == 0 else 0.30
        tall = 1.25 if k == 0 else 1.45
        n = P.box(
            prims, n, i[P.X] + ux * (off - half) - vx * 0.4, y, i[P.Z] + uz * (off - half) - vz * 0.4, i[P.TURN],
            2.0 * half, 0.28, tall, P.M_LIGHT, P.M_PLAIN, P.LIGHT, seed,
        )  # fmt: skip
        n -= 1  # the top of a lamp box is never seen
        for j in range(n - 4, n):
            p = prims[j]
            p[P.PARAM] = 2.0 * half
            p[P.PARAM + 1] = tall
            p[P.PARAM + 2] = i[P.Q0]
            p[P.PARAM + 3] = i[P.Q1]
            p[P.MAX_M] = 80.0
            dark = 26.0 + 20.0 * rnd(seed, 2)
            P.colour(prims, j, P.RGB_A, dark, dark + 2.0, dark)
    return n


@kernel
def _figure(prims: NDArray[np.float64], n: int, i: NDArray[np.float64]) -> int:
    """A person (Q0 phase, Q1 walking) or a cycle (Q0 kind, Q1 pedal phase)."""
    seed = int(i[P.ISEED])
    if int(i[P.KIND]) == P.K_PERSON:
        height = i[P.HEIGHT]
        n = P.billboard(
            prims, n, i[P.X], 0.0, i[P.Z], 0.32 * height, 0.0, height * 1.02, P.M_PERSON, P.PERSON, seed, 80.0
        )
        p = prims[n - 1]
        p[P.PARAM] = height
        p[P.PARAM + 1] = math.sin(i[P.Q0]) * i[P.Q1]
        p[P.PARAM + 2] = math.cos(i[P.Q0]) * i[P.Q1]
        p[P.PARAM + 3] = 0.86 + 0.35 * rnd(seed, 1)
        coat = 0.45 < rnd(seed, 5) < 0.62
        p[P.PARAM + 4] = 0.50 if coat else 0.78 + 0.10 * rnd(seed, 4)
        p[P.PARAM + 5] = (rnd(seed, 2) < 0.4) + 2 * (rnd(seed, 3) < 0.35) + 4 * (rnd(seed, 6) < 0.18)
    else:
        kind = int(i[P.Q0])
        top = 1.86 if kind == 1 or kind == 3 else 1.34
        n = P.billboard(prims, n, i[P.X], 0.0, i[P.Z], 1.12, 0.0, top, P.M_BIKE, P.RIDER, seed, 70.0)
        p = prims[n - 1]
        p[P.PARAM] = kind
        p[P.PARAM + 1] = 0.16 * math.cos(i[P.Q1])
        p[P.PARAM + 2] = 0.16 * math.sin(i[P.Q1])
        p[P.PARAM + 3] = (rnd(seed, 9) < 0.6) + 2 * (rnd(seed, 10) < 0.35)
        p[P.LABEL2] = P.MOTORCYCLE if kind >= 2 else P.BICYCLE
        if kind == 0 or kind == 2:
            p[P.LABEL] = p[P.LABEL2]
    p[P.HEADING] = i[P.TURN]
    _pick(prims, n - 1, P.RGB_A, CLOTHES, seed, 50)
    _pick(prims, n - 1, P.RGB_B, CLOTHES, seed, 51)
    return n


@kernel
def _shade(
    decals: NDArray[np.float64], m: int, env: NDArray[np.float64], i: NDArray[np.float64], along: float, across: float,
    height: float, contact: float,
) -> int:  # fmt: skip
    """Contact shadow under a thing and the shadow that the sun casts of it, both as soft rectangles on the ground."""
    ax, az = math.sin(i[P.TURN]), math.cos(i[P.TURN])
    d = decals[m]
    d[0], d[1], d[2], d[3] = i[P.X], i[P.Z], ax, az
    d[4], d[5], d[6], d[7] = along + 0.25, across + 0.25, contact, 0.45
    m += 1
    if env[E.SHADOW] > 0.0:
        reach = min(7.0, height / max(0.2, env[E.SUN + 1]))
        sx, sz = -env[E.SUN] * reach, -env[E.SUN + 2] * reach
        d = decals[m]
        d[0], d[1], d[2], d[3] = i[P.X] + 0.5 * sx, i[P.Z] + 0.5 * sz, ax, az
        d[4] = along + 0.5 * abs(sx * ax + sz * az)
        d[5] = across + 0.5 * abs(sx * az - sz * ax)
        d[6], d[7] = 0.55 * env[E.SHADOW], 0.16
        m += 1
    return m


@kernel
def expand(
    instances: NDArray[np.float64], env: NDArray[np.float64], prims: NDArray[np.float64], decals: NDArray[np.float64]
) -> tuple[int, int]:
    """Write the polygons and ground shadows of all instances.

    Args:
        instances: ``(N, INSTANCE_COLUMNS)``.
        env: Numbers of the drive.
        prims: Room for ``N * POLYGONS_EACH`` records.
        decals: Room for ``N * DECALS_EACH`` shadows.

    Returns:
        How many polygons and shadows were written.
    """
    n = 0
    m = 0
    for k in range(instances.shape[0]):
        i = instances[k]
        kind = int(i[P.KIND])
        if kind == P.K_BUILDING:
            n = _building(prims, n, i)
        elif kind == P.K_WALL or kind == P.K_FENCE or kind == P.K_HEDGE:
            n = _barrier(prims, n, i)
        elif kind == P.K_TREE:
            n = _tree(prims, n, i)
            m = _shade(decals, m, env, i, 0.42 * i[P.WIDTH], 0.42 * i[P.WIDTH], 0.5 * i[P.HEIGHT], 0.15)
        elif kind == P.K_BUSH:
            n = _bush(prims, n, i)
            m = _shade(decals, m, env, i, 0.4 * i[P.WIDTH], 0.4 * i[P.WIDTH], 0.4 * i[P.HEIGHT], 0.35)
        elif kind == P.K_LAMP:
            n = _lamp(prims, n, i)
        elif kind == P.K_SIGN:
            n = _sign(prims, n, i)
        elif kind == P.K_LIGHT:
            n = _light(prims, n, i)
        elif kind == P.K_PERSON or kind == P.K_BIKE:
            n = _figure(prims, n, i)
            m = _shade(decals, m, env, i, 0.22 if kind == P.K_PERSON else 0.85, 0.2, 1.4, 0.4)
        elif kind == P.K_CAR:
            n = vehicles.car(prims, n, i)
            m = _shade(decals, m, env, i, 2.15, 0.88, 1.3, 0.72)
        elif kind == P.K_TRUCK:
            n = vehicles.truck(prims, n, i)
            m = _shade(decals, m, env, i, 0.5 * i[P.LENGTH], 0.5 * i[P.WIDTH], i[P.HEIGHT], 0.72)
        elif kind == P.K_BUS:
            n = vehicles.bus(prims, n, i)
            m = _shade(decals, m, env, i, 0.5 * i[P.LENGTH], 0.5 * i[P.WIDTH], i[P.HEIGHT], 0.72)
        elif kind == P.K_TRAM:
            n = vehicles.tram(prims, n, i)
            m = _shade(decals, m, env, i, 0.5 * i[P.LENGTH], 0.5 * i[P.WIDTH], i[P.HEIGHT], 0.72)
        else:
            n = _pole(prims, n, i[P.X], i[P.Z], 0.5 * i[P.WIDTH], 0.0, i[P.HEIGHT], int(i[P.ISEED]), i[P.Q0])
    return n, m
