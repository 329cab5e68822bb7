"""Image and label files to arrays: RGB whatever the file holds, ids checked against a class set."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from streams.errors import StreamError
from streams.frame import IGNORE_ID, ClassSet
from streams.label_map import FOREIGN_ID, label_table
from streams.sources.files import File, opened

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF")
_ORIENTATION_TAG = 0x0112


class FrameFault(Exception):
    """One frame cannot be had (a truncated file, not an image); the stream counts it and goes on."""


def read_image(path: File) -> NDArray[np.uint8]:
    """RGB image of a file: grey is repeated, alpha dropped, 16 bits scaled to 8, a camera's rotation applied.

    Returns:
        ``(H, W, 3)`` uint8, RGB.

    Raises:
        FrameFault: The file is not a whole image of a known format.
    """
    try:
        with Image.open(opened(path), formats=_FORMATS) as file:
            image = ImageOps.exif_transpose(file) if _turned(file) else file
            image.load()
            if image.mode.startswith(("I", "F")):
                return _grey_to_rgb(np.asarray(image), path)
            return np.array(image.convert("RGB"))  # a copy: torch warns of read-only memory
    except FrameFault:
        raise
    except Exception as error:  # decoders answer broken files with any kind of exception
        raise FrameFault(f"{path.name}: {_reason(error)}") from None


def read_size(path: File) -> tuple[int, int]:
    """``(height, width)`` from the header of an image, after a camera's rotation.

    Raises:
        FrameFault: The file has no readable header.
    """
    try:
        with Image.open(opened(path, whole=False), formats=_FORMATS) as file:
            width, height = file.size
            return (width, height) if _turned(file) in (5, 6, 7, 8) else (height, width)
    except Exception as error:  # as above
        raise FrameFault(f"{path.name}: {_reason(error)}") from None


def read_label(path: File, classes: ClassSet) -> NDArray[np.uint8]:
    """Train ids of a label PNG: one channel of ids, grey or palette; void ids become 255.

    Returns:
        ``(h, w)`` uint8 with ids of `classes` and 255 = ignore.

    Raises:
        StreamError: The file cannot be read, has colours in place of ids, or holds an id outside `classes`.
    """
    ids = read_ids(path)
    if ids.ndim != 2:
        raise StreamError(f"{path}: the label has {ids.shape[2]} channels; expected one channel of class ids")
    return convert_ids(path, ids, classes, label_table(classes))


def read_ids(path: File) -> NDArray[Any]:
    """What a label file holds: ``(h, w)`` ids, or ``(h, w, channels)`` where it has several channels.

    Raises:
        StreamError: The file cannot be read.
    """
    try:
        with Image.open(opened(path), formats=_FORMATS) as file:
            return np.asarray(file)
    except Exception as error:  # as above
        raise StreamError(f"{path}: the label cannot be read: {_reason(error)}") from None


def convert_ids(path: File, ids: NDArray[Any], classes: ClassSet, table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Ids of a label file as train ids.

    Args:
        path: The file, for the error.
        ids: ``(h, w)`` of any kind of integer, or boolean.
        classes: Class set of the file, for the error.
        table: From `streams.label_map.label_table`.

    Raises:
        StreamError: An id that the table does not know.
    """
    if ids.dtype != np.uint8:
        outside = ids[(ids < 0) | (ids > 255)] if ids.dtype != np.bool_ else ids[:0]
        if outside.size:
            raise StreamError(_foreign(path, int(outside.flat[0]), classes))
        ids = ids.astype(np.uint8)
    label = table[ids]
    if (foreign := label == FOREIGN_ID).any():
        raise StreamError(_foreign(path, int(ids[foreign].flat[0]), classes))
    return label


def resize_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Linear interpolation; averages over the area that a pixel covers where the image shrinks.

    Args:
        image: ``(H, W, 3)`` uint8.
        size: Height and width wanted.
    """
    if image.shape[:2] == size:
        return image
    return np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def resize_label(label: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Nearest neighbour from pixel centres.

    Args:
        label: ``(h, w)`` uint8.
        size: Height and width wanted.
    """
    if label.shape == size:
        return label
    return np.array(Image.fromarray(label).resize(size[::-1], Image.Resampling.NEAREST))


def _turned(file: Image.Image) -> int:
    """EXIF orientation of a camera's JPEG; 0 where there is none. A PNG would have to be decoded to tell."""
    if file.format != "JPEG":
        return 0
    orientation = file.getexif().get(_ORIENTATION_TAG, 1)
    return orientation if orientation in range(2, 9) else 0


def _grey_to_rgb(values: NDArray[Any], path: File) -> NDArray[np.uint8]:
    if values.dtype.kind not in "iu":
        raise FrameFault(f"{path.name}: floating-point pixels have no known range; save as 8 or 16 bits")
    grey = np.clip(np.rint(values.astype(np.float64) * (255 / 65535)), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _foreign(path: File, value: int, classes: ClassSet) -> str:
    void = ", ".join(map(str, (*classes.void, IGNORE_ID)))
    last = len(classes.raw or classes) - 1
    return (
        f"{path}: label id {value} is not in class set {classes.name} "
        f"(ids 0 to {last}; ignored: {void}); set the schedule's 'classes' or convert the labels"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return " ".join(str(error).split()) or type(error).__name__
