"""How long weather takes: every event at one size, on the cores the process is given.

taskset -c 0 python -m streams.weather.timing 1024 512
"""

from __future__ import annotations

import os
import sys
import time

import cv2
import numpy as np

from streams.arguments import OneLineParser
from streams.frame import Scene
from streams.schedule import MAX_SIDE, MIN_SIDE
from streams.weather.ground_plane import DEPTH_CAP_M, default_intrinsics, ground_plane_depth
from streams.weather.parse import parse_weather
from streams.weather.stream import WeatherStream

_CASES: tuple[dict[str, object], ...] = (
    {"rain": 25},
    {"rain": 100},
    {"rain": 200},
    {"fog": 150},
    {"fog": {"visibility": 150, "refine": False}},
    {"fog": {"visibility": 150, "patchiness": 0.4}},
    {"night": 0.7},
    {"snow": 5},
    {"snow": {"rate": 5, "settled": 1}},
    {"smog": 1},
    {"wildfire": 1},
    {"flood": 0.3},
    {"rain": {"rate": 100, "wet": True, "lens": True}},
)


def street_scene(width: int, height: int) -> Scene:
    """A textured street canyon with depth, for timings and for pictures when no town is at hand."""
    depth = ground_plane_depth(height, width).copy()
    sky = depth >= 0.9 * DEPTH_CAP_M
    texture = np.random.default_rng(0).normal(0, 12, (height, width, 1))
    shade = np.where(np.arange(height)[:, None] < height / 2, 105, 75)[..., None] + texture
    image = np.where(sky[..., None], np.array([190, 205, 225]), np.clip(shade, 0, 255)).astype(np.uint8)
    return Scene(image, None, np.where(sky, np.inf, depth).astype(np.float32), default_intrinsics(height, width))


def measure(width: int, height: int, frames: int = 20) -> list[tuple[str, dict[str, float]]]:
    """Milliseconds a frame of every case, the first frame (tables, compilation) left out.

    Returns:
        For every case: ``p50`` and ``p95`` of wall time, and ``cpu``, the median of the process's own time, which other
        work on the machine changes less.
    """
    scene, rows = street_scene(width, height), []
    for case in _CASES:
        segment = WeatherStream(parse_weather(case), 0, scene, ego_speed_mps=8.0)
        wall_ms, cpu_ms = [], []
        for index in range(frames + 1):
            start, start_cpu = time.perf_counter(), time.process_time()
            segment.render(scene, frame_index=index, t_seconds=index / 30)
            wall_ms.append((time.perf_counter() - start) * 1000)
            cpu_ms.append((time.process_time() - start_cpu) * 1000)
        p50, p95 = np.percentile(wall_ms[1:], (50, 95)).tolist()
        name = ", ".join(f"{event}: {options}" for event, options in case.items())
        rows.append((name, {"p50": p50, "p95": p95, "cpu": float(np.median(cpu_ms[1:]))}))
    return rows


def main(arguments: list[str]) -> None:
    """Print the table for ``WIDTH HEIGHT``."""
    cv2.setNumThreads(1)
    flags = OneLineParser(prog="python -m streams.weather.timing", description="Milliseconds a frame of every event.")
    flags.add_argument("width", type=int, nargs="?", default=1024)
    flags.add_argument("height", type=int, nargs="?", default=512)
    sides = flags.parse_args(arguments)
    width, height = sides.width, sides.height
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in (width, height)):
        flags.error(f"{width}x{height}: width and height must be {MIN_SIDE} to {MAX_SIDE}")
    print(f"{width}x{height}, load of the machine {os.getloadavg()[0]:.1f}; milliseconds a frame")
    for case, took in measure(width, height):
        print(f"p50 {took['p50']:6.1f}  p95 {took['p95']:6.1f}  processor {took['cpu']:6.1f}  {case}")


if __name__ == "__main__":
    main(sys.argv[1:])
