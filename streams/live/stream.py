"""Plays one feed as a stream of frames without truth: as it comes from a camera, or frame by frame from a file."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams._prefetch import Prefetcher
from streams.errors import StreamError
from streams.frame import ClassSet, Frame, StreamItem, Truth
from streams.live.feed import Feed, hidden, parse_feed
from streams.live.newest import BACK_OFF_S, NewestPicture
from streams.live.picture import Broken, FeedLost, Picture, Source
from streams.schedule import MAX_SIDE, MIN_SIDE, Schedule
from streams.sources.images import FrameFault, read_image, read_size, resize_image
from streams.stream import VisitPlan

TIMEOUT_S = 5.0
_POLL_S = 0.05
_AHEAD = 4
_ASPECT_TOLERANCE = 0.01
_LOOKED_AT = 50
"""Entries looked at for a first picture before a feed is refused."""


class FeedStream:
    """The frames of a feed.

    From a file, every picture comes, in order, decoded ahead in a thread; iterating twice gives the same. From a live
    source, the newest picture comes whenever one is asked for; those that nobody took are dropped and counted, and a
    lost source is opened again, for as long as it takes.

    Args:
        schedule: With one visit, whose ``stream`` names the feed.
        size: Height and width of frames; None takes the schedule's or the feed's own.
        frames: Upper bound on the frames; None plays to the end.
        timeout_s: Seconds of silence after which a live source counts as lost.
        back_off_s: Waits before attempts to reconnect.

    Attributes:
        size: Height and width of every frame.
        is_live: Whether frames are lost when nobody takes them.

    Raises:
        StreamError: The feed cannot be opened, or gives no picture.
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        size: tuple[int, int] | None = None,
        frames: int | None = None,
        timeout_s: float = TIMEOUT_S,
        back_off_s: tuple[float, ...] = BACK_OFF_S,
    ) -> None:
        visit = schedule.visits[0]
        assert visit.stream is not None
        self.schedule = schedule
        self.feed = parse_feed(visit.stream)
        self._domain, self._cap, self._timeout_s = visit.domain, frames, timeout_s
        self._stopped = False
        self._ahead: Prefetcher[StreamItem] | None = None
        self._offset_s = 0.0
        self._arrived_s = 0.0
        self._live: NewestPicture | None = None
        wanted = size or schedule.size
        if self.feed.kind == "images":
            self.is_live, own = False, _first_size(self.feed)
        else:
            own = self._open_and_look(back_off_s)
        self.size = wanted or own
        self._own = own
        if not all(MIN_SIDE <= side <= MAX_SIDE for side in self.size):
            self.close()
            raise StreamError(
                f"{hidden(self.feed.where)}: frames of {own[1]}x{own[0]}; height and width must be {MIN_SIDE} to "
                f"{MAX_SIDE}; bring them to a size with --size HEIGHTxWIDTH"
            )

    def _open_and_look(self, back_off_s: tuple[float, ...]) -> tuple[int, int]:
        """Opens the feed, looks at its first picture, and starts the thread of a live one."""
        source = self._open()
        self.is_live = bool(source.is_live)
        entries = source.entries()
        reason = "it ends before the first one"
        try:
            for _, entry in zip(range(_LOOKED_AT), entries, strict=False):
                if isinstance(entry, Picture):
                    break
                reason = entry.reason
            else:
                raise StreamError(f"{hidden(self.feed.where)}: no picture can be had from it: {reason}")
        except FeedLost as loss:
            source.close()
            raise StreamError(f"{hidden(self.feed.where)}: no picture can be had from it: {loss}") from None
        except BaseException:
            source.close()
            raise
        if self.is_live:
            self._live = NewestPicture(_Going(source, entries), self._open, back_off_s)
        else:
            source.close()
        return entry.image.shape[0], entry.image.shape[1]

    def _open(self) -> Any:
        if self.feed.kind == "camera":
            from streams.live.camera import CameraDevice

            return CameraDevice(int(self.feed.where))
        from streams.live.container import Container

        return Container(self.feed, self._timeout_s)

    @property
    def classes(self) -> ClassSet:
        """Names and ids of what the network says; there are no labels."""
        return self.schedule.class_set

    @property
    def fps(self) -> float:
        """Frames per second of images without timestamps."""
        return self.schedule.fps

    @property
    def length(self) -> int | None:
        """Number of frames, where that is known before the end."""
        if self.feed.kind != "images":
            return None
        return len(self.feed.paths) if self._cap is None else min(self._cap, len(self.feed.paths))

    @property
    def visits(self) -> tuple[VisitPlan, ...]:
        """One visit; its length is 0 where it is not known."""
        return (VisitPlan(self._domain, 0, 0, self.length or 0),)

    @property
    def boundaries(self) -> tuple[int, ...]:
        """None are known."""
        return ()

    def stop(self) -> None:
        """Ends a live iteration that waits for a picture; may be called from a signal handler."""
        self._stopped = True

    def go_on_at(self, seconds: float) -> None:
        """Live timestamps start there: a resumed run goes on where its clock stood."""
        self._offset_s = seconds

    def arrival_s(self) -> float:
        """When the frame handed out last came, by ``time.perf_counter``; of a live stream."""
        return self._arrived_s

    def figures(self) -> dict[str, Any]:
        """What the summary says of the feed: where it is, and what was lost of a live one."""
        about: dict[str, Any] = {"where": hidden(self.feed.where), "kind": self.feed.kind, "live": self.is_live}
        return about if self._live is None else {**about, **self._live.counts.as_dict()}

    def sources(self) -> list[dict[str, Any]]:
        """For streams of several data sets: `figures` says all of this one."""
        return []

    def iterate(self, start: int = 0) -> Iterator[StreamItem]:
        """Items from `start`: of a file, what comes before is skipped; a live source has no before."""
        self._stopped = False
        if self._live is not None:
            return self._live_items(self._live, start)
        self._ahead = Prefetcher(self._recorded_items(start), _AHEAD)
        return self._ahead

    def __iter__(self) -> Iterator[StreamItem]:
        return self.iterate()

    def _live_items(self, live: NewestPicture, index: int) -> Iterator[StreamItem]:
        live.forget()
        while not self._stopped and (self._cap is None or index < self._cap):
            entry = live.take(_POLL_S)
            if entry is None:
                continue
            if isinstance(entry, Broken):
                yield self._fault(index, entry.reason)
            else:
                self._arrived_s = entry.arrived_s
                yield self._item(index, entry.image, self._offset_s + entry.at_s)
            index += 1

    def _recorded_items(self, start: int) -> Iterator[StreamItem]:
        if self.feed.kind == "images":
            last = len(self.feed.paths) if self._cap is None else min(self._cap, len(self.feed.paths))
            yield from map(self._image_item, range(start, last))
            return
        source: Source = self._open()
        try:
            for index, entry in enumerate(source.entries()):
                if self._cap is not None and index >= self._cap:
                    return
                if index < start:
                    continue
                if isinstance(entry, Broken):
                    yield self._fault(index, entry.reason)
                else:
                    yield self._item(index, entry.image, entry.at_s)
        finally:
            source.close()

    def _image_item(self, index: int) -> StreamItem:
        try:
            return self._item(index, read_image(self.feed.paths[index]), index / self.fps)
        except FrameFault as fault:
            return self._fault(index, str(fault))

    def _item(self, index: int, image: NDArray[np.uint8], at_s: float) -> StreamItem:
        height, width = image.shape[:2]
        if image.shape[:2] != self._own and abs(width * self._own[0] / (height * self._own[1]) - 1) > _ASPECT_TOLERANCE:
            there = f"{self._own[1]}x{self._own[0]}"
            return self._fault(index, f"a picture of {width}x{height} in a stream of {there}: the shape has changed")
        return StreamItem(index, Frame(index, resize_image(image, self.size), at_s), self._truth())

    def _fault(self, index: int, reason: str) -> StreamItem:
        return StreamItem(index, None, self._truth(), reason)

    def _truth(self) -> Truth:
        return Truth(self._domain, 0, None)

    def close(self) -> None:
        """Stops the thread and lets go of the source."""
        self._stopped = True
        if self._ahead is not None:
            self._ahead.close()
        if self._live is not None:
            self._live.close()

    def __enter__(self) -> FeedStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Going:
    """A source whose first picture was looked at: its entries go on from there."""

    def __init__(self, source: Source, entries: Iterator[Picture | Broken]) -> None:
        self._source, self._entries = source, entries

    def entries(self) -> Iterator[Picture | Broken]:
        return self._entries

    def close(self) -> None:
        self._source.close()


def _first_size(feed: Feed) -> tuple[int, int]:
    reason = ""
    for path in feed.paths[:_LOOKED_AT]:
        try:
            return read_size(path)
        except FrameFault as fault:
            reason = reason or str(fault)
    raise StreamError(f"{feed.where}: none of {len(feed.paths)} files can be read as an image ({reason})")
