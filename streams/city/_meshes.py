"""Turns instances (things) into polygons and ground shadows."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streams.city import _env as E
from streams.city import _meshes_still as still
from streams.city import _meshes_street as street
from streams.city import _meshes_vehicles as vehicles
from streams.city import _prims as P
from streams.city._math import kernel

DECAL_COLUMNS = 8  # x, z, axis x, axis z, half along, half across, strength, softness
POLYGONS_EACH = 28
DECALS_EACH = 2


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
            n = still.building(prims, n, i)
        elif kind == P.K_WALL or kind == P.K_FENCE or kind == P.K_HEDGE:
            n = still.barrier(prims, n, i)
        elif kind == P.K_TREE:
            n = still.tree(prims, n, i)
            m = _shade(decals, m, env, i, 0.42 * i[P.WIDTH], 0.42 * i[P.WIDTH], 0.5 * i[P.HEIGHT], 0.15)
        elif kind == P.K_BUSH:
            n = still.bush(prims, n, i)
            m = _shade(decals, m, env, i, 0.4 * i[P.WIDTH], 0.4 * i[P.WIDTH], 0.4 * i[P.HEIGHT], 0.35)
        elif kind == P.K_LAMP:
            n = street.lamp(prims, n, i)
        elif kind == P.K_SIGN:
            n = street.sign(prims, n, i)
        elif kind == P.K_LIGHT:
            n = street.light(prims, n, i)
        elif kind == P.K_PERSON or kind == P.K_BIKE:
            n = street.figure(prims, n, i)
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
            n = street.pole(prims, n, i[P.X], i[P.Z], 0.5 * i[P.WIDTH], 0.0, i[P.HEIGHT], int(i[P.ISEED]), i[P.Q0])
    return n, m
