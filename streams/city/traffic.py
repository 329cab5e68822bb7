"""What moves: vehicles in lanes, cyclists at the edge, people on the sidewalks, as a pure function of time.

Every lane is an endless conveyor: slot k sits at ``k * spacing + speed * t`` with an identity drawn from (lane, k).
Positions at any moment follow without simulating the moments before it. The ego car is slot 0 of its own conveyor.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.city import _env as E
from streams.city import _prims as P
from streams.city._math import mix
from streams.city.camera import EgoMotion
from streams.city.layout import crossing

Instance = tuple[float, ...]

VEHICLE, CYCLE, WALKER, TRAM = range(4)


@dataclass(frozen=True)
class Lane:
    """One conveyor: what runs on it, where across the street, how fast (m/s) and how far apart (m)."""

    what: int
    x: float
    speed: float
    spacing: float
    phase_m: float
    fill: float
    seed: int
    ego: bool = False


def plan_lanes(env: NDArray[np.float64], key: int, ego: EgoMotion) -> list[Lane]:
    """Draw the conveyors of a drive."""
    rng = random.Random(key ^ 0x7AFF1C)
    lane_m = float(env[E.LANE_M])
    count = int(env[E.LANES])
    half = float(env[E.HALF_M])
    walk = float(env[E.SIDEWALK_M])
    verge = float(env[E.VERGE_M])
    lanes: list[Lane] = []
    for side in (-1, 1):
        for k in range(count):
            x = side * (k + 0.5) * lane_m
            is_ego = side > 0 and k == ego.lane
            speed = ego.speed if side > 0 and is_ego else side * ego.speed * rng.uniform(0.75, 1.2)
            spacing = 2 * ego.surge_m + rng.uniform(16, 34)
            lanes.append(
                Lane(
                    VEHICLE, x, speed, spacing, rng.uniform(0, 100), rng.uniform(0.45, 0.9), rng.getrandbits(30), is_ego
                )
            )
        edge = count * lane_m + (0.5 * env[E.BIKE_M] if env[E.BIKE_M] > 0 else -0.45)
        if env[E.BIKE_M] > 0 or rng.random() < 0.7:
            lanes.append(
                Lane(
                    CYCLE,
                    side * edge,
                    side * rng.uniform(3.5, 5.5),
                    rng.uniform(14, 30),
                    rng.uniform(0, 99),
                    0.8,
                    rng.getrandbits(30),
                )
            )
        for direction in (-1, 1):
            inner = half + 0.8 + (verge if verge > 0 else 0.9)
            x = side * rng.uniform(min(inner, half + walk - 0.6), half + walk - 0.5)
            lanes.append(
                Lane(
                    WALKER,
                    x,
                    direction * rng.uniform(1.0, 1.6),
                    rng.uniform(6, 20),
                    rng.uniform(0, 99),
                    0.75,
                    rng.getrandbits(30),
                )
            )
    if env[E.TRAM] > 0:
        lanes.append(
            Lane(
                TRAM,
                -0.5 * lane_m,
                -0.8 * ego.speed,
                rng.uniform(75, 130),
                rng.uniform(0, 99),
                0.9,
                rng.getrandbits(30),
            )
        )
        if count == 2:
            lanes.append(
                Lane(
                    TRAM,
                    0.5 * lane_m,
                    0.9 * ego.speed,
                    rng.uniform(80, 140),
                    rng.uniform(0, 99),
                    0.9,
                    rng.getrandbits(30),
                )
            )
    return lanes


def _vehicle(rng: random.Random, x: float, z: float, turn: float, time_s: float, seed: int) -> Instance:
    what = rng.random()
    if what < 0.58:
        return (P.K_CAR, x, 0.0, z, turn, 0.0, 0.0, 0.0, seed, rng.choice((0, 0, 1, 1, 2, 3, 4)), 0.0, 0.0)
    if what < 0.71:
        size = (rng.uniform(7.0, 10.0), 2.5, rng.uniform(3.1, 3.8))
        return (P.K_TRUCK, x, 0.0, z, turn, *size, seed, rng.randint(0, 2), 0.0, 0.0)
    if what < 0.87:
        return (P.K_BUS, x, 0.0, z, turn, 11.8, 2.55, rng.uniform(2.95, 3.2), seed, 0.0, 0.0, 0.0)
    return (P.K_BIKE, x, 0.0, z, turn, 0.0, 0.0, 0.0, seed, 3.0, 0.0, 0.0)


def movers(
    lanes: list[Lane], env: NDArray[np.float64], key: int, ego: EgoMotion, time_s: float, ahead_m: float,
    behind_m: float,
) -> NDArray[np.float64]:  # fmt: skip
    """Everything that moves near the ego car.

    Args:
        lanes: Conveyors from `plan_lanes`.
        env: Numbers of the drive.
        key: Key of the drive.
        ego: Motion of the ego car.
        time_s: Seconds since the start of the drive.
        ahead_m: How far ahead to look.
        behind_m: How far behind.

    Returns:
        ``(N, INSTANCE_COLUMNS)`` instances.
    """
    here = ego.position(time_s)
    tram_half = 16.0
    wave = [float(v) for v in env[E.BEND : E.BEND + 6]]
    items: list[Instance] = []
    trams = [lane for lane in lanes if lane.what == TRAM]
    blocked = {lane.x: _slots(lane, ego, time_s, here - 60, here + ahead_m + 60) for lane in trams}
    for lane in lanes:
        reach = ahead_m if lane.what in (VEHICLE, TRAM) else 80.0
        for k, z, identity in _slots(lane, ego, time_s, here - behind_m, here + reach):
            if lane.what == VEHICLE and lane.x in blocked:
                continue  # lanes with rails belong to the trams
            a, b, c, d, e, f = wave
            x = lane.x + a * math.sin(b * z + c) + d * math.sin(e * z + f)
            turn = math.atan(a * b * math.cos(b * z + c) + d * e * math.cos(e * z + f))
            if lane.speed < 0:
                turn += math.pi
            rng = random.Random(identity)
            if lane.what == VEHICLE:
                items.append(_vehicle(rng, x, z, turn, time_s, identity))
            elif lane.what == TRAM:
                items.append((P.K_TRAM, x, 0.0, z, turn, 2 * tram_half - 4, 2.4, 3.4, identity, 0.0, 0.0, 0.0))
            elif lane.what == CYCLE:
                kind = 1.0 if rng.random() < 0.85 else 3.0
                pedal = 5.5 * time_s + rng.uniform(0, 6)
                items.append((P.K_BIKE, x, 0.0, z, turn, 0.0, 0.0, 0.0, identity, kind, pedal, 0.0))
            else:
                step = abs(lane.speed) * time_s * 4.2 + k
                height = rng.uniform(1.5, 1.95) if rng.random() < 0.9 else rng.uniform(1.0, 1.4)
                aside = rng.uniform(-0.25, 0.25)
                items.append((P.K_PERSON, x + aside, 0.0, z, turn, 0.0, 0.0, height, identity, step, 1.0, 0.0))
                if rng.random() < 0.3:
                    second = mix(identity, 7)
                    items.append(
                        (P.K_PERSON, x + aside + 0.65, 0.0, z + 0.2, turn, 0.0, 0.0, 1.7, second, step + 0.4, 1.0, 0.0)
                    )
    items += _crossers(env, key, ego, time_s, here)
    return np.array(items, dtype=np.float64).reshape(-1, P.INSTANCE_COLUMNS)


def _arrival(ego: EgoMotion, z: float) -> float:
    """When the ego car reaches a position, by Newton's method on its monotonic motion."""
    time_s = (z - ego.start_m) / ego.speed
    for _ in range(6):
        rate = ego.speed + ego.surge_m * ego.surge_hz * math.cos(ego.surge_hz * time_s)
        time_s -= (ego.position(time_s) - z) / rate
    return time_s


def _crossers(env: NDArray[np.float64], key: int, ego: EgoMotion, time_s: float, here: float) -> list[Instance]:
    """People on the zebra stripes ahead; they are off the ego lane some seconds before the car gets there."""
    block_m = float(env[E.BLOCK_M])
    edge = float(env[E.HALF_M]) + 0.8
    items: list[Instance] = []
    for block in range(math.ceil(here / block_m), math.ceil((here + 90.0) / block_m)):
        cross, zebra = crossing(key, block)
        if cross <= 0.0 or zebra <= 0.0:
            continue
        rng = random.Random(mix(key, block * 31 + 17))
        for _ in range(rng.choice((0, 1, 2, 3, 4))):
            far = rng.random() < 0.4  # on the stripes beyond the crossing
            z = block * block_m + (1 if far else -1) * (cross + rng.uniform(1.2, 3.6))
            pace, way = rng.uniform(1.1, 1.6), rng.choice((-1, 1))
            ego_x = (ego.lane + 0.5) * float(env[E.LANE_M])
            clear = _arrival(ego, z) - rng.uniform(2.0, 6.0)
            x = ego_x + way * (2.0 + pace * (time_s - clear))
            walking = 1.0 if abs(x) < edge else 0.0
            x = min(max(x, -edge), edge) + rng.uniform(-0.3, 0.3) * (1.0 - walking)
            turn = way * math.pi / 2
            height, step, seed = rng.uniform(1.5, 1.95), rng.uniform(0, 6), rng.getrandbits(30)
            items.append(
                (
                    P.K_PERSON,
                    x + E.bend(env, z),
                    0.0,
                    z,
                    turn,
                    0.0,
                    0.0,
                    height,
                    seed,
                    step + 5.5 * time_s,
                    walking,
                    0.0,
                )
            )
    return items


def _slots(lane: Lane, ego: EgoMotion, time_s: float, low: float, high: float) -> list[tuple[int, float, int]]:
    """Taken slots of a conveyor between two positions: index, position, identity."""
    base = (ego.start_m if lane.ego else lane.phase_m) + lane.speed * time_s
    first = math.ceil((low - base) / lane.spacing)
    last = math.floor((high - base) / lane.spacing)
    found = []
    for k in range(first, last + 1):
        if lane.ego and k == 0:
            continue
        identity = mix(lane.seed, k)
        if (identity & 1023) / 1024.0 < lane.fill:
            jitter = 0.0 if lane.ego else ((identity >> 10 & 1023) / 1023.0 - 0.5) * 0.2 * lane.spacing
            found.append((k, base + k * lane.spacing + jitter, identity))
    return found
