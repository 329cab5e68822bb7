"""The overlay as H.264 that plays in a browser, with the stream's own times and sound, whole up to the last second."""

from __future__ import annotations

import queue
import threading
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from online_uda.reports.overlay import Overlay
from online_uda.reports.record import FrameRecord
from online_uda.reports.sound import Sound
from streams.frame import ClassSet

TICKS = Fraction(1, 90_000)
_QUEUE = 8
_GROUP = 30
"""Frames of a fragment: what a kill can cost."""
_OPTIONS = {
    "movflags": "frag_keyframe+delay_moov+default_base_moof",
    "flush_packets": "1",
    "max_interleave_delta": "1000000",  # microseconds that pictures wait for a sound that is shorter than they are
}


class VideoSink:
    """Draws and encodes every frame in a thread of its own; no frame is left out.

    The file is fragmented MP4: killed at any moment, it plays up to the last whole fragment. A resumed run starts
    another file, ``NAME.FRAME.mp4``.

    Args:
        path: The file to write; its folder exists.
        classes: For the colours.
        resume_frame: First frame that a resumed run will write; None starts ``path`` itself.
        sound_of: Video file that the frames are from, whose sound comes along.
    """

    name = "video"

    def __init__(
        self, path: Path, classes: ClassSet, resume_frame: int | None = None, sound_of: Path | None = None
    ) -> None:
        self.path = path
        if resume_frame is not None and path.exists():
            self.path = path.with_name(f"{path.stem}.{resume_frame:08d}{path.suffix}")
        self._overlay = Overlay(classes.palette)
        self._queue: queue.Queue[FrameRecord | None] = queue.Queue(_QUEUE)
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None
        self._container: Any = None
        self._stream: Any = None
        self._sound = None if sound_of is None else Sound(sound_of)
        self._last_tick = -1

    def __enter__(self) -> VideoSink:
        self._container = av.open(str(self.path), "w", format="mp4", options=_OPTIONS)
        self._thread = threading.Thread(target=self._run, name="video", daemon=True)
        self._thread.start()
        return self

    def write(self, record: FrameRecord) -> None:
        """Hands a frame over; waits where the encoder is far behind. A fault has no picture, and time goes on."""
        if self._error is not None:
            raise self._error
        if record.images is not None:
            self._queue.put(record)

    def finish(self, summary: dict[str, Any]) -> None:
        """Ends the file."""
        self._end()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (record := self._queue.get()) is not None:
            if self._error is not None:
                continue  # keeps the queue from filling up
            try:
                self._overlay.note(record)
                self._encode(self._overlay.draw(record), record.timestamp_s or 0.0)
            except Exception as error:
                self._error = error

    def _encode(self, picture: NDArray[np.uint8], at_s: float) -> None:
        height, width = picture.shape[:2]
        if self._stream is None:
            stream = self._container.add_stream("libx264", rate=30)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            stream.codec_context.time_base = TICKS
            # No frames out of order: the file then starts at its first timestamp.
            stream.codec_context.options = {"preset": "veryfast", "crf": "23", "g": str(_GROUP), "bf": "0"}
            stream.codec_context.thread_count = 1
            self._stream = stream
            if self._sound is not None:
                self._sound.join(self._container, at_s)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        if (height, width) != (self._stream.height, self._stream.width):
            frame = frame.reformat(width=self._stream.width, height=self._stream.height)
        self._last_tick = max(round(at_s / TICKS), self._last_tick + 1)
        frame.pts, frame.time_base = self._last_tick, TICKS
        if self._sound is not None:  # before the picture: what is written is whole up to it
            self._container.mux(list(self._sound.until(float(self._last_tick * TICKS))))
        self._container.mux(self._stream.encode(frame))

    def _end(self) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._queue.put(None)
        thread.join()
        container, self._container = self._container, None
        try:
            if self._stream is not None and self._error is None:
                container.mux(self._stream.encode(None))
        finally:
            container.close()
            if self._sound is not None:
                self._sound.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
