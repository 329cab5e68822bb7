"""Runs of one stream, played many times; and a real clock that times by CPU time."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks._remembered import RememberedSource, RememberedStream
from online_uda.config import RunConfig
from online_uda.evaluation.latency import Lap
from online_uda.inputs import open_inputs
from online_uda.resolve import resolve
from online_uda.run import start
from online_uda.runtime.clock import RealClock


class Player:
    """Plays runs of the same stream and source images.

    Args:
        root: Of the run folders.
        options: Of the command line.
    """

    def __init__(self, root: Path, options: argparse.Namespace) -> None:
        self.root, self._options = root, options
        self._streams: dict[int | None, RememberedStream] = {}
        self._source: RememberedSource | None = None

    def play(self, name: str, **changes: Any) -> dict[str, Any]:
        """One run; its summary."""
        options = self._options
        config = RunConfig.model_validate(
            {
                "schedule": options.schedule, "method": options.method, "network": options.network,
                "source": options.source, "frames": options.frames, "size": options.size, "seed": options.seed,
                "device": "cpu", "precision": options.precision, "backend": options.backend, "threads": options.threads,
                "beside": False, "tensorboard": False, "snapshot_every": 100_000, **changes,
            }
        )  # fmt: skip
        inputs = open_inputs(resolve(config))
        if config.frames not in self._streams:
            print("drawing frames ...", file=sys.stderr, flush=True)
            self._streams[config.frames] = RememberedStream(inputs.stream)
        if inputs.source is not None:
            self._source = self._source or RememberedSource(inputs.source)
        stream: Any = self._streams[config.frames]
        inputs = replace(inputs, stream=stream, source=None if inputs.source is None else self._source)
        begun = time.monotonic()
        summary = start(inputs, self.root / name, console=False, argv=sys.argv).run()
        print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
        return summary


@contextmanager
def cpu_time(wanted: bool) -> Iterator[None]:
    """Lets the real clock time stages by the CPU time of the thread that they run in."""

    @contextmanager
    def measure(_: RealClock, stage: str) -> Iterator[Lap]:
        lap, begun = Lap(), time.thread_time()
        yield lap
        lap.latency_ms = 1000.0 * (time.thread_time() - begun)

    by_wall = RealClock.measure
    if wanted:
        RealClock.measure = measure  # type: ignore[method-assign]
    try:
        yield
    finally:
        RealClock.measure = by_wall  # type: ignore[method-assign]


@contextmanager
def without_waiting() -> Iterator[None]:
    """Lets the real clock jump over the time until the next frame, where nobody works in it any more."""

    def jump(clock: RealClock, moment_s: float) -> None:
        clock._held_s -= max(0.0, moment_s - clock.now_s())

    waiting = RealClock.wait_until
    RealClock.wait_until = jump  # type: ignore[method-assign]
    try:
        yield
    finally:
        RealClock.wait_until = waiting  # type: ignore[method-assign]
