"""Depth files of the data sets as metres along the optical axis; 0 where there is no measurement."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streams.datasets.base import Sample
from streams.errors import StreamError
from streams.sources.files import File
from streams.sources.images import read_ids


def depth_file(sample: Sample) -> File:
    """The depth file of a sample that has one."""
    assert sample.depth is not None
    return sample.depth


def read_plane(file: File) -> NDArray[np.float64]:
    """One channel of numbers: a PNG of 8 or 16 bits, or the first channel of one that has several.

    Raises:
        StreamError: The file cannot be read.
    """
    values = read_ids(file)
    return (values[..., 0] if values.ndim == 3 else values).astype(np.float64)


def disparity_to_depth(values: NDArray[np.float64], baseline_m: float, focal_px: float) -> NDArray[np.float32]:
    """Cityscapes' disparity files in metres: ``d = (p - 1) / 256`` for p > 0, ``z = baseline * focal / d``.

    Args:
        values: ``(h, w)`` of the file; 0 is no measurement, and 1 a disparity of 0: no finite depth, given as 0 too.
        baseline_m: Distance of the two cameras.
        focal_px: Focal length in pixels of the disparity map.
    """
    disparity = (values - 1.0) / 256.0
    with np.errstate(divide="ignore"):
        depth = np.where(disparity > 0, baseline_m * focal_px / np.maximum(disparity, 1e-9), 0.0)
    return depth.astype(np.float32)


def packed_to_depth(file: File, far_m: float) -> NDArray[np.float32]:
    """CARLA's 24 bits over three channels: ``far (R + 256 G + 65536 B) / (256^3)``; the far end is no surface (0).

    Raises:
        StreamError: The file has fewer than three channels.
    """
    values = read_ids(file)
    if values.ndim != 3 or values.shape[2] < 3:
        raise StreamError(f"{file}: expected depth packed into 3 channels; is this the 8-bit variant? Take depth.zip")
    packed = values[..., :3].astype(np.float64) @ np.array([1.0, 256.0, 65536.0])
    depth = packed * (far_m / 256.0**3)
    return np.where(packed >= 256**3 - 1, 0.0, depth).astype(np.float32)
