"""Polygons of street furniture and of people and cycles: poles, lamps, signs, traffic lights, figures."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streams.city import _prims as P
from streams.city._math import kernel, rnd
from streams.city._meshes_still import CLOTHES


@kernel
def pole(
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
def lamp(prims: NDArray[np.float64], n: int, i: NDArray[np.float64]) -> int:
    seed = int(i[P.ISEED])
    grey = 58.0 + 90.0 * rnd(int(i[P.Q1]), 1)
    n = pole(prims, n, i[P.X], i[P.Z], 0.12, 0.0, i[P.HEIGHT], seed, grey)
    n = pole(prims, n, i[P.X], i[P.Z], 0.17, 0.0, 0.9, seed, grey)
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
def sign(prims: NDArray[np.float64], n: int, i: NDArray[np.float64]) -> int:
    """Plate on a pole, its right along ``TURN`` as its readers see it; Q0 shape, Q1 colours, HEIGHT of its middle."""
    seed = int(i[P.ISEED])
    if i[P.LENGTH] > 0.0:
        n = pole(prims, n, i[P.X], i[P.Z], 0.075, 0.0, i[P.HEIGHT] + 0.3, seed, 128.0 + 40.0 * rnd(seed, 1))
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
def light(prims: NDArray[np.float64], n: int, i: NDArray[np.float64]) -> int:
    """Lamp boxes at the kerb and, with LENGTH, at the end of an arm over the lanes. Q0: phase, Q1: housing."""
    seed = int(i[P.ISEED])
    grey = 70.0 + 60.0 * rnd(seed, 1)
    ux, uz = math.sin(i[P.TURN]), math.cos(i[P.TURN])
    vx, vz = -uz, ux
    n = pole(prims, n, i[P.X], i[P.Z], 0.11, 0.0, 3.9 if i[P.LENGTH] == 0.0 else 5.9, seed, grey)
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
def figure(prims: NDArray[np.float64], n: int, i: NDArray[np.float64]) -> int:
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
    P.pick(prims, n - 1, P.RGB_A, CLOTHES, seed, 50)
    P.pick(prims, n - 1, P.RGB_B, CLOTHES, seed, 51)
    return n
