"""Collects the things and the lot rows of one block of the street."""

from __future__ import annotations

import math
import random

import numpy as np
from numpy.typing import NDArray

from streams.city import _env as E
from streams.city import _ground as G
from streams.city import _prims as P
from streams.city._math import mix

Instance = tuple[float, ...]


class Builder:
    """Collects the instances of one block. Lengths are metres; ``side`` is -1 left, +1 right."""

    def __init__(self, env: NDArray[np.float64], key: int, block: int) -> None:
        self.rng = random.Random(mix(key, block * 2))
        numbers = [float(v) for v in env]
        self._bend = numbers[E.BEND : E.BEND + 6]
        self.half = numbers[E.HALF_M]
        self.walk = numbers[E.SIDEWALK_M]
        self.verge = numbers[E.VERGE_M]
        self.parking = numbers[E.PARKING_M]
        self.lanes_m = numbers[E.LANES] * numbers[E.LANE_M]
        self.bike_m = numbers[E.BIKE_M]
        self.key = key
        self.front = self.half + self.walk
        self.start = block * int(numbers[E.BLOCK_M])
        self.end = self.start + int(numbers[E.BLOCK_M])
        self.lots = np.zeros((2, int(numbers[E.BLOCK_M]), G.LOT_COLUMNS))
        self.lots[:, :, G.LOT_MIDDLE] = [self.middle(z) for z in range(self.start, self.end)]
        self.items: list[Instance] = []

    def middle(self, z: float) -> float:
        a, b, c, d, e, f = self._bend
        return a * math.sin(b * z + c) + d * math.sin(e * z + f)

    def along(self, z: float) -> float:
        """Heading of the street, radians clockwise from +z."""
        a, b, c, d, e, f = self._bend
        return math.atan(a * b * math.cos(b * z + c) + d * e * math.cos(e * z + f))

    def add(
        self, kind: int, x: float, z: float, turn: float = 0.0, length: float = 0.0, width: float = 0.0,
        height: float = 0.0, q0: float = 0.0, q1: float = 0.0, q2: float = 0.0,
    ) -> None:  # fmt: skip
        """Place a thing at ``x`` from the middle of the street, turned relative to the street."""
        seed = self.rng.getrandbits(30)
        self.items.append(
            (kind, x + self.middle(z), 0.0, z, turn + self.along(z), length, width, height, seed, q0, q1, q2)
        )

    def face(
        self, kind: int, side: int, za: float, zb: float, offset: float, depth: float, height: float, q0: float = 0.0,
        q1: float = 0.0, q2: float = 0.0,
    ) -> None:  # fmt: skip
        """Place a box whose front faces the street between ``za`` and ``zb``, ``offset`` behind the sidewalk."""
        x = side * (self.front + offset)
        near, far = (zb, za) if side > 0 else (za, zb)
        x0, x1 = x + self.middle(near), x + self.middle(far)
        turn = math.atan2(x1 - x0, far - near)
        length = math.hypot(x1 - x0, far - near)
        seed = self.rng.getrandbits(30)
        self.items.append((kind, x0, 0.0, near, turn, length, depth, height, seed, q0, q1, q2))

    def cross_face(
        self, kind: int, x0: float, x1: float, z: float, ahead: bool, depth: float, height: float, q0: float = 0.0,
        q1: float = 0.0, q2: float = 0.0,
    ) -> None:  # fmt: skip
        """Place a box along a side street from ``x0`` to ``x1``; ``ahead``: it is seen looking forward."""
        seed = self.rng.getrandbits(30)
        lo, hi = min(x0, x1), max(x0, x1)
        x, turn = (lo, math.pi / 2) if ahead else (hi, -math.pi / 2)
        self.items.append((kind, x + self.middle(z), 0.0, z, turn, hi - lo, depth, height, seed, q0, q1, q2))

    def lot(self, side: int, za: float, zb: float, surface: float, height: float, setback: float) -> None:
        """Describe the ground (and the shade) of a lot in the table."""
        a = max(0, math.floor(za - self.start))
        b = min(self.lots.shape[1], math.ceil(zb - self.start))
        self.lots[1 if side > 0 else 0, a:b, :3] = (surface, height, setback)


def tree(build: Builder, x: float, z: float, tall: float = 1.0) -> None:
    rng = build.rng
    conifer = float(rng.random() < 0.12)
    height = rng.uniform(5.5, 11.0) * tall
    build.add(P.K_TREE, x, z, height=height, width=height * (0.4 if conifer else rng.uniform(0.5, 0.8)), q0=conifer)


def stander(build: Builder, x: float, z: float) -> None:
    rng = build.rng
    build.add(P.K_PERSON, x, z, turn=rng.uniform(-3.1, 3.1), height=rng.uniform(1.55, 1.92), q0=rng.uniform(0, 6))
