"""A labelled set read once, in order, by several processes: rendering or decoding is the slow part of an arena."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from streams.frame import ClassSet, LabelledImage, LabelledSet

_images: LabelledSet


def _adopt(images: LabelledSet) -> None:
    global _images
    _images = images


def _read(index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    item = _images[index]
    return item.image, item.label


class ReadAhead:
    """The images of a set at ``indices``, as items 0, 1, 2 ... that are asked for once each and in this order.

    Args:
        images: The set; it reaches the processes by fork, so it need not be picklable.
        indices: Which images, in which order.
        processes: How many read at a time.
    """

    def __init__(self, images: LabelledSet, indices: Sequence[int], processes: int) -> None:
        self.classes: ClassSet = images.classes
        self._length = len(indices)
        self._pool = multiprocessing.get_context("fork").Pool(processes, _adopt, (images,))
        self._items = self._pool.imap(_read, indices, chunksize=4)
        self._next = 0

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.terminate()
        self._pool.join()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> LabelledImage:
        if index != self._next:
            raise IndexError(f"item {index} asked for, item {self._next} comes next")
        self._next += 1
        return LabelledImage(*next(self._items))
