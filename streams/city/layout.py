"""What stands along the street: blocks of houses, yards, parks, trees, lamps, signs and parked vehicles.

The street is cut into blocks of equal length. A block is drawn from (key of the drive, index of the block) alone, so
that any stretch of an endless street can be made on demand and always comes out the same.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.city import _ground as G
from streams.city import _prims as P
from streams.city._builder import Builder, tree
from streams.city._kerbside import corners, kerbside, parked
from streams.city._math import mix
from streams.city.style import ZONES, zone_weights


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


def _row(build: Builder, side: int, za: float, zb: float, dense: float) -> None:
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
                tree(build, side * (build.front + rng.uniform(3, 7)), rng.uniform(z + 1, z + length - 1))
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


def _houses(build: Builder, side: int, za: float, zb: float) -> None:
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
                tree(build, side * (build.front + offset), spot, 0.7)
            else:
                build.add(
                    P.K_BUSH, side * (build.front + offset), spot, width=rng.uniform(1, 2.4), height=rng.uniform(0.8, 2)
                )
        tree(build, side * (build.front + setback + 13), z + rng.uniform(0, length), 1.2)
        z += length


def _park(build: Builder, side: int, za: float, zb: float) -> None:
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
        tree(build, side * (build.front + rng.uniform(3, 9)), z, 1.1)
        if rng.random() < 0.5:
            build.add(
                P.K_BUSH, side * (build.front + rng.uniform(2, 10)), z + 2, width=rng.uniform(1.2, 3),
                height=rng.uniform(0.8, 2.2),
            )  # fmt: skip
        tree(build, side * (build.front + rng.uniform(14, 20)), z + 1.5, 1.35)
        z += rng.uniform(4.5, 9)


def _industry(build: Builder, side: int, za: float, zb: float) -> None:
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
                tree(build, side * (build.front + rng.uniform(4, 12)), z + k * length / 3)
        z += length


def build_block(env: NDArray[np.float64], key: int, block: int) -> Block:
    """Make one block of the street.

    Args:
        env: Numbers of the drive from `style.draw_style`.
        key: Key of the drive.
        block: Index of the block; negative indices lie behind the start.
    """
    build = Builder(env, key, block)
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
        kerbside(build, side, za + 4, zb - 4, zone)
        if build.parking > 0:
            parked(build, side, za, zb, zone)
    if cross > 0:
        corners(build, cross)
    return Block(np.array(build.items, dtype=np.float64).reshape(-1, P.INSTANCE_COLUMNS), build.lots)
