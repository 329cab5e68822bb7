"""A camera of this machine by OpenCV."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from streams.errors import StreamError
from streams.live.picture import Broken, FeedLost, Picture


class CameraDevice:
    """An opened camera.

    Args:
        number: Of the device, as in ``/dev/video0``.

    Attributes:
        period_s: Seconds between two pictures as the driver tells it; None where it does not.

    Raises:
        StreamError: No such device, or it is not a camera, or in use.
    """

    is_live = True

    def __init__(self, number: int) -> None:
        self._number = number
        if sys.platform == "linux" and not Path(f"/dev/video{number}").exists():
            there = sorted(path.name.removeprefix("video") for path in Path("/dev").glob("video[0-9]*"))
            known = f"cameras here: {', '.join(there)}" if there else "this machine has no camera"
            raise StreamError(f"no such device: /dev/video{number}; {known}")
        self._capture = cv2.VideoCapture(number)
        if not self._capture.isOpened():
            raise StreamError(
                f"camera {number} cannot be opened; is it in use, or /dev/video{number} not yours to read?"
            )
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.period_s = 1.0 / rate if rate and rate > 0 else None

    def entries(self) -> Iterator[Picture | Broken]:
        """See `streams.live.picture.Source.entries`; a camera has no clock of its own, the machine's is taken."""
        first_s: float | None = None
        while True:
            there, image = self._capture.read()
            if not there:
                raise FeedLost(f"camera {self._number} gives no picture")
            now_s = time.monotonic()
            first_s = now_s if first_s is None else first_s
            yield Picture(np.ascontiguousarray(image[..., ::-1]), now_s - first_s)

    def close(self) -> None:
        """See `streams.live.picture.Source.close`."""
        self._capture.release()
