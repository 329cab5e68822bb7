"""Visibility: projects the polygons that `_fill` draws into 2 x 2 samples a pixel, and darkens the ground below things.

A polygon's depth and texture coordinates follow from its plane, so a sample stores only which polygon and which part
of it is seen; colour is worked out later, once for each polygon that a pixel shows.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streams.city import _prims as P
from streams.city._math import kernel

NEAR_M = 0.25
GRID = 2  # samples a pixel, along each axis
PARTS = 16

# Camera vector: position, rows of the rotation (right, down, forward), focal length, principal point.
POS = 0
ROT = 3
FOCAL = 12
CX = 13
CY = 14
CAMERA_SIZE = 15

# Columns of a visible polygon: 1/z = A x + B y + C; u = (A x + B y + C) z + D; likewise v. SIDENESS is the cosine
# between a figure's heading and the right of the camera, or -1 for a plate seen from behind.
ZINV = 0
UMAP = 3
VMAP = 7
SIDENESS = 11
SUNLIT = 12
SOURCE = 13
CORNERS = 14
POINTS = 15
NEAREST = 31
TOWARDS = 32  # cosine between heading and the direction to the camera
VISIBLE_COLUMNS = 33


@kernel
def prepare(
    prims: NDArray[np.float64], camera: NDArray[np.float64], sun: NDArray[np.float64], width: int, height: int,
    work: NDArray[np.float64], visible: NDArray[np.float64],
) -> int:  # fmt: skip
    """Project every polygon that can be seen.

    Args:
        prims: ``(N, COLUMNS)`` polygon records.
        camera: ``(CAMERA_SIZE,)``.
        sun: ``(3,)`` direction to the sun.
        width: Image width in pixels.
        height: Image height in pixels.
        work: ``(16, 3)`` scratch space.
        visible: ``(N, VISIBLE_COLUMNS)``, filled from the start.

    Returns:
        How many rows of ``visible`` were written.
    """
    m = 0
    f = camera[FOCAL]
    cx = camera[CX]
    cy = camera[CY]
    r = camera[ROT : ROT + 9]
    vert = work[:8]
    clipped = work[8:]
    for k in range(prims.shape[0]):
        p = prims[k]
        dx = p[0] - camera[0]
        dy = p[1] - camera[1]
        dz = p[2] - camera[2]
        if dx * dx + dz * dz > p[P.MAX_M] * p[P.MAX_M]:
            continue
        ux, uy, uz = p[3], p[4], p[5]
        vx, vy, vz = p[6], p[7], p[8]
        q = 1.0
        towards = 0.0
        if p[P.BILLBOARD] > 0.0:
            flat = math.sqrt(dx * dx + dz * dz) + 1e-9
            ux, uy, uz = dz / flat, 0.0, -dx / flat
            hx = math.sin(p[P.HEADING])
            hz = math.cos(p[P.HEADING])
            q = hx * ux + hz * uz
            towards = -(hx * dx + hz * dz) / flat
        # Into camera axes.
        ax = r[0] * dx + r[1] * dy + r[2] * dz
        ay = r[3] * dx + r[4] * dy + r[5] * dz
        az = r[6] * dx + r[7] * dy + r[8] * dz
        bx = r[0] * ux + r[1] * uy + r[2] * uz
        by = r[3] * ux + r[4] * uy + r[5] * uz
        bz = r[6] * ux + r[7] * uy + r[8] * uz
        ex = r[0] * vx + r[1] * vy + r[2] * vz
        ey = r[3] * vx + r[4] * vy + r[5] * vz
        ez = r[6] * vx + r[7] * vy + r[8] * vz
        nx = by * ez - bz * ey
        ny = bz * ex - bx * ez
        nz = bx * ey - by * ex
        d = nx * ax + ny * ay + nz * az
        if abs(d) < 1e-4 or (d > 0.0 and p[P.ONE_SIDED] > 0.0):
            continue
        behind = 0
        nearest = 1e9
        for c in range(4):
            u = p[P.POLY + 2 * c]
            v = p[P.POLY + 2 * c + 1]
            vert[c, 0] = ax + u * bx + v * ex
            vert[c, 1] = ay + u * by + v * ey
            vert[c, 2] = az + u * bz + v * ez
            nearest = min(nearest, vert[c, 2])
            if vert[c, 2] < NEAR_M:
                behind += 1
        if behind == 4:
            continue
        count = 0
        for c in range(4):
            e = (c + 1) % 4
            if vert[c, 2] >= NEAR_M:
                for j in range(3):
                    clipped[count, j] = vert[c, j]
                count += 1
            if (vert[c, 2] >= NEAR_M) != (vert[e, 2] >= NEAR_M):
                t = (NEAR_M - vert[c, 2]) / (vert[e, 2] - vert[c, 2])
                for j in range(3):
                    clipped[count, j] = vert[c, j] + t * (vert[e, j] - vert[c, j])
                count += 1
        out = visible[m]
        left, right, top, bottom = 1e9, -1e9, 1e9, -1e9
        for c in range(count):
            sx = cx + f * clipped[c, 0] / clipped[c, 2]
            sy = cy + f * clipped[c, 1] / clipped[c, 2]
            out[POINTS + 2 * c] = sx
            out[POINTS + 2 * c + 1] = sy
            left = min(left, sx)
            right = max(right, sx)
            top = min(top, sy)
            bottom = max(bottom, sy)
        if right < 0.0 or left > width or bottom < 0.0 or top > height:
            continue
        out[ZINV] = nx / (f * d)
        out[ZINV + 1] = ny / (f * d)
        out[ZINV + 2] = (nz - (nx * cx + ny * cy) / f) / d
        out[UMAP] = bx / f
        out[UMAP + 1] = by / f
        out[UMAP + 2] = bz - (bx * cx + by * cy) / f
        out[UMAP + 3] = -(ax * bx + ay * by + az * bz)
        out[VMAP] = ex / f
        out[VMAP + 1] = ey / f
        out[VMAP + 2] = ez - (ex * cx + ey * cy) / f
        out[VMAP + 3] = -(ax * ex + ay * ey + az * ez)
        out[SIDENESS] = q if p[P.BILLBOARD] > 0.0 or d < 0.0 else -1.0
        out[TOWARDS] = towards
        # Outward normal in world axes is -(U x V), on the side that the camera sees.
        wx = -(uy * vz - uz * vy)
        wy = -(uz * vx - ux * vz)
        wz = -(ux * vy - uy * vx)
        lit = wx * sun[0] + wy * sun[1] + wz * sun[2]
        out[SUNLIT] = lit if d < 0.0 else -lit
        out[SOURCE] = k
        out[CORNERS] = count
        out[NEAREST] = max(nearest, NEAR_M)
        m += 1
    return m


@kernel
def draw_shadows(
    decals: NDArray[np.float64], camera: NDArray[np.float64], light: NDArray[np.float32], max_m: float
) -> None:
    """Multiply soft rectangles on the ground into ``light`` ``(H, W)``, which starts as 1."""
    height, width = light.shape
    f = camera[FOCAL]
    r = camera[ROT : ROT + 9]
    for k in range(decals.shape[0]):
        d = decals[k]
        dx = d[0] - camera[0]
        dz = d[1] - camera[2]
        if dx * dx + dz * dz > max_m * max_m:
            continue
        left, right, top, bottom = 1e9, -1e9, 1e9, -1e9
        crosses = False
        for c in range(4):
            a = d[4] if c < 2 else -d[4]
            b = d[5] if c == 0 or c == 3 else -d[5]
            x = dx + a * d[2] + b * d[3]
            z = dz + a * d[3] - b * d[2]
            y = -camera[1]
            cz = r[6] * x + r[7] * y + r[8] * z
            if cz < 0.6:
                crosses = True
                continue
            sx = camera[CX] + f * (r[0] * x + r[1] * y + r[2] * z) / cz
            sy = camera[CY] + f * (r[3] * x + r[4] * y + r[5] * z) / cz
            left = min(left, sx)
            right = max(right, sx)
            top = min(top, sy)
            bottom = max(bottom, sy)
        if right < left:
            continue
        if crosses:
            left, right, bottom = 0.0, float(width), float(height)
        for row in range(max(0, int(top)), min(height, int(bottom) + 1)):
            for col in range(max(0, int(left)), min(width, int(right) + 1)):
                qx = (col + 0.5 - camera[CX]) / f
                qy = (row + 0.5 - camera[CY]) / f
                down = r[1] * qx + r[4] * qy + r[7]
                if down > -1e-3:
                    continue
                t = -camera[1] / down
                gx = t * (r[0] * qx + r[3] * qy + r[6]) - dx
                gz = t * (r[2] * qx + r[5] * qy + r[8]) - dz
                a = abs(gx * d[2] + gz * d[3]) / d[4]
                b = abs(gx * d[3] - gz * d[2]) / d[5]
                if a < 1.0 and b < 1.0:
                    edge = min(1.0, (1.0 - a) / d[7]) * min(1.0, (1.0 - b) / d[7])
                    light[row, col] *= np.float32(1.0 - d[6] * edge)
