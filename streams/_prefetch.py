"""Makes the items of an iterator ahead of their use, in one background thread with a bounded queue."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
_POLL_S = 0.05


class _End:
    """Last entry of the queue: the iterator is exhausted, or failed with `error`."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Worker(Generic[T]):
    """The thread and its queue; it knows nothing of the `Prefetcher`, whose disappearance can therefore stop it."""

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._items = items
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stream-prefetch", daemon=True)
        self.ready: queue.Queue[T | _End] = queue.Queue(maxsize=depth)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        """Whether the thread was told to end."""
        return self._stop.is_set()

    def tell_to_stop(self) -> None:
        """Asks the thread to end after the item in its hand; returns at once."""
        self._stop.set()

    def stop(self) -> None:
        """Asks the thread to end and waits until it has."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        end = _End(None)
        try:
            for item in self._items:
                if not self._put(item):
                    return
        except BaseException as error:
            end = _End(error)
        finally:
            if isinstance(self._items, Generator):
                self._items.close()
        self._put(end)

    def _put(self, entry: T | _End) -> bool:
        while not self._stop.is_set():
            try:
                self.ready.put(entry, timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False


class Prefetcher(Generic[T]):
    """Iterates over `items` in order while a thread stays at most `depth` items ahead.

    An exception of `items` is raised at its place in the order. The thread ends with the items, at `close`, or soon
    after the prefetcher is no longer referenced.

    Args:
        items: Only the thread touches it from now on.
        depth: Items kept ready, at least 1.
    """

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self.worker: Worker[T] = Worker(items, depth)

    def __iter__(self) -> Prefetcher[T]:
        return self

    def __next__(self) -> T:
        while not self.worker.stopping:
            try:
                entry = self.worker.ready.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if not isinstance(entry, _End):
                return entry
            self.close()
            if entry.error is not None:
                raise entry.error
        raise StopIteration

    def close(self) -> None:
        """Stops the thread and waits for it; further `next` calls end the iteration."""
        self.worker.stop()

    def __enter__(self) -> Prefetcher[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.worker.tell_to_stop()
