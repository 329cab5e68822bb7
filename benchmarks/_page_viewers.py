"""Viewers of a live page as cheap as can be: what a browser asks for, read and counted, nothing drawn."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from types import TracebackType

_BOUNDARY = b"--picture\r\n"


class Viewer:
    """One open page: its stream of pictures and its feed of curves, each in a thread that only reads.

    Args:
        port: Of the page on this machine.
    """

    def __init__(self, port: int) -> None:
        self._port, self._open = port, True
        self._asked_s = time.monotonic()
        self.moments_s: list[float] = []
        self._peers = [self._ask("/stream.mjpg"), self._ask("/api/events")]
        self._threads = [
            threading.Thread(target=self._read, args=(self._peers[0], True), daemon=True),
            threading.Thread(target=self._read, args=(self._peers[1], False), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Viewer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        for peer in self._peers:
            peer.shutdown(socket.SHUT_RDWR)
            peer.close()
        for thread in self._threads:
            thread.join()

    @property
    def first_picture_s(self) -> float | None:
        """Seconds from asking to the first picture; None while there is none."""
        return self.moments_s[0] - self._asked_s if self.moments_s else None

    def pictures_per_s(self) -> float | None:
        """From the first picture to the last."""
        moments = self.moments_s
        return (len(moments) - 1) / (moments[-1] - moments[0]) if len(moments) > 1 else None

    def _ask(self, path: str) -> socket.socket:
        peer = socket.create_connection(("127.0.0.1", self._port), timeout=30)
        peer.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return peer

    def _read(self, peer: socket.socket, pictures: bool) -> None:
        """A picture counts when its header has come; what stays in `tail` is too short to hold one."""
        tail = b""
        while self._open:
            try:
                chunk = peer.recv(1 << 18)
            except OSError:
                return
            if not chunk:
                return
            if pictures:
                text = tail + chunk
                self.moments_s += [time.monotonic()] * text.count(_BOUNDARY)
                tail = text[-(len(_BOUNDARY) - 1) :]


def health(port: int) -> dict[str, object] | None:
    """What ``/health`` says; None while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            found: dict[str, object] = json.loads(answer.read())
            return found
    except (urllib.error.URLError, OSError, ValueError):
        return None
