"""Small videos and a camera on the network for tests: every picture carries its number as black and white blocks."""

from __future__ import annotations

import functools
import io
import socket
import threading
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

BITS = 12
TICKS = Fraction(1, 90_000)


@functools.lru_cache(maxsize=1 << BITS)
def numbered(number: int, size: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    """A picture ``(H, W, 3)`` uint8 that shows ``number`` in a row of blocks on top, over a texture of its own."""
    height, width = size
    image = np.random.default_rng(number).integers(60, 200, (height, width, 3), np.uint8)
    bits = [number >> bit & 1 for bit in range(BITS)]
    row = np.repeat(np.array(bits, np.uint8) * 255, width // BITS)
    image[: height // 3] = 128
    image[: height // 3, : len(row)] = row[None, :, None]
    return image


def number_of(image: NDArray[np.uint8]) -> int:
    """The number that a picture shows."""
    height, width, _ = image.shape
    block = width // BITS
    middle = image[height // 6, block // 2 : BITS * block : block, 0]
    return int((middle > 128) @ (1 << np.arange(BITS)))


def write_video(
    path: Path,
    count: int = 20,
    size: tuple[int, int] = (48, 64),
    *,
    fps: float = 10.0,
    times: Sequence[float] | None = None,
    rotation: int | None = None,
    options: dict[str, str] | None = None,
    sound: str | None = None,
    sound_s: float | None = None,
) -> Path:
    """A video of numbered pictures, at ``times`` in seconds or at ``fps``; ``rotation`` is stored, not applied.

    ``sound`` names the codec of a track of noise at 8 kHz, from 0 s until ``sound_s`` or the last picture.
    """
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = TICKS
        stream.codec_context.options = {"crf": "10", "g": "5", "bf": "0"}
        stream.codec_context.thread_count = 1  # pictures this small are no work to share
        if rotation is not None:
            stream.set_display_rotation(rotation)
        moments = [index / fps if times is None else times[index] for index in range(count)]
        if sound is not None:
            _add_noise(container, sound, round(8000 * (sound_s or moments[-1])))
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(numbered(index % (1 << BITS), size), format="rgb24")
            frame.pts = round(moments[index] / TICKS)
            frame.time_base = TICKS
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _add_noise(container: av.container.OutputContainer, codec: str, samples: int) -> None:
    """A mono track, muxed whole before the pictures; for short videos."""
    track = container.add_stream(codec, rate=8000)
    track.layout = "mono"  # type: ignore[union-attr]
    noise = np.random.default_rng(0).integers(-9000, 9000, (1, samples), np.int16)
    resampler = av.AudioResampler(track.codec_context.format, "mono", 8000, track.codec_context.frame_size or 1024)
    whole = av.AudioFrame.from_ndarray(noise, format="s16", layout="mono")
    whole.sample_rate, whole.pts, whole.time_base = 8000, 0, Fraction(1, 8000)
    for frame in [*resampler.resample(whole), *resampler.resample(None)]:
        container.mux(track.encode(frame))
    container.mux(track.encode(None))


class TsCamera:
    """Sends MPEG-TS to whoever connects to ``url``; numbers go on from connection to connection.

    Args:
        fps: Pictures a second.
        size: Height and width.
    """

    def __init__(self, fps: float = 50.0, size: tuple[int, int] = (48, 64)) -> None:
        self._fps, self._size = fps, size
        self.sent = 0
        self.connections = 0
        self._listener: socket.socket | None = None
        self._peer: socket.socket | None = None
        self._port = 0
        self._ended = threading.Event()
        self.start()

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listens again on the same port."""
        self._ended.clear()
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        listener.listen(1)
        listener.settimeout(0.1)
        self._listener, self._port = listener, listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, args=(listener,), daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Closes the connection; whoever is at the other end sees it break off."""
        peer = self._peer
        if peer is not None:
            peer.close()

    def stop(self) -> None:
        """Ends the connection and listens no more."""
        self._ended.set()
        self.cut()
        self._thread.join()

    def _serve(self, listener: socket.socket) -> None:
        with listener:
            while not self._ended.is_set():
                try:
                    self._peer, _ = listener.accept()
                except TimeoutError:
                    continue
                self.connections += 1
                try:
                    self._send(self._peer)
                except OSError:
                    pass
                finally:
                    self._peer.close()

    def _send(self, peer: socket.socket) -> None:
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="mpegts", options={"flush_packets": "1"}) as container:
            stream = container.add_stream("libx264", rate=Fraction(self._fps).limit_denominator(1000))
            stream.height, stream.width = self._size
            stream.pix_fmt = "yuv420p"
            stream.codec_context.options = {"tune": "zerolatency", "preset": "ultrafast", "crf": "15", "g": "5"}
            index = 0
            while not self._ended.is_set():
                frame = av.VideoFrame.from_ndarray(numbered(self.sent % (1 << BITS), self._size), format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, round(self._fps))
                container.mux(stream.encode(frame))
                peer.sendall(buffer.getvalue())
                buffer.seek(0)
                buffer.truncate()
                self.sent, index = self.sent + 1, index + 1
                time.sleep(1.0 / self._fps)
