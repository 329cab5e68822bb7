"""The clock that a run lives by. Everything timed asks it, so that a simulated or recorded one can take its place."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch

from online_uda.evaluation.latency import Lap
from online_uda.runtime.costs import StageCosts


class Clock(Protocol):
    """Tells the time and what a stage of a frame costs."""

    def now_s(self) -> float:
        """Seconds since an arbitrary moment; never goes back."""
        ...

    def measure(self, stage: str) -> AbstractContextManager[Lap]:
        """Times a block as ``stage``; the lap's ``latency_ms`` is set when the block ends.

        Args:
            stage: Dotted name; a clock that does not look at the wall charges by it.
        """
        ...


class StreamClock(Clock, Protocol):
    """The time of a stream that does not wait: it can be waited for, and stands still for what no camera would see."""

    def wait_until(self, moment_s: float) -> None:
        """Returns at ``moment_s`` of `Clock.now_s`, at once if it has passed."""
        ...

    def stopped(self) -> AbstractContextManager[None]:
        """Holds the time for a block: scoring, drawing, the making of a frame."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on as an uninterrupted one would."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        ...


class RealClock:
    """The wall clock, with the device's queue emptied at both ends of a block.

    Args:
        device: Where the work runs; CUDA answers before it is done, so it is waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._held_s = 0.0
        self._stopped_at: float | None = None
        self._lock = threading.Lock()

    def now_s(self) -> float:
        """See `Clock.now_s`; the time that the clock stood still is left out."""
        with self._lock:
            now = time.perf_counter() if self._stopped_at is None else self._stopped_at
            return now - self._held_s

    @contextmanager
    def measure(self, stage: str) -> Iterator[Lap]:
        """See `Clock.measure`; the stage makes no difference to a wall clock."""
        lap = Lap()
        self._synchronise()
        start = time.perf_counter()
        yield lap
        self._synchronise()
        # Not below 0: a virtual machine that is moved may see its clock step back.
        lap.latency_ms = 1000.0 * max(0.0, time.perf_counter() - start)

    def wait_until(self, moment_s: float) -> None:
        """See `StreamClock.wait_until`."""
        while (left := moment_s - self.now_s()) > 0.0:
            time.sleep(left)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """See `StreamClock.stopped`."""
        with self._lock:
            self._stopped_at = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._held_s += time.perf_counter() - self._stopped_at
                self._stopped_at = None

    def state_dict(self) -> dict[str, Any]:
        """See `StreamClock.state_dict`; the wall has none."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `StreamClock.load_state_dict`."""

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class SimulatedClock:
    """A clock that moves by what stages are said to cost, and by nothing else.

    With constant costs it is a simulation; with the costs of an earlier run it plays that device again, at any frame
    rate and the same every time.

    Args:
        costs: Milliseconds by stage.
    """

    def __init__(self, costs: StageCosts) -> None:
        self._costs = costs
        self._now_s = 0.0

    def now_s(self) -> float:
        """See `Clock.now_s`."""
        return self._now_s

    @contextmanager
    def measure(self, stage: str) -> Iterator[Lap]:
        """See `Clock.measure`."""
        lap = Lap()
        yield lap
        lap.latency_ms = self._costs.take_ms(stage)
        self._now_s += lap.latency_ms / 1000.0

    def peek_ms(self, stage: str) -> float:
        """What ``stage`` would cost now."""
        return self._costs.peek_ms(stage)

    def beside(self) -> SimulatedClock:
        """A clock of the same costs for work that goes on beside this one's, at the same moment."""
        other = SimulatedClock(self._costs)
        other._now_s = self._now_s
        return other

    def wait_until(self, moment_s: float) -> None:
        """See `StreamClock.wait_until`."""
        self._now_s = max(self._now_s, moment_s)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """See `StreamClock.stopped`; nothing moves this clock but costs."""
        yield

    def restart(self) -> None:
        """Back to the first second and the first sample of every stage."""
        self._now_s = 0.0
        self._costs.rewind()

    def state_dict(self) -> dict[str, Any]:
        """See `StreamClock.state_dict`."""
        return {"now_s": self._now_s, "taken": self._costs.positions()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `StreamClock.load_state_dict`."""
        self._now_s = float(state["now_s"])
        self._costs.seek(state["taken"])
