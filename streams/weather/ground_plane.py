"""Depth for frames without depth: a level camera over flat ground in a street canyon.

Geometry only, no pixel and no label is read: the estimate is constant in time and cannot leak truth into the image.

* Below the horizon the ground plane: z = f_y h / (v - v_horizon), camera height h = 1.5 m.
* Left and right a facade parallel to the road at 10 m: z = f_x 10 / |u - c_x|, so depth rises towards the vanishing
  point. The nearer of ground and facade is seen.
* Above the facades (8 to 16 m over the ground, softly) the sky at the cap of 255 m.

Without intrinsics the focal length is 1131/1024 of the image width (Cityscapes) and the horizon the middle row.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from streams.frame import Intrinsics

DEPTH_CAP_M = 255.0
CAMERA_HEIGHT_M = 1.5
FOCAL_PER_WIDTH = 1131 / 1024
FACADE_DISTANCE_M = 10.0
ROOF_HEIGHT_M = (8.0, 16.0)


def default_intrinsics(height: int, width: int) -> Intrinsics:
    """The camera assumed for an image of unknown origin: Cityscapes-like field of view, centred, in pixels."""
    focal = FOCAL_PER_WIDTH * width
    return Intrinsics(fx=focal, fy=focal, cx=width / 2, cy=height / 2)


@lru_cache(maxsize=8)
def ground_plane_depth(
    height: int, width: int, intrinsics: Intrinsics | None = None, camera_height_m: float = CAMERA_HEIGHT_M
) -> NDArray[np.float32]:
    """Depth along the optical axis of a street seen by a level camera.

    Args:
        height: Rows of the image.
        width: Columns of the image.
        intrinsics: Camera in pixels; the horizon is its row ``cy``. None takes `default_intrinsics`.
        camera_height_m: Height of the camera over the ground.

    Returns:
        ``(height, width)`` float32 metres in (0, 255], read-only (the array is cached).
    """
    camera = intrinsics or default_intrinsics(height, width)
    # Pixel centres lie at half-integers; half a pixel is also the least distance to horizon and vanishing point.
    below = (np.arange(height) + 0.5 - camera.cy)[:, None]
    aside = np.maximum(np.abs(np.arange(width) + 0.5 - camera.cx), 0.5)[None, :]
    ground = np.where(below > 0, camera.fy * camera_height_m / np.maximum(below, 0.5), np.inf)
    facade = camera.fx * FACADE_DISTANCE_M / aside
    top_m = camera_height_m - below * facade / camera.fy
    roof = np.clip((top_m - ROOF_HEIGHT_M[0]) / (ROOF_HEIGHT_M[1] - ROOF_HEIGHT_M[0]), 0, 1)
    sky = roof * roof * (3 - 2 * roof)
    # Blending inverse depths keeps the near surface near until the sky has taken over.
    inverse = (1 - sky) / np.minimum(np.minimum(ground, facade), DEPTH_CAP_M) + sky / DEPTH_CAP_M
    depth = (1 / inverse).astype(np.float32)
    depth.setflags(write=False)
    return depth
