"""The sound of a video file, taken along packet by packet into the video of the overlay."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError


class Sound:
    """The first audio track of a file, on the clock of its pictures: 0 is the first picture that it shows.

    Nothing is decoded. A file without sound, and a codec that MP4 does not hold, give none; the latter with a line on
    stderr.

    Args:
        path: A video file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._input: Any = None
        self._output: Any = None
        self._packets: Iterator[Any] = iter(())
        self._next: Any = None
        self._first_s = 0.0

    def join(self, container: Any, from_s: float) -> None:
        """Adds the track to an MP4 whose header is not written yet.

        Args:
            container: Open for writing.
            from_s: Time of its first picture; what comes before it is left out.
        """
        try:
            self._input = av.open(str(self._path))
            if not self._input.streams.audio:
                return
            track = self._input.streams.audio[0]
            if track.codec_context.name not in container.supported_codecs:
                return self._without(f"MP4 does not hold {track.codec_context.name}")
            self._first_s = next((float(frame.time or 0.0) for frame in self._input.decode(video=0)), 0.0)
            self._input.seek(max(0, int((self._first_s + from_s) * av.time_base)))
            self._output = container.add_stream_from_template(track)
            self._packets = self._input.demux(track)
            self._next = self._after(from_s)
        except (FFmpegError, OSError, ValueError, IndexError) as error:
            self._without(str(error))

    def until(self, at_s: float) -> Iterator[Any]:
        """Packets that begin before ``at_s`` and have not been given, ready for muxing."""
        while self._next is not None and self._time_of(self._next) < at_s:
            packet, shift = self._next, round(self._first_s / self._next.time_base)
            packet.pts -= shift
            packet.dts = packet.pts if packet.dts is None else packet.dts - shift
            packet.stream = self._output
            yield packet
            self._next = self._read()

    def close(self) -> None:
        """Lets go of the file."""
        if self._input is not None:
            self._input.close()
            self._input = self._next = None

    def _after(self, at_s: float) -> Any:
        packet = self._read()
        while packet is not None and self._time_of(packet) < at_s:
            packet = self._read()
        return packet

    def _read(self) -> Any:
        """The next packet with a time; None at the end and where the file breaks off."""
        try:
            return next((packet for packet in self._packets if packet.pts is not None), None)
        except (FFmpegError, OSError) as error:
            return self._without(f"it breaks off: {error}")

    def _time_of(self, packet: Any) -> float:
        return float(packet.pts * packet.time_base) - self._first_s

    def _without(self, reason: str) -> None:
        self._packets, self._next = iter(()), None
        print(f"warning: the sound of {self._path} is not in the video: {reason}", file=sys.stderr)
