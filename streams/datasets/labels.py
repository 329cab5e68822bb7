"""How the label files of a data set hold classes: ids in one channel, in the first of several, or as colours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.errors import StreamError
from streams.frame import ClassSet
from streams.label_map import label_table
from streams.sources.files import File, read_bytes
from streams.sources.images import convert_ids, read_ids

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class LabelFormat:
    """How label files are read into the ids of the class set that is wanted.

    Attributes:
        classes: What ids in files mean; None: they are of the class set that is wanted.
        colours: RGB colour and file id, for files that show colours in place of ids.
        first_channel: Ids stand in the first (red) of several channels.
        deep: 16 bits a channel.
        scale: File values are ids times this (masks of 0 and 255: 255).
    """

    classes: ClassSet | None
    colours: tuple[tuple[Colour, int], ...] = ()
    first_channel: bool = False
    deep: bool = False
    scale: int = 1

    def read(self, file: File, target: ClassSet) -> NDArray[np.uint8]:
        """Ids of `target`, 255 = ignore.

        Returns:
            ``(h, w)`` uint8.

        Raises:
            StreamError: The file cannot be read, or holds an id or a colour that it may not; names the file.
        """
        native = target if self.classes is None else self.classes
        return convert_ids(file, self.read_ids(file), native, _table(native, target))

    def read_ids(self, file: File) -> NDArray[Any]:
        """The file's own ids ``(h, w)``.

        Raises:
            StreamError: The file cannot be read, has channels that mean nothing here, or a colour of no class.
        """
        values = read_deep(file) if self.deep else read_ids(file)
        if values.ndim == 3:
            if self.colours:
                values = _ids_of_colours(file, values, self.colours)
            elif self.first_channel:
                values = values[..., 0]
            else:
                raise StreamError(
                    f"{file}: the label has {values.shape[2]} channels; expected one channel of class ids"
                )
        if self.scale != 1 and values.dtype != np.bool_:
            if (values % self.scale).any():
                wrong = int(values[values % self.scale != 0].flat[0])
                raise StreamError(f"{file}: the mask holds {wrong}; expected 0 and {self.scale}")
            values = values // self.scale
        return values


@lru_cache(maxsize=64)
def _table(native: ClassSet, target: ClassSet) -> NDArray[np.uint8]:
    return label_table(native, target)


def read_deep(file: File) -> NDArray[Any]:
    """A PNG of 16 bits a channel, ``(h, w)`` or ``(h, w, channels)`` in RGB order; pillow would cut it to 8 bits.

    Raises:
        StreamError: It is not a whole PNG.
    """
    import cv2  # heavy, and needed for these files only

    values = cv2.imdecode(np.frombuffer(read_bytes(file), np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise StreamError(f"{file}: the label cannot be read: not a whole PNG")
    return values[..., 2::-1] if values.ndim == 3 else values


def _ids_of_colours(file: File, pixels: NDArray[Any], colours: tuple[tuple[Colour, int], ...]) -> NDArray[np.uint8]:
    if pixels.dtype != np.uint8 or pixels.shape[2] < 3:
        raise StreamError(f"{file}: the label has {pixels.shape[2]} channels of {pixels.dtype}; expected RGB colours")
    keys = np.array([_key(*colour) for colour, _ in colours], np.int64)
    order = np.argsort(keys)
    codes = pixels[..., :3].astype(np.int64) @ np.array([65536, 256, 1])
    found = np.searchsorted(keys, codes, sorter=order).clip(max=len(keys) - 1)
    if (strange := keys[order[found]] != codes).any():
        first = tuple(int(value) for value in pixels[strange][0, :3])
        raise StreamError(f"{file}: colour {first} is of no class; are the labels as their authors ship them?")
    ids: NDArray[np.uint8] = np.array([index for _, index in colours], np.uint8)[order[found]]
    return ids


def _key(red: int, green: int, blue: int) -> int:
    return red * 65536 + green * 256 + blue
