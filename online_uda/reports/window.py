"""The overlay in a window on the screen; q, Escape or closing it ends the run as Ctrl-C does."""

from __future__ import annotations

import os
import signal
import sys
from types import TracebackType
from typing import Any

import cv2

from online_uda.errors import UserError
from online_uda.reports.overlay import Overlay
from online_uda.reports.record import FrameRecord
from streams.frame import ClassSet

TITLE = "online_uda: frozen | adapted"
_END_KEYS = (ord("q"), 27)


def check_display() -> None:
    """Looks whether there is a screen.

    Raises:
        UserError: There is none.
    """
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UserError("--show: no display here (DISPLAY is not set); use --save-video FILE.mp4 or --serve PORT")


class WindowSink:
    """Shows every frame as it is reported.

    Args:
        classes: For the colours.
    """

    name = "window"

    def __init__(self, classes: ClassSet) -> None:
        self._overlay = Overlay(classes.palette)
        self._shown = False

    def __enter__(self) -> WindowSink:
        check_display()
        try:
            cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL)
        except cv2.error as error:
            raise UserError(
                f"--show: OpenCV cannot open a window here ({' '.join(str(error).split())[:80]}); use --save-video"
            ) from None
        return self

    def write(self, record: FrameRecord) -> None:
        """Show a frame, and look for keys."""
        self._overlay.note(record)
        if record.images is not None:
            cv2.imshow(TITLE, self._overlay.draw(record)[..., ::-1])
            self._shown = True
        key = cv2.waitKey(1) & 0xFF
        closed = self._shown and cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1
        if key in _END_KEYS or closed:
            signal.raise_signal(signal.SIGINT)
            self._shown = False

    def finish(self, summary: dict[str, Any]) -> None:
        """Nothing to add."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cv2.destroyAllWindows()
