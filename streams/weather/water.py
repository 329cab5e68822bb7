"""Light that level water sends to the camera: Schlick's Fresnel term and a march through the frame's depth.

Shared by flood (a plane over the ground) and the wet road of rain (the ground itself).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streams.weather.ground import stands

F0 = 0.02
_STEPS = 32
_FIRST_M, _GROWTH = 0.3, 1.25


@njit(cache=True, inline="always")
def fresnel(cosine: float) -> float:
    """Share of light that water reflects when seen under an angle with this cosine to its normal (Schlick)."""
    return F0 + (1 - F0) * (1 - min(max(cosine, 0.0), 1.0)) ** 5


@njit(cache=True)
def reflected_pixel(
    depth_m: NDArray[np.float32], x: float, y: float, z: float, nx: float, ny: float, nz: float, fx: float, fy: float,
    cx: float, cy: float,
) -> int:  # fmt: skip
    """Which pixel is mirrored at the point (x, y, z) by a surface with the downward normal n: its flat index, or -1.

    The mirrored ray is followed for 32 steps that grow by a quarter each; the first pixel whose surface is nearer than
    the ray's point is what is seen. Beside and above the frame its edge goes on; a ray that comes back to the camera
    sees nothing of the frame (-1).
    """
    rows, columns = depth_m.shape
    length = math.sqrt(x * x + y * y + z * z)
    dx, dy, dz = x / length, y / length, z / length
    along = dx * nx + dy * ny + dz * nz
    dx, dy, dz = dx - 2 * along * nx, dy - 2 * along * ny, dz - 2 * along * nz
    travelled, last = _FIRST_M, -1
    for _ in range(_STEPS):
        px, py, pz = x + dx * travelled, y + dy * travelled, z + dz * travelled
        if pz < 0.2:
            return -1
        column, row = math.floor(px / pz * fx + cx), math.floor(py / pz * fy + cy)
        column, row = min(max(column, 0), columns - 1), min(max(row, 0), rows - 1)
        last = row * columns + column
        if depth_m[row, column] <= pz:
            return last
        travelled *= _GROWTH
    return last


@njit(cache=True)
def wet_ground(
    linear: NDArray[np.float32], mirrored: NDArray[np.float32], depth_m: NDArray[np.float32],
    over_ground: NDArray[np.float32], normal: NDArray[np.float64], strength: float, fx: float, fy: float, cx: float,
    cy: float, airlight: NDArray[np.float32],
) -> NDArray[np.float32]:  # fmt: skip
    """Linear light with the ground darker and glossy: albedo times 1 - 0.4 strength, plus what it mirrors.

    Args:
        linear: ``(H, W, 3)`` linear light.
        mirrored: ``(H, W, 3)`` linear light as the rough ground mirrors it: blurred, most of all up and down.
        depth_m: ``(H, W)`` metres.
        over_ground: ``(H, W)`` metres over the ground; what lies within 12 cm of it, and does not stand, is wet.
        normal: ``(3,)`` downward normal of the ground.
        strength: 0 is dry, 1 soaked.
        fx, fy, cx, cy: Camera in pixels.
        airlight: ``(3,)`` linear light where the mirrored ray sees nothing of the frame.
    """
    out = linear.copy()
    rows, columns = depth_m.shape
    flat = mirrored.reshape(-1, 3)
    for row in range(rows):
        for column in range(columns):
            z = depth_m[row, column]
            if abs(over_ground[row, column]) > 0.12 or z > 150 or stands(depth_m, over_ground, row, column):
                continue
            x, y = (column + 0.5 - cx) / fx * z, (row + 0.5 - cy) / fy * z
            cosine = (x * normal[0] + y * normal[1] + z * normal[2]) / math.sqrt(x * x + y * y + z * z)
            if cosine <= 0:
                continue
            share = strength * fresnel(cosine)
            seen = reflected_pixel(depth_m, x, y, z, normal[0], normal[1], normal[2], fx, fy, cx, cy)
            for c in range(3):
                light = airlight[c] if seen < 0 else flat[seen, c]
                out[row, column, c] = linear[row, column, c] * (1 - 0.4 * strength) + share * light
    return out
