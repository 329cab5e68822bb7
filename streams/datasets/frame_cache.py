"""Frames of a data set at one size, kept decoded: a street that is visited eleven times is read and shrunk once.

``python -m online_uda.data cache`` fills it; a source of frames that finds a frame here takes it, bit for bit what it
would have made of the files. A file that changed since is read anew. Frames take 3 bytes a pixel, 7 with depth.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streams.datasets.base import Sample
from streams.datasets.cache import cache_folder, load, signature, store
from streams.sources.files import File, file_stamp

_VERSION = 1


@dataclass(frozen=True)
class CachedFrame:
    """A frame as delivered.

    Attributes:
        image: ``(H, W, 3)`` uint8, RGB, resized.
        own: Height and width of the image file.
        depth_m: ``(H, W)`` float32 metres, 0 where unknown; None where the sample has none.
    """

    image: NDArray[np.uint8]
    own: tuple[int, int]
    depth_m: NDArray[np.float32] | None


class FrameCache:
    """The frames of one data set at one size.

    Args:
        root: Folder of the data; where the cache lies follows from it.
        size: Height and width of frames.
    """

    def __init__(self, root: Path, size: tuple[int, int]) -> None:
        self._root = root
        self._prefix = f"frames-{size[0]}x{size[1]}/"

    @property
    def folder(self) -> Path:
        """Where frames of this size are kept."""
        return cache_folder(self._root) / self._prefix

    @property
    def is_there(self) -> bool:
        """Whether anything was ever kept at this size."""
        return self.folder.is_dir()

    def load(self, sample: Sample, *, depth: bool) -> CachedFrame | None:
        """The frame of a sample, with its depth where that is wanted; None where it is not kept, or not whole."""
        stored = load(self._root, self._name(sample), *(("image", "own", "depth") if depth else ("image", "own")))
        if stored is None:
            return None
        height, width = (int(side) for side in stored["own"])
        return CachedFrame(stored["image"], (height, width), stored.get("depth"))

    def store(self, sample: Sample, frame: CachedFrame) -> bool:
        """Keeps a frame; False where the disk does not take it."""
        depth = {} if frame.depth_m is None else {"depth": frame.depth_m}
        return store(self._root, self._name(sample), image=frame.image, own=np.array(frame.own), **depth)

    def _name(self, sample: Sample) -> str:
        files = (sample.image, sample.depth, sample.camera)
        return self._prefix + signature((_VERSION, *(part for file in files for part in (file, _stamp(file)))))


def _stamp(file: File | None) -> object:
    try:
        return None if file is None else file_stamp(file)
    except (OSError, KeyError, zipfile.BadZipFile):
        return None
