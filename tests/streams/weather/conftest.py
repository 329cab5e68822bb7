"""Scenes with known depth that the weather tests share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from streams.frame import Intrinsics, Scene


def road_scene(width: int = 512, height: int = 256) -> Scene:
    """Two-tone road under a bright sky with a dark building at 25 m; f scales as in Cityscapes; sky has inf depth."""
    focal = 1131 / 1024 * width
    below = (np.arange(height) + 0.5 - height / 2)[:, None] * np.ones((1, width))
    depth = np.where(below > 0, focal * 1.5 / np.maximum(below, 0.5), np.inf).astype(np.float32)
    label = np.where(below > 0, 0, 10).astype(np.uint8)
    stripes = np.where((np.arange(width) // (width // 16)) % 2, 55, 95)[None, :]
    image = np.where((below > 0)[..., None], np.stack([stripes] * 3, -1), np.array([190, 205, 225])).astype(np.uint8)
    wall = np.s_[height // 4 : height // 2 + height // 16, : width // 3]
    image[wall], depth[wall], label[wall] = (120, 90, 80), 25, 2
    return Scene(image, label, depth, Intrinsics(focal, focal, width / 2, height / 2))


@pytest.fixture(scope="session")
def road() -> Scene:
    return road_scene()


@pytest.fixture(scope="session")
def make_road() -> Callable[[int, int], Scene]:
    return road_scene
