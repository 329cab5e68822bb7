"""Video files and addresses by PyAV: every picture with its own timestamp, upright, and nothing made up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import av
from av.error import ExitError, FFmpegError

from streams.errors import StreamError
from streams.live.feed import Feed, hidden
from streams.live.picture import Broken, FeedLost, Picture, upright

OPEN_S = 10.0
_JUMP_S = 1.0
"""Timestamps that fall back by more than this are those of a source that has begun anew."""


class Container:
    """An opened video.

    A picture that the decoder had to invent in part (lost packets, damaged data) is `Broken`: what it shows did not
    come from the camera. Live sources repeat a timestamp where they repeat a picture; a repeated picture is left out.

    Args:
        feed: A file or an address.
        timeout_s: Seconds without data after which a live source counts as lost.

    Attributes:
        is_live: Whether pictures are lost when nobody takes them: an address without a length.
        period_s: Seconds between two pictures as the source announces it; None where it does not.

    Raises:
        StreamError: Nothing there, no video in it, or no answer in time.
    """

    def __init__(self, feed: Feed, timeout_s: float) -> None:
        self._feed, self._timeout_s = feed, timeout_s
        self._shown = hidden(feed.where)
        options = {"rtsp_transport": "tcp"} if feed.where.startswith("rtsp") else {}
        if feed.is_live:
            options["fflags"] = "nobuffer"
        try:
            self._container = av.open(feed.where, options=options, timeout=(OPEN_S, timeout_s))
        except (FFmpegError, OSError, ValueError, IndexError) as error:
            raise StreamError(f"{self._shown}: {self._why_not(error)}") from None
        if not self._container.streams.video:
            kinds = ", ".join(dict.fromkeys(stream.type for stream in self._container.streams)) or "nothing"
            self._container.close()
            raise StreamError(f"{self._shown}: has no video track ({kinds} in it); it holds no video, or is cut off")
        self._video = self._container.streams.video[0]
        # Threads by slices: with threads by frames, an error is reported some pictures late.
        self._video.thread_type = "SLICE"
        self.is_live = feed.is_live or (feed.kind == "address" and self._container.duration is None)
        rate = self._video.average_rate or self._video.guessed_rate
        self.period_s = 1.0 / float(rate) if rate else None
        self._announced = self._video.frames

    def _why_not(self, error: Exception) -> str:
        if isinstance(error, (ExitError, TimeoutError)):
            return f"no answer within {OPEN_S:g} s; is the address right, and the camera on?"
        reason = _reason(error)
        if self._feed.kind == "file":
            return f"cannot be read as a video ({reason}); it is cut off, or no video"
        return f"cannot be reached ({reason}); is the address right, and the camera on?"

    def entries(self) -> Iterator[Picture | Broken]:
        """See `streams.live.picture.Source.entries`."""
        first_s: float | None = None
        last_s = float("-inf")
        count = 0
        try:
            for decoded in self._decoded():
                count += 1
                if isinstance(decoded, Broken):
                    yield decoded
                    continue
                at_s = self._time_of(decoded, last_s)
                if self.is_live and last_s - _JUMP_S < at_s <= last_s:
                    continue
                last_s = at_s
                first_s = at_s if first_s is None else first_s
                if decoded.is_corrupt:
                    yield Broken(f"the picture at {at_s - first_s:.2f} s is damaged")
                    continue
                image = upright(decoded.to_ndarray(format="rgb24"), decoded.rotation)
                yield Picture(image, at_s - first_s)
        except (FFmpegError, OSError) as error:
            if not self.is_live:
                yield Broken(f"the file breaks off after {count} pictures: {_reason(error)}")
                return
            silent = isinstance(error, (ExitError, TimeoutError))
            raise FeedLost(f"silent for {self._timeout_s:g} s" if silent else _reason(error)) from None
        if self.is_live:
            raise FeedLost("the sender ended it")
        if count < self._announced:
            yield Broken(f"the file ends after {count} of {self._announced} pictures; it is cut off")

    def _decoded(self) -> Iterator[Any]:
        """Frames of PyAV, and `Broken` for a packet that cannot be decoded."""
        for packet in self._container.demux(self._video):
            try:
                frames = packet.decode()
            except FFmpegError as error:
                if isinstance(error, ExitError):
                    raise
                yield Broken(f"a picture cannot be decoded: {_reason(error)}")
                continue
            yield from frames

    def _time_of(self, frame: Any, last_s: float) -> float:
        if frame.pts is not None:
            return float(frame.pts * frame.time_base)
        return max(last_s, 0.0) + (self.period_s or 0.04)

    def close(self) -> None:
        """See `streams.live.picture.Source.close`."""
        with suppress(FFmpegError, OSError):
            self._container.close()


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split()).lower()
