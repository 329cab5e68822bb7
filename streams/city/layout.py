"""What stands along the street: blocks of houses, yards, parks, trees, lamps, signs and parked vehicles.

The street is cut into blocks of equal length. A block is drawn from (key of the drive, index of the block) alone, so
that any stretch of an endless street can be made on demand and always comes out the same.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.city import _env as E
from streams.city import _ground as G
from streams.city import _prims as P
from streams.city._math import mix
from streams.city.style import ZONES, zone_weights

Instance = tuple[float, ...]


@dataclass(frozen=True)
class Block:
    """Things and ground of one block: instances ``(N, 12)`` and lot rows ``(2, metres, 4)``."""

    instances: NDArray[np.float64]
    lots: NDArray[np.float64]


def crossing(key: int, block: int) -> tuple[float, float]:
    """Half width of the street that crosses at the start of a block (0 = none), and whether it has zebra stripes."""
    rng = random.Random(mix(key, block * 2 + 1))
    if rng.random() < 0.18:
        return 0.0, 0.0
    return rng.uniform(3.2, 4.6), float(rng.random() < 0.75)


class _Builder:
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


def _tree(build: _Builder, x: float, z: float, tall: float = 1.0) -> None:
    rng = build.rng
    conifer = float(rng.random() < 0.12)
    height = rng.uniform(5.5, 11.0) * tall
    build.add(P.K_TREE, x, z, height=height, width=height * (0.4 if conifer else rng.uniform(0.5, 0.8)), q0=conifer)


def _row(build: _Builder, side: int, za: float, zb: float, dense: float) -> None:
    """Houses wall to wall at the sidewalk: downtown (dense 1) or mixed."""
    rng = build.rng
    z = za
    while z < zb - 5:
        length = min(rng.uniform(9, 24), zb - z)
        if zb - z - length < 6:
            length = zb - z
        if rng.random() < 0.30 * (1 - dense) and length > 7:
            build.lot(side, z, z + length, rng.choice((G.PAVED, G.LAWN)), 2.0, 0.0)
            kind = rng.choice((P.K_WALL, P.K_FENCE, P.K_WALL))
            build.face(kind, side, z, z + length, 0.1, 0.25, rng.uniform(1.5, 2.4), q0=rng.randint(0, 2))
            for _ in range(rng.randint(1, 3)):
                _tree(build, side * (build.front + rng.uniform(3, 7)), rng.uniform(z + 1, z + length - 1))
            build.face(P.K_BUILDING, side, z, z + length, 16, 10, rng.uniform(7, 14), q0=rng.randint(0, 2))
        else:
            setback = 0.0 if rng.random() < 0.6 + 0.4 * dense else rng.uniform(1.0, 4.0)
            height = rng.uniform(10, 21) if dense > 0.5 else rng.uniform(6.5, 13)
            build.lot(side, z, z + length, G.PAVED if setback < 2 else rng.choice((G.PAVED, G.LAWN)), height, setback)
            build.face(
                P.K_BUILDING, side, z, z + length, setback, rng.uniform(11, 15), height,
                q0=rng.choice((0, 0, 0, 1, 1, 2)), q1=rng.choice((0, 1)), q2=float(rng.random() < 0.3 + 0.4 * dense),
            )  # fmt: skip
        z += length


def _houses(build: _Builder, side: int, za: float, zb: float) -> None:
    """Detached houses behind front gardens with a wall, fence or hedge at the sidewalk."""
    rng = build.rng
    z = za
    border = rng.choice((P.K_WALL, P.K_FENCE, P.K_FENCE, P.K_HEDGE))
    while z < zb - 8:
        length = min(rng.uniform(12, 20), zb - z)
        if zb - z - length < 8:
            length = zb - z
        setback = rng.uniform(3.5, 7.5)
        gap = rng.uniform(1.5, 4.0)
        height = rng.uniform(3.2, 6.6)
        build.lot(side, z, z + length, G.LAWN, height + 1.5, setback)
        build.face(
            P.K_BUILDING, side, z + gap, z + length - gap, setback, rng.uniform(8, 11), height,
            q0=rng.choice((0, 0, 1)), q1=rng.choice((1, 1, 2)),
        )  # fmt: skip
        if rng.random() < 0.3:
            border = rng.choice((P.K_WALL, P.K_FENCE, P.K_FENCE, P.K_HEDGE))
        gate = rng.uniform(1.2, 3.0)
        height = rng.uniform(0.9, 1.7)
        q0 = rng.randint(0, 2)
        build.face(border, side, z, z + length - gate, 0.15, 0.5 if border == P.K_HEDGE else 0.22, height, q0=q0)
        for _ in range(rng.randint(0, 3)):
            offset, spot = rng.uniform(1.5, setback), rng.uniform(z, z + length)
            if rng.random() < 0.45:
                _tree(build, side * (build.front + offset), spot, 0.7)
            else:
                build.add(
                    P.K_BUSH, side * (build.front + offset), spot, width=rng.uniform(1, 2.4), height=rng.uniform(0.8, 2)
                )
        _tree(build, side * (build.front + setback + 13), z + rng.uniform(0, length), 1.2)
        z += length


def _park(build: _Builder, side: int, za: float, zb: float) -> None:
    """Lawn with trees and bushes, often behind a fence; taller trees close the view."""
    rng = build.rng
    build.lot(side, za, zb, G.LAWN, 0.0, 8.0)
    border = rng.random()
    if border < 0.55:
        build.face(P.K_FENCE, side, za, zb, 0.15, 0.1, rng.uniform(1.0, 1.8), q0=rng.randint(0, 2))
    elif border < 0.7:
        build.face(P.K_HEDGE, side, za, zb, 0.2, 0.6, rng.uniform(0.7, 1.3))
    z = za
    while z < zb:
        _tree(build, side * (build.front + rng.uniform(3, 9)), z, 1.1)
        if rng.random() < 0.5:
            build.add(
                P.K_BUSH, side * (build.front + rng.uniform(2, 10)), z + 2, width=rng.uniform(1.2, 3),
                height=rng.uniform(0.8, 2.2),
            )  # fmt: skip
        _tree(build, side * (build.front + rng.uniform(14, 20)), z + 1.5, 1.35)
        z += rng.uniform(4.5, 9)


def _industry(build: _Builder, side: int, za: float, zb: float) -> None:
    """Halls behind a long wall or fence."""
    rng = build.rng
    surface = rng.choice((G.EARTH, G.LAWN, G.PAVED))
    build.lot(side, za, zb, surface, 2.4, 0.0)
    border = P.K_WALL if rng.random() < 0.65 else P.K_FENCE
    build.face(border, side, za, zb, 0.1, 0.25, rng.uniform(1.9, 3.0), q0=rng.choice((1, 2, 2)))
    z = za
    while z < zb - 6:
        length = min(rng.uniform(18, 34), zb - z)
        if rng.random() < 0.8:
            build.face(
                P.K_BUILDING, side, z + 1, z + length - 1, rng.uniform(6, 12), 14, rng.uniform(6, 10), q0=2,
                q1=rng.choice((0, 1)),
            )  # fmt: skip
        else:
            for k in range(3):
                _tree(build, side * (build.front + rng.uniform(4, 12)), z + k * length / 3)
        z += length


def _side_street(build: _Builder, side: int, cross: float) -> None:
    """Houses along the side street beyond the corner lots, its end, and vehicles that wait or park in it."""
    rng = build.rng
    z = float(build.start)
    x = build.front + 15.0
    for _ in range(2):
        length = rng.uniform(16, 26)
        for ahead in (True, False):
            off = cross + G.SIDE_WALK_M + 0.2
            build.cross_face(
                P.K_BUILDING, side * x, side * (x + length), z + (off if ahead else -off), ahead, 10,
                rng.uniform(6, 14), q0=rng.randint(0, 2), q1=rng.choice((0, 1)),
            )  # fmt: skip
        x += length
    build.add(P.K_TREE, side * (x + 3), z, height=rng.uniform(9, 14), width=rng.uniform(9, 12))
    build.add(P.K_TREE, side * (x + 5), z + 6, height=rng.uniform(9, 14), width=9)
    turn = -side * math.pi / 2
    lane = -side * 0.5 * cross
    if rng.random() < 0.55:
        build.add(P.K_CAR, side * (build.half + 6.8), z + lane, turn=turn, q0=rng.randint(0, 4))
    if rng.random() < 0.15:
        build.add(P.K_BUS, side * (build.half + 21), z + lane, turn=turn, length=11.5, width=2.55, height=3.1)
    elif rng.random() < 0.2:
        build.add(P.K_TRUCK, side * (build.half + 20), z + lane, turn=turn, length=8.5, width=2.5, height=3.5)
    if rng.random() < 0.5:
        build.add(P.K_CAR, side * (build.half + 30), z - lane, turn=-turn, q0=rng.randint(0, 4))


def _crossing(build: _Builder, cross: float) -> None:
    """Lights, signs and waiting people at the corners."""
    rng = build.rng
    half, z = build.half, float(build.start)
    lights = rng.random() < 0.82
    phase = rng.random()
    housing = float(random.Random(build.key ^ 0x116).randint(0, 2))
    arm = 0.6 * build.lanes_m + build.parking + build.bike_m
    for side in (-1, 1):
        _side_street(build, side, cross)
        # Facing the ego direction on the right before the crossing, and beyond it on the left.
        place = z - cross - 4.4 if side > 0 else z + cross + 4.4
        if lights:
            for facing in (1, -1):
                here = place if facing == side else (z + cross + 4.4 if facing == 1 else z - cross - 4.4)
                build.add(
                    P.K_LIGHT, side * (half + 0.75), here, turn=facing * math.pi / 2,
                    length=arm if facing == side and rng.random() < 0.6 else 0.0, q0=phase, q1=housing,
                )  # fmt: skip
        else:
            kind, scheme = rng.choice(((6, 0), (3, 1), (4, 3)))
            build.add(
                P.K_SIGN, side * (half + 0.8), place, turn=side * math.pi / 2, length=1, width=0.50, height=2.5,
                q0=kind, q1=scheme,
            )  # fmt: skip
        build.add(
            P.K_SIGN, side * (half + 1.2), z + cross + 3.4, turn=math.pi / 2, length=1, width=0.55, height=3.0,
            q0=5, q1=rng.choice((2, 4)),
        )  # fmt: skip
        for _ in range(rng.randint(0, 3)):
            _stander(
                build, side * (half + rng.uniform(0.6, 2.4)), z + rng.choice((-1, 1)) * (cross + rng.uniform(1, 4))
            )


def _stander(build: _Builder, x: float, z: float) -> None:
    rng = build.rng
    build.add(P.K_PERSON, x, z, turn=rng.uniform(-3.1, 3.1), height=rng.uniform(1.55, 1.92), q0=rng.uniform(0, 6))


def _kerbside(build: _Builder, side: int, za: float, zb: float, zone: str) -> None:
    """Lamps, trees, signs, parked cycles and bus stops on the sidewalk."""
    rng = build.rng
    half = build.half
    steps = random.Random(build.key ^ 0x1A3)
    gap, height, reach = steps.uniform(22, 34), steps.uniform(6.0, 8.5), steps.choice((0.0, 1.8, 2.4))
    z = za + 3 + (gap / 2 if side > 0 else 0)
    while z < zb - 2:
        turn = -side * math.pi / 2
        build.add(P.K_LAMP, side * (half + 0.6), z, turn=turn, length=reach, height=height, q1=build.key & 1023)
        if rng.random() < 0.3:
            kind, scheme = rng.choice(((0, 0), (1, 2), (4, 2)))
            build.add(
                P.K_SIGN, side * (half + 0.6), z, turn=side * math.pi / 2, width=0.45, height=2.7, q0=kind, q1=scheme
            )
        z += gap
    if zone != "downtown" and rng.random() < 0.65 or rng.random() < 0.35:
        z = za + 7
        spread = rng.uniform(8, 14)
        while z < zb - 6:
            _tree(build, side * (half + (1.2 if build.verge > 0 else 0.9)), z, rng.uniform(0.75, 0.95))
            z += spread
    for _ in range(rng.randint(1, 3)):
        kind, scheme = rng.choice(((0, 0), (0, 0), (2, 0), (1, 2), (4, 2), (3, 1), (4, 3)))
        build.add(
            P.K_SIGN, side * (half + 0.55), rng.uniform(za, zb), turn=side * math.pi / 2, length=1,
            width=rng.uniform(0.42, 0.58), height=rng.uniform(2.2, 2.8), q0=kind, q1=scheme,
        )  # fmt: skip
    for _ in range(rng.choice((0, 1, 1, 2))):
        z = rng.uniform(za, max(za + 1, zb - 8))
        tilt = rng.uniform(0.3, 1.57) * rng.choice((-1, 1))
        for k in range(rng.randint(2, 6)):
            build.add(P.K_BIKE, side * (half + 1.5), z + 0.75 * k, turn=tilt + rng.uniform(-0.1, 0.1), q0=0.0)
    if rng.random() < 0.35:
        z = rng.uniform(za, zb)
        for k in range(rng.randint(1, 3)):
            build.add(P.K_BIKE, side * (half + 1.1), z + 1.2 * k, turn=rng.uniform(0.4, 1.2) * side, q0=2.0)
    if rng.random() < 0.35:
        z = rng.uniform(za + 4, max(za + 5, zb - 4))
        build.add(
            P.K_SIGN, side * (half + 0.9), z, turn=side * math.pi / 2, length=1, width=0.42, height=2.6, q0=4, q1=3
        )
        for _ in range(rng.randint(2, 6)):
            _stander(build, side * (half + rng.uniform(0.9, 2.6)), z + rng.uniform(-2.5, 2.5))
    z = za
    while rng.random() < 0.4 and z < zb:
        build.add(P.K_POLE, side * (half + 0.4), z, width=0.2, height=0.95, q0=rng.uniform(50, 130))
        z += 1.6


def _parked(build: _Builder, side: int, za: float, zb: float, zone: str) -> None:
    """Vehicles in the parking strip."""
    rng = build.rng
    x = side * (build.half - 1.1)
    turn = 0.0 if side > 0 else math.pi
    full = rng.uniform(0.3, 0.9)
    z = za + 6
    while z < zb - 6:
        draw = rng.random()
        step = 6.2
        if draw < full:
            what = rng.random()
            if what < 0.76:
                build.add(P.K_CAR, x, z, turn=turn, q0=rng.choice((0, 1, 1, 2, 3, 4)))
            elif what < (0.93 if zone == "industry" else 0.87) and z + 9 < zb - 6:
                length = rng.uniform(6.5, 9.0)
                build.add(
                    P.K_TRUCK, x, z + 2, turn=turn, length=length, width=2.35, height=rng.uniform(2.9, 3.7),
                    q0=rng.randint(0, 2),
                )  # fmt: skip
                step = length + 2.5
            elif what < 0.95:
                for k in range(rng.randint(1, 3)):
                    build.add(P.K_BIKE, x, z + 1.3 * k, turn=turn + side * rng.uniform(0.5, 1.2), q0=2.0)
        z += step


def build_block(env: NDArray[np.float64], key: int, block: int) -> Block:
    """Make one block of the street.

    Args:
        env: Numbers of the drive from `style.draw_style`.
        key: Key of the drive.
        block: Index of the block; negative indices lie behind the start.
    """
    build = _Builder(env, key, block)
    rng = build.rng
    cross, _ = crossing(key, block)
    following, _ = crossing(key, block + 1)
    za = build.start + (cross + G.SIDE_WALK_M if cross > 0 else 0.0)
    zb = build.end - (following + G.SIDE_WALK_M if following > 0 else 0.0)
    weights = zone_weights(key)
    for side in (-1, 1):
        zone = rng.choices(ZONES, weights)[0]
        if zone == "downtown":
            _row(build, side, za, zb, 1.0)
        elif zone == "mixed":
            _row(build, side, za, zb, 0.0)
        elif zone == "houses":
            _houses(build, side, za, zb)
        elif zone == "park":
            _park(build, side, za, zb)
        else:
            _industry(build, side, za, zb)
        _kerbside(build, side, za + 4, zb - 4, zone)
        if build.parking > 0:
            _parked(build, side, za, zb, zone)
    if cross > 0:
        _crossing(build, cross)
    return Block(np.array(build.items, dtype=np.float64).reshape(-1, P.INSTANCE_COLUMNS), build.lots)
