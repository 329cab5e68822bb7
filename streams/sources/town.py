"""The built-in town as a source of streams: an endless drive through streets that no other split shares."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streams.frame import Scene

TOWN_SIZE = (256, 512)
_SEED_RANGE = 2**31
_SPEED_OVER_S = 60.0


class TownSource:
    """A drive through the town; frame `index` is rendered alone, in any order.

    Args:
        seed: Chooses streets and traffic.
        size: Height and width of frames.
        fps: Frames per second of the camera, which sets how far the car gets between frames.
        split: Streets of which split; no two share any.

    Attributes:
        speed_mps: Mean forward speed of the drive's first minute; weather takes it as constant.
    """

    def __init__(self, seed: int, size: tuple[int, int], fps: float, split: str = "stream") -> None:
        from streams.city import Drive  # compiled code: only where there is a town

        self.size = size
        self._drive = Drive(split, seed, size, fps)
        last = max(1, round(_SPEED_OVER_S * fps))
        way_m = self._drive.pose(last).position[2] - self._drive.pose(0).position[2]
        self.speed_mps = float(way_m) * fps / last

    def read(self, index: int) -> tuple[Scene, NDArray[np.uint8] | None]:
        """Frame `index` with depth and camera, and its label apart from it."""
        scene = self._drive.render(index)
        bare = Scene(image=scene.image, depth_m=scene.depth_m, intrinsics=scene.intrinsics)
        return bare, scene.label


def route_seed(run_seed: int, town_seed: int | None, visit: int | None) -> int:
    """Seed of the streets: the schedule's own or the run's, mixed with the visit where routes differ.

    Args:
        run_seed: Seed of the run.
        town_seed: Seed that the schedule fixes, or None.
        visit: Index of the visit for a route of its own; None for the shared route.
    """
    seed = run_seed if town_seed is None else town_seed
    if visit is None:
        return seed % _SEED_RANGE
    return int(np.random.SeedSequence((seed, visit)).generate_state(1)[0]) % _SEED_RANGE
