"""Labelled images of the town by index, for training, replay and validation."""

from __future__ import annotations

from streams.city._math import key_of
from streams.city.drive import Drive
from streams.classes import CITYSCAPES_19
from streams.errors import StreamError
from streams.frame import ClassSet, LabelledImage

MOMENTS = 600  # frames of a drive that a random moment is taken from


class TownImages:
    """Item ``i`` is a random moment of a random drive of the split; equal (split, seed, i, size) give equal items.

    Implements `streams.frame.LabelledSet`.

    Args:
        split: "train", "val" or "stream".
        seed: Which set of images.
        length: How many images.
        size: Image height and width in pixels.

    Raises:
        StreamError: For a bad split or size, or a length below 1.
    """

    def __init__(self, split: str, seed: int = 0, length: int = 2000, size: tuple[int, int] = (256, 512)) -> None:
        if length < 1:
            raise StreamError(f"town: length {length} is below 1; give the number of images")
        Drive(split, 0, size)
        self._split, self._seed, self._length, self._size = split, seed, length, size

    @property
    def classes(self) -> ClassSet:
        return CITYSCAPES_19

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> LabelledImage:
        if index < 0:
            index += self._length
        if not 0 <= index < self._length:
            raise IndexError(index)
        draw = key_of("image", self._seed, index)
        scene = Drive(self._split, draw >> 12, self._size).render(draw % MOMENTS)
        assert scene.label is not None
        return LabelledImage(scene.image, scene.label)
