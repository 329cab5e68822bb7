"""The clock that a run lives by. Everything timed asks it, so that a simulated or recorded clock can take its place."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch

from online_uda.evaluation.latency import Lap


class Clock(Protocol):
    """Tells the time and what a stage of a frame costs."""

    def now_s(self) -> float:
        """Seconds since an arbitrary moment; never goes back."""
        ...

    def measure(self, stage: str) -> AbstractContextManager[Lap]:
        """Times a block as ``stage``; the lap's ``latency_ms`` is set when the block ends.

        Args:
            stage: One of `online_uda.evaluation.latency.STAGES`; a clock that does not look at the wall charges by it.
        """
        ...


class RealClock:
    """The wall clock, with the device's queue emptied at both ends of a block.

    Args:
        device: Where the work runs; CUDA answers before it is done, so it is waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def now_s(self) -> float:
        """See `Clock.now_s`."""
        return time.perf_counter()

    @contextmanager
    def measure(self, stage: str) -> Iterator[Lap]:
        """See `Clock.measure`; the stage makes no difference to a wall clock."""
        lap = Lap()
        self._wait()
        start = time.perf_counter()
        yield lap
        self._wait()
        # Not below 0: a virtual machine that is moved may see its clock step back.
        lap.latency_ms = 1000.0 * max(0.0, time.perf_counter() - start)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
