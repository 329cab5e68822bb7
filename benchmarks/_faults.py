"""Faults for a running run, injected at the places where they happen, and a report that counts what arrives."""

from __future__ import annotations

import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from online_uda.adaptation import frame_pass
from online_uda.adaptation.recipe import Recipe
from online_uda.reports.record import FrameRecord
from online_uda.runtime import clock as clocks
from online_uda.runtime import runner as runners
from online_uda.runtime import snapshot_writer

KINDS = ("bad_frame", "black", "nan_weights", "memory", "disk", "report", "clock")


class Witness:
    """A report that counts what arrives, and fails at the frame it is told to."""

    name = "witness"

    def __init__(self, fails_at: int | None = None) -> None:
        self.frames = 0
        self._fails_at = fails_at

    def __enter__(self) -> Witness:
        return self

    def write(self, record: FrameRecord) -> None:
        """Counts a record."""
        if self._fails_at is not None and record.frame >= self._fails_at:
            raise OSError(28, "No space left on device")
        self.frames += 1

    def finish(self, summary: dict[str, Any]) -> None:
        """Nothing to add."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to close."""


class Faults:
    """Injects the faults of the frame at hand at the places where they happen."""

    def __init__(self, runner: runners.Runner, plan: dict[int, str], seed: int) -> None:
        self._runner = runner
        self._ahead = {kind: deque(sorted(frame for frame, what in plan.items() if what == kind)) for kind in KINDS}
        self._random = random.Random(seed)
        self._jump_s = 0.0
        self.done: Counter[str] = Counter()
        self.predictions = self.not_finite = 0

    def _due(self, kind: str) -> bool:
        """Whether a fault is due; one whose frame brought no opportunity waits for the next."""
        ahead = self._ahead[kind]
        due = bool(ahead) and ahead[0] <= self._runner.next_frame
        if due:
            ahead.popleft()
        self.done[kind] += due
        return due

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Wraps what can fail, for as long as the block lasts."""
        method, backward, write = self._runner.method, frame_pass.backward_pieces, snapshot_writer.write_snapshot
        assert isinstance(method, Recipe)
        predict, pull, tell = method.predict, method._anchor.pull, time.perf_counter

        def counted(frames: Tensor) -> Any:
            prediction = predict(frames)
            self.predictions += 1
            self.not_finite += not bool(prediction.logits.isfinite().all())
            if self._due("clock"):
                self._jump_s += self._random.uniform(-3600.0, 3600.0)
            return prediction

        def short(*given: Any) -> Any:
            if self._due("memory"):
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return backward(*given)

        def spoilt(share: float) -> bool:
            if self._due("nan_weights"):
                next(method.student.head.parameters()).data.view(-1)[0] = float("nan")
            return pull(share)

        def full(folder: Path, state: Any) -> Path:
            if self._due("disk"):
                raise OSError(28, "No space left on device")
            return write(folder, state)

        method.predict = counted  # type: ignore[method-assign]
        method._anchor.pull = spoilt  # type: ignore[method-assign]
        frame_pass.backward_pieces = short
        snapshot_writer.write_snapshot = full
        clocks.time = _Jumping(tell, lambda: self._jump_s)  # type: ignore[assignment]
        try:
            yield
        finally:
            frame_pass.backward_pieces, snapshot_writer.write_snapshot, clocks.time = backward, write, time


class _Jumping:
    """The time module with a clock that jumps."""

    def __init__(self, tell: Callable[[], float], ahead_s: Callable[[], float]) -> None:
        self.perf_counter = lambda: tell() + ahead_s()
