"""Ctrl-C and SIGTERM: the first lets the frame in hand finish and the run end in order; a second Ctrl-C ends it.

A supervisor that sends SIGTERM wants an orderly end and no more: it is no error, and repeating it changes nothing.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_WATCHED = (signal.SIGINT, signal.SIGTERM)


class GracefulStop:
    """While entered, notes the first SIGINT or SIGTERM and raises `KeyboardInterrupt` at a further SIGINT.

    Only the main thread may handle signals; in any other, and outside the block, they do what they did before.

    Args:
        on_request: Called by the first signal, inside its handler: ends what waits for a frame that may never come.

    Attributes:
        requested: Whether to stop after the frame in hand.
        terminated: Whether SIGTERM asked for it first.
    """

    def __init__(self, on_request: Callable[[], None] = lambda: None) -> None:
        self._on_request = on_request
        self.requested = False
        self.terminated = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> GracefulStop:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _WATCHED}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = self.requested
        self.requested = True
        if not again:
            self._on_request()
        if number == signal.SIGTERM:
            if not again:
                self.terminated = True
                print("\nterminated; stopping after this frame", file=sys.stderr, flush=True)
            return
        if again:
            raise KeyboardInterrupt
        print("\nstopping after this frame; press Ctrl-C again to stop at once", file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before if before is not None else signal.SIG_DFL)
        self._before = {}
