"""Learning beside the stream: a worker that watches and learns while frames are answered, and publishes in between.

A worker that dies or hangs is left behind, and another one starts from the state that was published last. Frames are
answered all the while.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from online_uda.adaptation.guards.event import Cause
from online_uda.adaptation.pieces import Effort
from online_uda.networks.segmenter import Segmentation
from online_uda.runtime.clock import RealClock
from online_uda.runtime.cost_model import Stopwatch, choose_effort
from online_uda.runtime.learner import LearnedStep
from online_uda.runtime.learning_modes import PATIENCE_FRAMES, Outbox, overlap_slowdown
from online_uda.runtime.replaceable import Replaceable
from online_uda.runtime.worker import Worker

HUNG_S = 30.0
"""Seconds that a piece of work may take; pieces take tenths of one."""
LONGEST_PAUSE = 1024
"""Frames from one death to the next start, at most: twice as many after every life that taught nothing."""
MOST_HUNG = 3
"""Threads that hang and cannot be ended: with so many, none is started until one wakes up and ends."""
_GLANCE_S = 0.005


class AsyncLearning(Outbox):
    """The worker as a thread, with threads of torch and a CUDA stream of its own (see `LearningMode`).

    Args:
        method: Learns; its predictor holds weights of its own, so that a step may change the deployed ones at any time.
        watch: Times the worker's stages.
        clock: Of the stream.
        period_s: Seconds from one arrival to the next.
        threads: CPU threads of the worker.
        device: Where the method is.
        hung_s: See `HUNG_S`.
    """

    def __init__(
        self,
        method: Replaceable,
        watch: Stopwatch,
        clock: RealClock,
        period_s: float,
        *,
        threads: int,
        device: torch.device,
        hung_s: float = HUNG_S,
    ) -> None:
        super().__init__()
        self._method, self._watch, self._clock = method, watch, clock
        self._whole_ms = 1000.0 * PATIENCE_FRAMES * period_s
        self._threads, self._device, self._hung_s = threads, device, hung_s
        self._worker: Worker | None = None
        self._left_behind: list[Worker] = []
        self._holding = self._closed = False
        self._given_up = self._failures_in_a_row = self._pause = 0
        self.failures: dict[Cause, int] = {"worker died": 0, "worker hung": 0}

    def _effort(self) -> Effort | None:
        # No piece has to fit anywhere; the step must only not come too late.
        return choose_effort(self._watch.model, self._method.efforts, self._whole_ms, 1)

    @property
    def predict_stage(self) -> str:
        """See `LearningMode.predict_stage`."""
        return "predict.overlapped" if self._worker is not None and self._worker.busy else "predict"

    def predict(self, frames: Tensor) -> Segmentation:
        """See `LearningMode.predict`."""
        return self._method.predict(frames)

    def show(self, index: int, frames: Tensor, prediction: Segmentation, until_s: float = math.inf) -> None:
        """See `LearningMode.show`; what the trigger says comes with `detections`."""
        self._look_after()
        if self._worker is None:
            self._pause -= 1
            if self._pause >= 0 or sum(worker.alive for worker in self._left_behind) >= MOST_HUNG:
                return
            self._start()
        assert self._worker is not None
        self._worker.send(index, frames, prediction)

    def _start(self) -> None:
        if self._method.number == 0:
            self._method.keep(0)
        self._worker = Worker(
            self._method, self._method.number, self._watch, self._clock, self._effort,
            threads=self._threads, device=self._device, limit_s=self._hung_s,
        )  # fmt: skip
        self._worker.hold(self._holding)

    def _look_after(self) -> None:
        """Leaves a worker behind that is dead or hangs."""
        worker = self._worker
        if worker is None:
            return
        if not worker.alive:
            self._leave(worker, "worker died", worker.fault())
        elif worker.hangs:
            self._leave(worker, "worker hung", "a piece of work does not end")

    def _leave(self, worker: Worker, cause: Cause, what: str) -> None:
        self.failures[cause] += 1
        self._worker = None
        worker.abandon()
        self._take_out(worker)
        self._given_up += worker.given_up + worker.in_flight
        self._left_behind = [old for old in (*self._left_behind, worker) if old.alive]
        self._pause = min(2**self._failures_in_a_row - 1, LONGEST_PAUSE)
        self._failures_in_a_row += 1
        then = "" if self._closed else f"; another one starts from what was published last, in {self._pause} frames"
        self._method.abandon(cause, f"{what}{then}")

    def _take_out(self, worker: Worker) -> None:
        while worker.steps:
            self._done.append(worker.steps.popleft())
            self._failures_in_a_row = 0
        while worker.detected:
            self._detected.append(worker.detected.popleft())

    def collect(self) -> list[LearnedStep]:
        """See `LearningMode.collect`."""
        if self._worker is not None:
            self._take_out(self._worker)
        return super().collect()

    def detections(self) -> list[int]:
        """See `LearningMode.detections`."""
        if self._worker is not None:
            self._take_out(self._worker)
        return super().detections()

    def use_slack(self, until_s: float) -> None:
        """See `LearningMode.use_slack`; the worker goes on meanwhile."""
        while (now_s := self._clock.now_s()) < until_s and not (self._holding and self.settled):
            if self._holding:
                self._look_after()
            self._clock.wait_until(min(until_s, now_s + _GLANCE_S) if self._holding else until_s)

    def hold(self, hold: bool) -> None:
        """See `LearningMode.hold`."""
        self._holding = hold
        if self._worker is not None:
            self._worker.hold(hold)

    @property
    def settled(self) -> bool:
        """See `LearningMode.settled`."""
        return self._worker is None or (self._worker.alive and self._worker.settled)

    @property
    def given_up(self) -> int:
        """See `LearningMode.given_up`."""
        return self._given_up + (0 if self._worker is None else self._worker.given_up)

    def figures(self) -> dict[str, Any]:
        """See `LearningMode.figures`: the cost of the overlap, and how often a worker was lost."""
        return {
            **overlap_slowdown(self._watch.model),
            "workers_died": self.failures["worker died"],
            "workers_hung": self.failures["worker hung"],
        }

    def close(self) -> None:
        """See `LearningMode.close`; a step in flight is given up."""
        self._closed = True
        worker = self._worker
        if worker is None:
            return
        self._look_after()
        if self._worker is None:
            return
        worker.stop(self._hung_s)
        if worker.alive or worker.error is not None:
            cause: Cause = "worker hung" if worker.alive else "worker died"
            self._leave(worker, cause, "at the end of the run" if worker.alive else worker.fault())

    def state_dict(self) -> dict[str, Any]:
        """See `LearningMode.state_dict`."""
        return {}

    def load_state_dict(self, state: Any) -> None:
        """See `LearningMode.load_state_dict`."""
