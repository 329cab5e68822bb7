"""What stands at the kerb and at crossings: lamps, trees, signs, lights, parked vehicles, waiting people."""

from __future__ import annotations

import math
import random

from streams.city import _ground as G
from streams.city import _prims as P
from streams.city._builder import Builder, stander, tree


def _side_street(build: Builder, side: int, cross: float) -> None:
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


def corners(build: Builder, cross: float) -> None:
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
            stander(build, side * (half + rng.uniform(0.6, 2.4)), z + rng.choice((-1, 1)) * (cross + rng.uniform(1, 4)))


def kerbside(build: Builder, side: int, za: float, zb: float, zone: str) -> None:
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
    if (zone != "downtown" and rng.random() < 0.65) or rng.random() < 0.35:
        z = za + 7
        spread = rng.uniform(8, 14)
        while z < zb - 6:
            tree(build, side * (half + (1.2 if build.verge > 0 else 0.9)), z, rng.uniform(0.75, 0.95))
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
            stander(build, side * (half + rng.uniform(0.9, 2.6)), z + rng.uniform(-2.5, 2.5))
    z = za
    while rng.random() < 0.4 and z < zb:
        build.add(P.K_POLE, side * (half + 0.4), z, width=0.2, height=0.95, q0=rng.uniform(50, 130))
        z += 1.6


def parked(build: Builder, side: int, za: float, zb: float, zone: str) -> None:
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
