"""Reads a live source in a thread, keeps the newest picture alone, and comes back when the source is lost."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.errors import StreamError
from streams.live.picture import Broken, FeedLost, Source

BACK_OFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Waits before the first, second ... attempt to reconnect; the last one repeats."""
_DRIFT_S = 1.0
"""A source whose timestamps are further than this from the machine's clock has begun anew, or made them up."""


@dataclass(slots=True)
class LiveCounts:
    """What happened to a live source.

    Attributes:
        received: Pictures that came.
        dropped: Pictures that were replaced by a newer one before they were taken.
        broken: Pictures that could not be used.
        outages: Times that the source was lost.
        reconnects: Times that it came back.
        attempts: Times that opening it again was tried.
        repeated: First pictures after a reconnection that were the last one before it.
        outage_s: Seconds without a source.
    """

    received: int = 0
    dropped: int = 0
    broken: int = 0
    outages: int = 0
    reconnects: int = 0
    attempts: int = 0
    repeated: int = 0
    outage_s: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The counts by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A picture as it came: ``at_s`` seconds into the stream, ``arrived_s`` by the machine's ``time.perf_counter``."""

    image: NDArray[np.uint8]
    at_s: float
    arrived_s: float


class NewestPicture:
    """The newest picture of a live source, and word of every loss.

    Within a connection time follows the source's timestamps, as long as these keep to the machine's clock; each
    connection starts where that clock says.

    Args:
        source: The first connection.
        reopen: Makes another one; raises `StreamError` where it cannot.
        back_off_s: Waits before attempts to reconnect.
    """

    def __init__(
        self, source: Source, reopen: Callable[[], Source], back_off_s: tuple[float, ...] = BACK_OFF_S
    ) -> None:
        self._source, self._reopen, self._back_off_s = source, reopen, back_off_s
        self.counts = LiveCounts()
        self._news = threading.Condition()
        self._waiting: deque[Arrival | Broken] = deque(maxlen=64)  # at most one picture, among word of losses
        self._stop = threading.Event()
        self._started_s = time.perf_counter()
        self._last_at_s = -1.0
        self._last_image: NDArray[np.uint8] | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="live-stream", daemon=True)
        self._thread.start()

    def take(self, timeout_s: float) -> Arrival | Broken | None:
        """The newest picture since the last call, and losses before and after it; None where nothing comes in time."""
        with self._news:
            if not self._waiting and self._failure is None:
                self._news.wait(timeout_s)
            if self._waiting:
                return self._waiting.popleft()
            if self._failure is not None:
                raise self._failure
            return None

    def forget(self) -> None:
        """Leaves out what came so far: the taker was not there yet."""
        with self._news:
            self._drop_waiting()
            self.counts.received = self.counts.dropped = 0

    def _drop_waiting(self) -> None:
        stale = [entry for entry in self._waiting if isinstance(entry, Arrival)]
        for entry in stale:
            self._waiting.remove(entry)
        self.counts.dropped += len(stale)

    def close(self) -> None:
        """Ends the thread. One that waits for a silent source ends by itself when that has timed out."""
        self._stop.set()
        self._thread.join(timeout=2.0)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    self._read()
                except FeedLost as loss:
                    if not self._stop.is_set():
                        self._tell(Broken(f"the stream was lost: {loss}"), outage=True)
                        self._come_back()
        except BaseException as error:
            with self._news:
                self._failure = error
                self._news.notify_all()
        finally:
            self._source.close()

    def _read(self) -> None:
        begins_s: float | None = None
        before = self._last_image
        for entry in self._source.entries():
            if self._stop.is_set():
                return
            if isinstance(entry, Broken):
                self.counts.broken += 1
                self._tell(entry)
                continue
            arrived_s = time.perf_counter()
            if begins_s is None:
                begins_s = arrived_s - self._started_s - entry.at_s
                if before is not None and np.array_equal(before, entry.image):
                    self.counts.repeated += 1  # a relay that keeps the last picture for whoever comes
                    continue
            if abs(arrived_s - self._started_s - begins_s - entry.at_s) > _DRIFT_S:
                begins_s = arrived_s - self._started_s - entry.at_s
            self._last_at_s = max(begins_s + entry.at_s, self._last_at_s + 1e-3)
            self._last_image = entry.image
            with self._news:
                self.counts.received += 1
                self._drop_waiting()
                self._waiting.append(Arrival(entry.image, self._last_at_s, arrived_s))
                self._news.notify_all()
        raise FeedLost("it ended")

    def _tell(self, broken: Broken, *, outage: bool = False) -> None:
        with self._news:
            self.counts.outages += outage
            self._waiting.append(broken)
            self._news.notify_all()

    def _come_back(self) -> None:
        lost_s = time.perf_counter()
        self._source.close()
        attempt = 0
        while not self._stop.wait(self._back_off_s[min(attempt, len(self._back_off_s) - 1)]):
            attempt += 1
            self.counts.attempts += 1
            try:
                self._source = self._reopen()
            except StreamError:
                continue
            self.counts.reconnects += 1
            self.counts.outage_s += time.perf_counter() - lost_s
            return
