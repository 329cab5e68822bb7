"""Pictures for people, written to a file."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from streams.errors import StreamError

_JPEG, _PNG = (cv2.IMWRITE_JPEG_QUALITY, 85), (cv2.IMWRITE_PNG_COMPRESSION, 9)
_WRITTEN = {".jpg": _JPEG, ".jpeg": _JPEG, ".png": _PNG}


def check_picture_name(path: Path) -> None:
    """Before anything is drawn.

    Raises:
        StreamError: The name ends neither in .png nor in .jpg.
    """
    if path.suffix.lower() not in _WRITTEN:
        raise StreamError(f"{path}: write a .png or .jpg file")


def write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Writes a picture, and makes its folder.

    Args:
        path: Checked by `check_picture_name`.
        picture: ``(H, W, 3)`` uint8 RGB.

    Raises:
        StreamError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        written = cv2.imwrite(str(path), picture[..., ::-1], _WRITTEN[path.suffix.lower()])
    except (OSError, cv2.error) as error:
        raise StreamError(f"{path}: could not be written ({error})") from None
    if not written:
        raise StreamError(f"{path}: could not be written")
