"""Where the camera is: the motion of the ego car along the street and the pinhole camera on it."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.city import _env as E
from streams.frame import Intrinsics

FOCAL_PER_WIDTH = 1131.0 / 1024.0  # Cityscapes: 2262 px at 2048 wide


@dataclass(frozen=True)
class EgoMotion:
    """Motion of the ego car along the street, in closed form: a mean speed with a slow surge on top.

    Attributes:
        start_m: Position along the street at time 0.
        speed: Mean speed, m/s.
        surge_m: Amplitude of the surge.
        surge_hz: Its angular frequency, rad/s; ``surge_m * surge_hz < speed``, so that the car never rolls back.
        lane: Lane from the middle of the street, 0 innermost.
    """

    start_m: float
    speed: float
    surge_m: float
    surge_hz: float
    lane: int

    def position(self, time_s: float) -> float:
        """Metres along the street at a time."""
        return self.start_m + self.speed * time_s + self.surge_m * math.sin(self.surge_hz * time_s)


@dataclass(frozen=True)
class Pose:
    """Camera pose in the world (x right, y up, z along the street, metres).

    A world point ``X`` has camera coordinates ``rotation @ (X - position)``: x right, y down, z forward.

    Attributes:
        position: ``(3,)`` float64.
        rotation: ``(3, 3)`` float64, rows are the camera's right, down and forward axes.
    """

    position: NDArray[np.float64]
    rotation: NDArray[np.float64]


def draw_motion(env: NDArray[np.float64], key: int) -> EgoMotion:
    """Draw how the ego car of a drive moves."""
    rng = random.Random(key ^ 0xE60)
    speed = rng.uniform(5.0, 11.0)
    surge_hz = rng.uniform(0.15, 0.4)
    lanes = int(env[E.LANES])
    # With rails the inner lane belongs to the trams, unless it is the only one.
    lane = lanes - 1 if env[E.TRAM] > 0 else rng.randrange(lanes)
    return EgoMotion(rng.uniform(0, 5000), speed, 0.5 * rng.random() * speed / surge_hz * 0.5, surge_hz, lane)


def camera_pose(env: NDArray[np.float64], key: int, ego: EgoMotion, time_s: float) -> Pose:
    """Pose at a time: in the lane with a slow sway, along the street with small nods and rolls."""
    rng = random.Random(key ^ 0xCA3)
    height = rng.uniform(1.25, 1.5)
    pitch = rng.uniform(0.022, 0.045)
    sway_m, sway_hz = rng.uniform(0.1, 0.35), rng.uniform(0.2, 0.5)
    phases = [rng.uniform(0, 2 * math.pi) for _ in range(5)]
    z = ego.position(time_s)
    omega = env[E.BEND + 1], env[E.BEND + 4]
    middle = env[E.BEND] * math.sin(omega[0] * z + env[E.BEND + 2]) + env[E.BEND + 3] * math.sin(
        omega[1] * z + env[E.BEND + 5]
    )
    slope = env[E.BEND] * omega[0] * math.cos(omega[0] * z + env[E.BEND + 2]) + env[E.BEND + 3] * omega[1] * math.cos(
        omega[1] * z + env[E.BEND + 5]
    )
    lane_x = (ego.lane + 0.5) * env[E.LANE_M]
    x = lane_x + middle + sway_m * math.sin(sway_hz * time_s + phases[0])
    y = height + 0.008 * math.sin(7.1 * time_s + phases[1])
    yaw = math.atan(slope) + 0.018 * math.sin(0.45 * time_s + phases[2])
    pitch += 0.0025 * math.sin(6.3 * time_s + phases[3])
    roll = 0.006 * math.sin(0.9 * time_s + phases[4])
    forward = np.array([math.sin(yaw) * math.cos(pitch), -math.sin(pitch), math.cos(yaw) * math.cos(pitch)])
    level = np.array([math.cos(yaw), 0.0, -math.sin(yaw)])
    # In these left-handed world axes down = forward x right taken with the opposite sign of the usual cross product.
    down = -np.cross(forward, level)
    right = math.cos(roll) * level + math.sin(roll) * down
    down = math.cos(roll) * down - math.sin(roll) * level
    return Pose(np.array([float(x), y, z]), np.stack([right, down, forward]))


def intrinsics(size: tuple[int, int]) -> Intrinsics:
    """Camera of an image of ``(H, W)``: Cityscapes' field of view; a pixel's centre has integer coordinates."""
    height, width = size
    focal = FOCAL_PER_WIDTH * width
    return Intrinsics(focal, focal, 0.5 * width - 0.5, 0.5 * height - 0.5)
