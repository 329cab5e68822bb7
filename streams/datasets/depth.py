"""Depth files of the data sets as metres along the optical axis; 0 where there is no measurement."""

from __future__ import annotations

from functools import lru_cache

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


@lru_cache(maxsize=8)
def depth_of_disparity(baseline_m: float, focal_px: float) -> NDArray[np.float32]:
    """Metres for every value of a 16-bit disparity file: ``d = (p - 1) / 256`` for p > 0, ``z = baseline * focal / d``.

    Args:
        baseline_m: Distance of the two cameras.
        focal_px: Focal length in pixels of the disparity map.

    Returns:
        ``(65536,)``; 0 for 0, which is no measurement, and for 1, a disparity of 0: no finite depth. Read-only.
    """
    disparity = (np.arange(65536) - 1) / 256
    depth = np.zeros(65536)
    depth[2:] = baseline_m * focal_px / disparity[2:]
    table = depth.astype(np.float32)
    table.setflags(write=False)
    return table


def disparity_to_depth(file: File, baseline_m: float, focal_px: float) -> NDArray[np.float32]:
    """A disparity file of Cityscapes in metres, 0 where unknown; see `depth_of_disparity`.

    Raises:
        StreamError: The file cannot be read, or is not one channel of 8 or 16 bits.
    """
    values = read_ids(file)
    if values.ndim != 2 or values.dtype not in (np.uint8, np.uint16, np.int32) or values.min() < 0:
        raise StreamError(f"{file}: expected disparity in one channel of 16 bits, got {values.shape} {values.dtype}")
    return depth_of_disparity(baseline_m, focal_px)[np.minimum(values, 65535)]


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
