"""Makes the items of an iterator ahead of their use, in one background thread with a bounded queue."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
_POLL_S = 0.05


class _End:
    """Last entry of the queue: the iterator is exhausted, or failed with `error`."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Prefetcher(Generic[T]):
    """Iterates over `items` in order while a thread stays at most `depth` items ahead.

    An exception of `items` is raised at its place in the order. The thread ends with the items, at `close`, or when
    the prefetcher is no longer referenced from outside.

    Args:
        items: Only the thread touches it from now on.
        depth: Items kept ready, at least 1.
    """

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._queue: queue.Queue[T | _End] = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._done = False
        # The thread holds the queue and the event but not this object, so that __del__ can still end it.
        self._thread = threading.Thread(
            target=_fill, args=(items, self._queue, self._stop), name="stream-prefetch", daemon=True
        )
        self._thread.start()

    def __iter__(self) -> Prefetcher[T]:
        return self

    def __next__(self) -> T:
        while not self._done:
            try:
                entry = self._queue.get(timeout=_POLL_S)
            except queue.Empty:
                if self._stop.is_set():
                    break
                continue
            if not isinstance(entry, _End):
                return entry
            self.close()
            if entry.error is not None:
                raise entry.error
        raise StopIteration

    def close(self) -> None:
        """Stops the thread and waits for it; further `next` calls end the iteration."""
        self._done = True
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> Prefetcher[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self._stop.set()


def _fill(items: Iterator[T], ready: queue.Queue[T | _End], stop: threading.Event) -> None:
    end = _End(None)
    try:
        for item in items:
            if not _put(item, ready, stop):
                return
    except BaseException as error:
        end = _End(error)
    _put(end, ready, stop)


def _put(entry: T | _End, ready: queue.Queue[T | _End], stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            ready.put(entry, timeout=_POLL_S)
        except queue.Full:
            continue
        return True
    return False
