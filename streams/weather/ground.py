"""The ground in front of the camera as a plane, fitted to measured depth, and heights over it."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streams.frame import Intrinsics
from streams.weather.ground_plane import CAMERA_HEIGHT_M

Plane = tuple[float, float, float, float]
"""Unit normal (x, y, z), pointing down, and the camera's height h in metres: the ground is n . X = h."""

LEVEL_GROUND: Plane = (0.0, 1.0, 0.0, CAMERA_HEIGHT_M)
_FARTHEST_M = 40.0
_INLIER_M = 0.08
_SAMPLES = 3000
_TRIALS = 200
_STEEPEST = 0.9  # least y of the normal: 25 degrees
_HEIGHTS_M = (0.4, 6.0)
_FEWEST_SHARE = 0.2


def fit_ground(depth_m: NDArray[np.float32], camera: Intrinsics) -> Plane:
    """The dominant plane below the camera, by RANSAC with a fixed seed and a least-squares finish.

    Points come from the lower 45 % of the image and from within 40 m. A plane must be within 25 degrees of level, 0.4
    to 6 m below the camera, and explain a fifth of the points to 8 cm; where none does, the ground is taken as level,
    1.5 m below.

    Args:
        depth_m: ``(H, W)`` metres along the optical axis; not finite or at most 0 where unknown.
        camera: Intrinsics in pixels; pixel centres lie at half-integers.
    """
    height, width = depth_m.shape
    top = int(height * 0.55)
    rows, columns = np.indices((height - top, width))
    z = depth_m[top:].ravel().astype(np.float64)
    usable = np.flatnonzero(np.isfinite(z) & (z > 0) & (z < _FARTHEST_M))
    if usable.size < 50:
        return LEVEL_GROUND
    rng = np.random.default_rng(0)
    chosen = rng.choice(usable, min(_SAMPLES, usable.size), replace=False)
    x = (columns.ravel()[chosen] + 0.5 - camera.cx) / camera.fx * z[chosen]
    y = (rows.ravel()[chosen] + top + 0.5 - camera.cy) / camera.fy * z[chosen]
    points = np.stack([x, y, z[chosen]], axis=1)
    triples = points[rng.integers(0, len(points), (_TRIALS, 3))]
    normals = np.cross(triples[:, 1] - triples[:, 0], triples[:, 2] - triples[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    kept = lengths > 1e-6
    normals = normals[kept] / lengths[kept, None]
    normals *= np.where(normals[:, 1:2] < 0, -1.0, 1.0)
    heights = (normals * triples[kept, 0]).sum(axis=1)
    possible = (normals[:, 1] > _STEEPEST) & (heights > _HEIGHTS_M[0]) & (heights < _HEIGHTS_M[1])
    if not possible.any():
        return LEVEL_GROUND
    normals, heights = normals[possible], heights[possible]
    inliers = np.abs(points @ normals.T - heights) < _INLIER_M
    best = int(np.argmax(inliers.sum(axis=0)))
    if inliers[:, best].mean() < _FEWEST_SHARE:
        return LEVEL_GROUND
    return _least_squares(points[inliers[:, best]])


def _least_squares(points: NDArray[np.float64]) -> Plane:
    centre = points.mean(axis=0)
    normal = np.linalg.svd(points - centre, full_matrices=False)[2][-1]
    normal = normal if normal[1] > 0 else -normal
    return float(normal[0]), float(normal[1]), float(normal[2]), float(normal @ centre)


def heights_m(depth_m: NDArray[np.float32], plane: Plane, camera: Intrinsics) -> NDArray[np.float32]:
    """``(H, W)`` float32 metres of every surface over the ground, positive upwards."""
    return _heights(
        np.ascontiguousarray(depth_m), np.array(plane[:3]), plane[3], camera.fx, camera.fy, camera.cx, camera.cy
    )


@njit(cache=True)
def _heights(
    depth_m: NDArray[np.float32], normal: NDArray[np.float64], over_ground_m: float, fx: float, fy: float, cx: float,
    cy: float,
) -> NDArray[np.float32]:  # fmt: skip
    """A surface at depth z along a ray r (z = 1) lies h - z n . r over the ground."""
    out = np.empty_like(depth_m)
    rows, columns = depth_m.shape
    for row in range(rows):
        down = normal[1] * ((row + 0.5 - cy) / fy)
        for column in range(columns):
            along = normal[0] * ((column + 0.5 - cx) / fx) + down + normal[2]
            out[row, column] = over_ground_m - along * depth_m[row, column]
    return out


@njit(cache=True, inline="always")
def stands(depth_m: NDArray[np.float32], over_ground: NDArray[np.float32], row: int, column: int) -> bool:
    """Whether the surface seen in a pixel is nearer to upright than to level: the foot of a pole, of a wall, of a kerb.

    A little higher in the picture level ground is farther away, and what stands is higher up.

    Args:
        depth_m: ``(H, W)`` metres.
        over_ground: ``(H, W)`` metres over the ground.
        row: Of the pixel.
        column: Of the pixel.
    """
    above = max(row - max(1, depth_m.shape[0] // 128), 0)
    risen = over_ground[above, column] - over_ground[row, column]
    return risen > max(depth_m[above, column] - depth_m[row, column], np.float32(0))
