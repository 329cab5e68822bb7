"""Filling: which polygon each of the 2 x 2 samples of a pixel sees, row by row of one polygon after the other.

Most samples that a polygon covers lie behind a nearer one or outside a cut-out's shape, and visiting them is most of
the cost: rows without a hole are one loop that compiles to vector instructions, rows of crowns are put through one
before leaves are looked up, and rows of figures shrink to the width that their shape can reach.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streams.city import _prims as P
from streams.city import _raster as R
from streams.city import _shapes as S
from streams.city import _shapes_figures as figures
from streams.city._math import inlined, kernel

ROWS_OF_SCRATCH = 4


@inlined
def _span(w: NDArray[np.float64], count: int, y: float, columns: int) -> tuple[int, int]:
    """First and last column of the samples in a row; the last is below the first where there are none."""
    left, right = 1e9, -1e9
    for c in range(count):
        e = (c + 1) % count
        y0 = w[R.POINTS + 2 * c + 1]
        y1 = w[R.POINTS + 2 * e + 1]
        if (y0 <= y) != (y1 <= y):
            x0 = w[R.POINTS + 2 * c]
            x = x0 + (y - y0) / (y1 - y0) * (w[R.POINTS + 2 * e] - x0)
            left = min(left, x)
            right = max(right, x)
    if right < left:
        return 0, -1
    return max(0, math.ceil(left * R.GRID - 0.5)), min(columns - 1, math.ceil(right * R.GRID - 0.5) - 1)


@inlined
def _within(
    first: int, last: int, reach: float, za: float, zrow: float, ua: float, urow: float, ud: float
) -> tuple[int, int]:
    """Shrink a span to the samples with abs(u) <= ``reach``, and one more on either side for rounding."""
    a = ((reach - ud) * zrow - urow) / (ua - (reach - ud) * za)
    b = ((-reach - ud) * zrow - urow) / (ua - (-reach - ud) * za)
    if not (za * a + zrow > 0.0 and za * b + zrow > 0.0):
        return first, last  # one of the two lies behind the camera
    left = max(min(a, b) * R.GRID - 1.5, float(first))
    right = min(max(a, b) * R.GRID + 0.5, float(last))
    return math.floor(left), math.ceil(right)


@inlined
def _fill_solid(zs: NDArray[np.float32], keys: NDArray[np.int32], key: int, first: int, za: float, zrow: float) -> None:
    """A row of a polygon without holes. Writes every sample: a loop without branches, so that it is vectorised."""
    for i in range(zs.shape[0]):
        near = np.float32(za * ((np.float64(first + i) + 0.5) / R.GRID) + zrow)
        seen = near > zs[i]
        zs[i] = near if seen else zs[i]
        keys[i] = np.int32(key) if seen else keys[i]


@inlined
def _count_seen(zs: NDArray[np.float32], nears: NDArray[np.float64], first: int, za: float, zrow: float) -> int:
    """Write 1/z of a row to ``nears``; returns how many samples are nearer than what is there."""
    seen = 0
    for i in range(zs.shape[0]):
        near = np.float32(za * ((np.float64(first + i) + 0.5) / R.GRID) + zrow)
        nears[i] = near
        seen += 1 if near > zs[i] else 0
    return seen


@inlined
def _fill_crown(
    tile: NDArray[np.float32], p: NDArray[np.float64], zs: NDArray[np.float32], keys: NDArray[np.int32], key: int,
    work: NDArray[np.float64], first: int, ua: float, urow: float, ud: float, va: float, vrow: float, vd: float,
) -> None:  # fmt: skip
    """A row of a broad-leaved crown: `_shapes.crown` with what needs no noise done for the whole row first."""
    nears, us, vs, rs = work[0], work[1], work[2], work[3]
    seed = int(p[P.SEED])
    for i in range(zs.shape[0]):
        x = (np.float64(first + i) + 0.5) / R.GRID
        z = 1.0 / nears[i]
        us[i] = z * (ua * x + urow) + ud
        vs[i] = z * (va * x + vrow) + vd
        rs[i] = S.crown_radius(us[i], vs[i], p[P.PARAM], p[P.PARAM + 1])
    for i in range(zs.shape[0]):
        if nears[i] > zs[i] and S.in_crown(tile, us[i], vs[i], rs[i], seed):
            zs[i] = nears[i]
            keys[i] = key + 1


@kernel
def draw(
    visible: NDArray[np.float64], order: NDArray[np.int64], prims: NDArray[np.float64], tile: NDArray[np.float32],
    zinv: NDArray[np.float32], ids: NDArray[np.int32], work: NDArray[np.float64],
) -> None:  # fmt: skip
    """Fill the sample buffers.

    Args:
        visible: Projected polygons from `_raster.prepare`.
        order: Rows of ``visible``, nearest first.
        prims: Polygon records.
        tile: Noise tile.
        zinv: ``(2H, 2W)`` float32, inverse depth of the nearest surface so far.
        ids: ``(2H, 2W)`` int32, ``row of visible * PARTS + part``, -1 where nothing was drawn.
        work: ``(ROWS_OF_SCRATCH, 2W)`` scratch space.
    """
    rows, columns = zinv.shape
    for k in order:
        w = visible[k]
        p = prims[int(w[R.SOURCE])]
        count = int(w[R.CORNERS])
        material = int(p[P.MATERIAL])
        solid = material < P.FIRST_CUTOUT
        crown = material == P.M_CROWN and p[P.PARAM + 2] != 1.0
        # Where the near plane cuts a figure, the way back from u to a column may lead behind the camera.
        figure = (material == P.M_PERSON or material == P.M_BIKE) and count == 4
        top, bottom = 1e9, -1e9
        for c in range(count):
            y = w[R.POINTS + 2 * c + 1]
            top = min(top, y)
            bottom = max(bottom, y)
        za, zb, zc = w[R.ZINV], w[R.ZINV + 1], w[R.ZINV + 2]
        ua, ub, uc, ud = w[R.UMAP], w[R.UMAP + 1], w[R.UMAP + 2], w[R.UMAP + 3]
        va, vb, vc, vd = w[R.VMAP], w[R.VMAP + 1], w[R.VMAP + 2], w[R.VMAP + 3]
        q = w[R.SIDENESS]
        reach = figures.reach(p, q) if figure else 0.0
        key = k * R.PARTS
        for row in range(max(0, math.ceil(top * R.GRID - 0.5)), min(rows, math.floor(bottom * R.GRID - 0.5) + 1)):
            y = (row + 0.5) / R.GRID
            first, last = _span(w, count, y, columns)
            zrow = zb * y + zc
            if figure:
                first, last = _within(first, last, reach, za, zrow, ua, ub * y + uc, ud)
            if last < first:
                continue
            zs = zinv[row, first : last + 1]
            keys = ids[row, first : last + 1]
            if solid:
                _fill_solid(zs, keys, key, first, za, zrow)
                continue
            if crown:
                if _count_seen(zs, work[0], first, za, zrow) > 0:
                    _fill_crown(tile, p, zs, keys, key, work, first, ua, ub * y + uc, ud, va, vb * y + vc, vd)
                continue
            for i in range(zs.shape[0]):
                x = (first + i + 0.5) / R.GRID
                near = np.float32(za * x + zrow)
                if near <= zs[i]:
                    continue
                z = 1.0 / near
                part = S.part_at(
                    tile, p, z * (ua * x + ub * y + uc) + ud, z * (va * x + vb * y + vc) + vd, q, w[R.TOWARDS]
                )
                if part > 0:
                    zs[i] = near
                    keys[i] = key + part
