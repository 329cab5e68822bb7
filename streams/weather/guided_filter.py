"""Guided filter with an RGB guide (He, Sun and Tang, "Guided image filtering", ECCV 2010), at reduced resolution.

The linear model is fitted on a smaller image and its coefficients are enlarged (He and Sun, "Fast guided filter",
arXiv:1505.00996), which costs a tenth and changes smooth maps such as transmission very little.
"""

from __future__ import annotations

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray


def guided_filter(
    guide: NDArray[np.float32], plane: NDArray[np.float32], radius_px: int, epsilon: float, step: int = 1
) -> NDArray[np.float32]:
    """Smooth ``plane`` so that its edges follow those of ``guide``.

    Args:
        guide: ``(H, W, 3)`` float32 in [0, 1].
        plane: ``(H, W)`` float32.
        radius_px: Window radius in pixels of the full image.
        epsilon: Variance of the guide below which a window counts as flat.
        step: Reduction factor of the fit; 1 is the exact filter.

    Returns:
        ``(H, W)`` float32.
    """
    height, width = plane.shape
    small = (max(1, width // step), max(1, height // step))
    radius = max(1, round(radius_px / step))
    reduced = cv2.resize(guide, small, interpolation=cv2.INTER_AREA) if step > 1 else guide
    target = cv2.resize(plane, small, interpolation=cv2.INTER_AREA) if step > 1 else plane
    r, g, b = (np.ascontiguousarray(reduced[..., c], np.float64) for c in range(3))
    p = target.astype(np.float64)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        size = (2 * radius + 1, 2 * radius + 1)
        return np.asarray(cv2.boxFilter(values, -1, size, borderType=cv2.BORDER_REFLECT), np.float64)

    mr, mg, mb, mp = mean(r), mean(g), mean(b), mean(p)
    rr, gg, bb = mean(r * r) - mr * mr + epsilon, mean(g * g) - mg * mg + epsilon, mean(b * b) - mb * mb + epsilon
    rg, rb, gb = mean(r * g) - mr * mg, mean(r * b) - mr * mb, mean(g * b) - mg * mb
    pr, pg, pb = mean(r * p) - mr * mp, mean(g * p) - mg * mp, mean(b * p) - mb * mp
    # Cofactors of the symmetric 3x3 covariance.
    c00, c01, c02 = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
    c11, c12, c22 = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
    determinant = rr * c00 + rg * c01 + rb * c02
    ar = (c00 * pr + c01 * pg + c02 * pb) / determinant
    ag = (c01 * pr + c11 * pg + c12 * pb) / determinant
    ab = (c02 * pr + c12 * pg + c22 * pb) / determinant
    offset = mp - ar * mr - ag * mg - ab * mb
    fit = np.stack([mean(ar), mean(ag), mean(ab), mean(offset)], axis=-1).astype(np.float32)
    if step > 1:
        fit = np.asarray(cv2.resize(fit, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    return _applied(fit, np.ascontiguousarray(guide))


@njit(cache=True)
def _applied(fit: NDArray[np.float32], guide: NDArray[np.float32]) -> NDArray[np.float32]:
    """The linear model of every pixel, ``(H, W, 4)``, at its colour."""
    rows, columns = fit.shape[:2]
    out = np.empty((rows, columns), np.float32)
    for row in range(rows):
        for column in range(columns):
            total = fit[row, column, 0] * guide[row, column, 0] + fit[row, column, 1] * guide[row, column, 1]
            out[row, column] = total + fit[row, column, 2] * guide[row, column, 2] + fit[row, column, 3]
    return out
