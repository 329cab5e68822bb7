"""Makes a stream's items ahead of their use in worker processes: bounded, in order, and replaceable at any moment.

Every item is a pure function of schedule, seed and index, so that it does not matter who makes it. Until the workers
are up, when one dies, and where one meets a fault, items are made here instead; bytes and faults are the same.
"""

from __future__ import annotations

import fcntl
import logging
import os
import pickle
import select
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from streams._worker import LENGTH, READY, read_message, write_message
from streams.frame import StreamItem
from streams.schedule import Schedule

_LOG = logging.getLogger(__name__)
_ROOT = Path(__file__).resolve().parents[1]
_MOST = 4
_WORTH_PIXELS = 100 * 256 * 512
_PIPE_BYTES = 1 << 20
"""What Linux lets anyone have: a frame or most of one, so that a worker goes on while the run is busy."""
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class WorkerGroup:
    """Processes that each hold the stream; item `index` is worker ``index % count``'s.

    They run in a session of their own, so that Ctrl-C reaches the run alone, and end with their pipes: at `close`, when
    the group is no longer referenced, and when this process dies.

    Args:
        schedule: What is played.
        options: Further arguments of `streams.stream.Stream`.
        count: Number of processes, at least 1.
    """

    def __init__(self, schedule: Schedule, options: dict[str, Any], count: int) -> None:
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": path} | dict.fromkeys(_ONE_THREAD, "1")
        setup = pickle.dumps((schedule, options))
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "streams._worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                env=environment, start_new_session=True,
            )
            for _ in range(count)
        ]  # fmt: skip
        for process in self._processes:
            with suppress(OSError):
                assert process.stdout is not None
                fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self.close = weakref.finalize(self, _end, self._processes)
        self._waiting = set(range(count))
        self.alive = True
        for worker in range(count):
            self._send(worker, setup)

    @property
    def warm(self) -> bool:
        """Whether every worker was seen to have opened the stream."""
        return not self._waiting

    def ready(self) -> bool:
        """Whether every worker has opened the stream; does not wait."""
        for worker in list(self._waiting):
            if self.alive and select.select([self._out(worker)], [], [], 0)[0] and self._receive(worker) == READY:
                self._waiting.discard(worker)
        return self.alive and not self._waiting

    def ask(self, index: int) -> None:
        """Has an item made; returns at once."""
        self._send(index % len(self._processes), LENGTH.pack(index))

    def take(self, index: int) -> StreamItem | None:
        """Waits for an item that was asked for, in the order of asking; None where it has to be made here."""
        reply = self._receive(index % len(self._processes))
        return pickle.loads(reply) if reply else None

    def _send(self, worker: int, message: bytes) -> None:
        pipe = self._processes[worker].stdin
        assert pipe is not None
        try:
            if self.alive:
                write_message(pipe, message)  # type: ignore[arg-type]
        except (OSError, ValueError):
            self._lost()

    def _receive(self, worker: int) -> bytes:
        try:
            return read_message(self._out(worker)) if self.alive else b""  # type: ignore[arg-type]
        except (OSError, ValueError, EOFError):
            self._lost()
            return b""

    def _out(self, worker: int) -> IO[bytes]:
        pipe = self._processes[worker].stdout
        assert pipe is not None
        return pipe

    def _lost(self) -> None:
        if self.close.alive:  # else it was told to end
            _LOG.warning("a worker process of the stream ended; frames are made in the run's own process from here on")
        self.alive = False
        self.close()


def worker_count(pixels: int, frames: int) -> int:
    """How many workers pay: a core is left to the network, and short or small streams have none, which start slowly.

    Args:
        pixels: Of a frame.
        frames: Of the stream.
    """
    if pixels * frames < _WORTH_PIXELS:
        return 0
    return max(1, min(_MOST, core_count() - 1))


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()  # holds nothing that could be lost
    for process in processes:
        process.wait()


def items_ahead(
    group: WorkerGroup, make: Callable[[int], StreamItem], start: int, stop: int, ahead: int
) -> Iterator[StreamItem]:
    """Items `start` to `stop` in order, at most `ahead` of them asked for and not yet taken.

    Args:
        group: The workers; closed at the end.
        make: Makes an item here.
        start: First item.
        stop: One past the last item.
        ahead: Bound on the items under way, at least 1.
    """
    try:
        index = start
        while index < stop and not group.ready():
            yield make(index)
            index += 1
        asked: deque[int] = deque()
        while index < stop or asked:
            while index < stop and len(asked) < ahead:
                group.ask(index)
                asked.append(index)
                index += 1
            wanted = asked.popleft()
            yield group.take(wanted) or make(wanted)
    finally:
        group.close()


def core_count() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
