"""A frame as people watch it: frozen and adapted side by side over the picture, with what the run is doing on top."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from online_uda.reports.panels import colour_table, tile
from online_uda.reports.record import FrameRecord

BAR_PX = 44
_TRACE = 160
_SHOWN_FOR = 12
_BACK, _TEXT, _DIM = (24, 26, 30), (238, 238, 238), (150, 155, 165)
_SIGNAL, _DETECTED, _UPDATED = (120, 190, 255), (255, 170, 60), (110, 220, 130)


class Overlay:
    """Draws records one after the other; it remembers the last signals, events and moments.

    Args:
        palette: One RGB triple a class.
        width: Most pixels of the whole picture; smaller frames are not enlarged.
        opacity: Of the class colours over the picture.
    """

    def __init__(self, palette: Sequence[tuple[int, int, int]], width: int = 1920, opacity: float = 0.55) -> None:
        self._table, self._width, self._opacity = colour_table(palette), width, opacity
        self._signals: deque[float | None] = deque(maxlen=_TRACE)
        self._detections: deque[bool] = deque(maxlen=_TRACE)
        self._moments: deque[float] = deque(maxlen=20)
        self._detected_for = 0

    def note(self, record: FrameRecord) -> None:
        """Remembers what a record says without drawing it."""
        self._signals.append(record.signal)
        self._detections.append(record.detected)
        self._moments.append(time.monotonic())
        self._detected_for = _SHOWN_FOR if record.detected else max(0, self._detected_for - 1)

    @property
    def fps(self) -> float | None:
        """Frames a second over the last records noted."""
        if len(self._moments) < 2 or self._moments[-1] <= self._moments[0]:
            return None
        return (len(self._moments) - 1) / (self._moments[-1] - self._moments[0])

    def draw(self, record: FrameRecord) -> NDArray[np.uint8]:
        """The picture of a record that `note` was told of.

        Returns:
            ``(H, W, 3)`` uint8 RGB with even sides: a bar of text; below it frozen on the left, adapted on the right.

        Raises:
            ValueError: The record has no images.
        """
        images = record.images
        if images is None:
            raise ValueError(f"frame {record.frame} came without images; there is nothing to draw")
        height, width = images.image.shape[:2]
        scale = min(1.0, self._width / (2 * width))
        height, width = (max(2, round(side * scale)) // 2 * 2 for side in (height, width))
        picture = np.zeros((BAR_PX + height, 2 * width, 3), np.uint8)
        image = tile(images.image, height, width, smooth=True)
        for column, ids in enumerate((images.frozen, images.adapted)):
            half = picture[BAR_PX:, column * width : (column + 1) * width]
            half[:] = image
            if ids is not None:
                colours = tile(self._table[ids], height, width, smooth=False)
                cv2.addWeighted(colours, self._opacity, image, 1.0 - self._opacity, 0.0, dst=half)
        picture[BAR_PX:, width - 1 : width + 1] = 255
        self._draw_bar(picture[:BAR_PX], record)
        return picture

    def _draw_bar(self, bar: NDArray[np.uint8], record: FrameRecord) -> None:
        bar[:] = _BACK
        width = bar.shape[1]
        _write(bar, f"frozen{_percent(record.miou_frozen)}", 6, 38, _DIM)
        _write(bar, f"adapted{_percent(record.miou)}", width // 2 + 6, 38, _TEXT)
        rate = "" if self.fps is None else f"{self.fps:.1f} fps"
        _write(bar, f"{record.frame}  {record.domain}  {rate}", 6, 16, _TEXT)
        trace = bar[4:24, width - _TRACE - 8 : width - 8] if width >= 520 else None
        if trace is not None:
            self._draw_trace(trace)
        state, colour = "", _DIM
        if self._detected_for:
            state, colour = "change detected", _DETECTED
        elif record.updated:
            state, colour = f"learning {record.scope or ''}".rstrip(), _UPDATED
        _write(bar, state, width // 2 + 6, 16, colour)
        if record.signal is not None:
            _write(bar, f"signal {record.signal:.2f}", max(0, width - 90), 38, _SIGNAL)

    def _draw_trace(self, area: NDArray[np.uint8]) -> None:
        """The signal of the last frames, newest on the right, and lines where a change was announced."""
        known = [value for value in self._signals if value is not None]
        if not known:
            return
        low, high = min(known), max(known)
        bottom = area.shape[0] - 1
        start = area.shape[1] - len(self._signals)
        points = []
        for x, (value, detected) in enumerate(zip(self._signals, self._detections, strict=True), start):
            if detected:
                area[:, x] = _DETECTED
            if value is not None:
                points.append((x, round(bottom * (1 - (value - low) / max(high - low, 1e-9)))))
        cv2.polylines(area, [np.array(points, np.int32)], False, _SIGNAL, 1, cv2.LINE_AA)


def _percent(miou: float | None) -> str:
    return "" if miou is None else f"  mIoU {miou:.1f}"


def _write(bar: NDArray[np.uint8], text: str, x: int, y: int, colour: tuple[int, int, int]) -> None:
    # OpenCV's font has ASCII alone.
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(bar, plain, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
