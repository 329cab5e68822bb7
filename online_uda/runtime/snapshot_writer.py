"""Snapshots written beside the stream: a camera that does not wait must not wait for the disk either."""

from __future__ import annotations

import copy
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from online_uda.runtime.snapshot import RunState, write_snapshot


class SnapshotWriter:
    """Writes one snapshot at a time; a disk that is full does not end a run, and the snapshots before stay.

    Args:
        folder: Where they go.
        beside: Whether they are written in a thread of their own, from a copy of the state.
    """

    def __init__(self, folder: Path, *, beside: bool) -> None:
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, "snapshot") if beside else None
        self._pending: Future[bool] | None = None
        self.failures = 0

    def write(self, state: RunState) -> bool:
        """Writes a snapshot, or begins to, after the one before is done.

        Returns:
            Whether it is on the disk or on its way there.
        """
        if self._thread is None:
            return self._write(state)
        self.wait()
        # The method's state is a copy already; the others are their owners' own.
        apart = replace(
            state, evaluator=copy.deepcopy(state.evaluator), latency=copy.deepcopy(state.latency),
            pace=copy.deepcopy(state.pace),
        )  # fmt: skip
        self._pending = self._thread.submit(self._write, apart)
        return True

    def wait(self) -> bool:
        """Waits for the snapshot that is being written; whether it came to be, True without one."""
        pending, self._pending = self._pending, None
        return pending is None or pending.result()

    def close(self) -> bool:
        """`wait`, and ends the thread."""
        written = self.wait()
        if self._thread is not None:
            self._thread.shutdown()
        return written

    def _write(self, state: RunState) -> bool:
        try:
            write_snapshot(self._folder, state)
        except OSError as error:
            self.failures += 1
            print(f"warning: no snapshot at frame {state.next_frame}: {error}; the run goes on", file=sys.stderr)
            return False
        return True
