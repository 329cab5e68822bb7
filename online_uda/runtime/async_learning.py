"""Learning beside the stream: a worker that watches and learns while frames are answered, and publishes in between.

There are two of them with the same rules. One is a thread; the other plays the same thing on a simulated clock, in the
thread of the stream, so that what happens depends on the costs alone.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from online_uda.adaptation.method import SteppedMethod
from online_uda.adaptation.pieces import Effort
from online_uda.networks.segmenter import Segmentation
from online_uda.runtime.clock import RealClock, SimulatedClock
from online_uda.runtime.cost_model import CostModel, Stopwatch, choose_effort
from online_uda.runtime.learner import Learner
from online_uda.runtime.learning_modes import PATIENCE_FRAMES, Outbox

MAILBOX = 8
"""Frames that wait to be watched; a worker that is further behind misses the oldest."""
_JOIN_S = 60.0
_GLANCE_S = 0.005
Mail = tuple[int, Tensor, Segmentation, float]


class _Beside(Outbox):
    """What both workers have in common.

    Args:
        method: Learns; its predictor holds weights of its own, so that a step may change the deployed ones at any time.
        watch: Times the worker's stages.
        period_s: Seconds from one arrival to the next.
    """

    def __init__(self, method: SteppedMethod, watch: Stopwatch, period_s: float) -> None:
        self._method, self._watch = method, watch
        self._whole_ms = 1000.0 * PATIENCE_FRAMES * period_s
        self._learner = Learner(method, watch, self._effort)
        self._mail: deque[Mail] = deque(maxlen=MAILBOX)
        super().__init__()

    def _effort(self) -> Effort | None:
        # No piece has to fit anywhere; the step must only not come too late.
        return choose_effort(self._watch.model, self._method.efforts, self._whole_ms, 1)

    def _open(self, mail: Mail) -> None:
        index, frames, prediction, _ = mail
        if self._learner.show(index, frames, prediction).detected:
            self._detected.append(index)

    @property
    def given_up(self) -> int:
        """See `LearningMode.given_up`."""
        return self._learner.given_up

    def figures(self) -> dict[str, Any]:
        """See `LearningMode.figures`: how much slower frames are answered while the worker works."""
        model: CostModel = self._watch.model
        alone, beside = model.likely_ms("predict"), model.likely_ms("predict.overlapped")
        return {"overlap_slowdown": beside / alone if alone and beside else None}


class AsyncLearning(_Beside):
    """The worker as a thread, with threads of torch and a CUDA stream of its own.

    While the stream's clock stands, what the worker does is time that no camera would have given it: it rests as long
    afterwards.

    Args:
        method: See `_Beside`.
        watch: See `_Beside`.
        clock: Of the stream.
        period_s: See `_Beside`.
        threads: CPU threads of the worker.
        device: Where the method is.
    """

    def __init__(
        self,
        method: SteppedMethod,
        watch: Stopwatch,
        clock: RealClock,
        period_s: float,
        *,
        threads: int,
        device: torch.device,
    ) -> None:
        super().__init__(method, watch, period_s)
        self._clock, self._threads, self._device = clock, threads, device
        self._turn = threading.Condition()
        self._busy = self._stopping = False
        self._error: BaseException | None = None
        self._worker = threading.Thread(target=self._work, name="learning", daemon=True)

    @property
    def predict_stage(self) -> str:
        """See `LearningMode.predict_stage`."""
        return "predict.overlapped" if self._busy else "predict"

    def predict(self, frames: Tensor) -> Segmentation:
        """See `LearningMode.predict`."""
        return self._method.predict(frames)

    def show(self, index: int, frames: Tensor, prediction: Segmentation) -> None:
        """See `LearningMode.show`; what the trigger says comes with `detections`."""
        with self._turn:
            if self._error is not None:
                raise self._error
            if self._worker.ident is None:
                self._worker.start()
            self._mail.append((index, frames, prediction, self._clock.now_s()))
            self._turn.notify()

    def use_slack(self, until_s: float) -> None:
        """See `LearningMode.use_slack`; the worker goes on meanwhile."""
        while (now_s := self._clock.now_s()) < until_s and not (self._learner.holding and self.settled):
            self._clock.wait_until(min(until_s, now_s + _GLANCE_S) if self._learner.holding else until_s)

    def hold(self, hold: bool) -> None:
        """See `LearningMode.hold`."""
        with self._turn:
            self._learner.hold(hold)
            self._turn.notify()

    @property
    def settled(self) -> bool:
        """See `LearningMode.settled`."""
        with self._turn:
            return not self._busy and not self._mail and not self._learner.in_flight

    def _work(self) -> None:
        torch.set_num_threads(self._threads)
        stream: AbstractContextManager[Any] = nullcontext()
        if self._device.type == "cuda":
            stream = torch.cuda.stream(torch.cuda.Stream(self._device))
        try:
            with stream:
                while self._turn_taken():
                    self._take_turn()
        except BaseException as error:
            self._error = error
        finally:
            with self._turn:
                self._busy = False

    def _turn_taken(self) -> bool:
        """Waits for work; False when there will be no more."""
        with self._turn:
            self._busy = False
            while not self._stopping and not self._mail and self._learner.next_stage() is None:
                self._turn.wait()
            self._busy = True
            return not self._stopping

    def _take_turn(self) -> None:
        """Watches what has come, then does one piece."""
        began_s, began = time.perf_counter(), self._clock.now_s()
        while self._mail:
            self._open(self._mail.popleft())
        if self._learner.next_stage() is not None:
            step = self._learner.run()
            if step is not None:
                self._done.append(step)
        # More on the wall than on the clock: the clock stood meanwhile.
        owed_s = (time.perf_counter() - began_s) - (self._clock.now_s() - began)
        self._clock.wait_until(self._clock.now_s() + max(0.0, owed_s))

    def close(self) -> None:
        """See `LearningMode.close`; a step in flight is given up."""
        with self._turn:
            self._stopping = True
            self._turn.notify()
        if self._worker.ident is not None:
            self._worker.join(_JOIN_S)
        self._learner.give_up()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def state_dict(self) -> dict[str, Any]:
        """See `LearningMode.state_dict`."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `LearningMode.load_state_dict`."""


@dataclass(frozen=True, slots=True)
class _Begun:
    """A stage that the simulated worker is at: watching the oldest frame in the mail, or a piece of a step."""

    watches: bool
    begin_s: float
    end_s: float


class SimulatedAsyncLearning(_Beside):
    """The worker on a simulated clock: a piece is done when the stream's time has come to its end.

    Args:
        method: See `_Beside`.
        watch: See `_Beside`; a stopwatch on a clock beside the stream's is made from it.
        clock: Of the stream.
        period_s: See `_Beside`.
    """

    def __init__(self, method: SteppedMethod, watch: Stopwatch, clock: SimulatedClock, period_s: float) -> None:
        self._clock, self._own = clock, clock.beside()
        super().__init__(method, Stopwatch(self._own, watch.model), period_s)
        self._begun: _Begun | None = None

    @property
    def predict_stage(self) -> str:
        """See `LearningMode.predict_stage`."""
        self._work(self._clock.now_s())
        return "predict" if self._begun is None else "predict.overlapped"

    def predict(self, frames: Tensor) -> Segmentation:
        """See `LearningMode.predict`."""
        return self._method.predict(frames)

    def show(self, index: int, frames: Tensor, prediction: Segmentation) -> None:
        """See `LearningMode.show`."""
        now_s = self._clock.now_s()
        self._work(now_s)
        self._mail.append((index, frames, prediction, now_s))

    def use_slack(self, until_s: float) -> None:
        """See `LearningMode.use_slack`."""
        self._work(until_s)

    def hold(self, hold: bool) -> None:
        """See `LearningMode.hold`."""
        self._learner.hold(hold)

    @property
    def settled(self) -> bool:
        """See `LearningMode.settled`."""
        return not self._mail and not self._learner.in_flight

    def _begin(self) -> _Begun | None:
        """The worker's next stage: a frame to watch before a piece of a step; None without work."""
        if self._mail:
            stage, begin_s = "detect", max(self._mail[0][3], self._own.now_s())
        else:
            piece = self._learner.next_stage()
            if piece is None:
                return None
            stage, begin_s = piece, self._own.now_s()
        return _Begun(bool(self._mail), begin_s, begin_s + self._own.peek_ms(stage) / 1000.0)

    def _work(self, until_s: float) -> None:
        """Everything that is done by ``until_s``."""
        while True:
            self._begun = self._begun or self._begin()
            if self._begun is None:
                self._own.wait_until(until_s)
                return
            if self._begun.end_s > until_s:
                return
            begun, self._begun = self._begun, None
            self._own.wait_until(begun.begin_s)
            if begun.watches:
                self._open(self._mail.popleft())
            else:
                step = self._learner.run()
                if step is not None:
                    self._done.append(step)

    def close(self) -> None:
        """See `LearningMode.close`."""
        self._learner.give_up()

    def state_dict(self) -> dict[str, Any]:
        """See `LearningMode.state_dict`."""
        return {"worker_s": self._own.now_s()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `LearningMode.load_state_dict`."""
        self._own.wait_until(float(state["worker_s"]))
