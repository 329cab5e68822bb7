"""Learning beside the stream on a simulated clock: what a worker would have done by when, played in one thread.

What happens depends on the costs alone. The rules are those of `online_uda.runtime.async_learning`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from online_uda.adaptation.method import SteppedMethod
from online_uda.adaptation.pieces import Effort
from online_uda.networks.segmenter import Segmentation
from online_uda.runtime.clock import SimulatedClock
from online_uda.runtime.cost_model import Stopwatch, choose_effort
from online_uda.runtime.learner import Learner
from online_uda.runtime.learning_modes import PATIENCE_FRAMES, Outbox, overlap_slowdown
from online_uda.runtime.worker import MAILBOX

Mail = tuple[int, Tensor, Segmentation, float]


@dataclass(frozen=True, slots=True)
class _Begun:
    """A stage that the simulated worker is at: watching the oldest frame in the mail, or a piece of a step."""

    watches: bool
    begin_s: float
    end_s: float


class SimulatedAsyncLearning(Outbox):
    """The worker on a simulated clock: a piece is done when the stream's time has come to its end.

    Args:
        method: See `_Beside`.
        watch: See `_Beside`; a stopwatch on a clock beside the stream's is made from it.
        clock: Of the stream.
        period_s: See `_Beside`.
    """

    def __init__(self, method: SteppedMethod, watch: Stopwatch, clock: SimulatedClock, period_s: float) -> None:
        super().__init__()
        self._method, self._clock, self._own = method, clock, clock.beside()
        self._watch = Stopwatch(self._own, watch.model)
        self._whole_ms = 1000.0 * PATIENCE_FRAMES * period_s
        self._learner = Learner(method, self._watch, self._effort)
        self._mail: deque[Mail] = deque(maxlen=MAILBOX)
        self._begun: _Begun | None = None

    def _effort(self) -> Effort | None:
        return choose_effort(self._watch.model, self._method.efforts, self._whole_ms, 1)

    def _open(self, mail: Mail) -> None:
        index, frames, prediction, _ = mail
        if self._learner.show(index, frames, prediction).detected:
            self._detected.append(index)

    @property
    def predict_stage(self) -> str:
        """See `LearningMode.predict_stage`."""
        self._work(self._clock.now_s())
        return "predict" if self._begun is None else "predict.overlapped"

    def predict(self, frames: Tensor) -> Segmentation:
        """See `LearningMode.predict`."""
        return self._method.predict(frames)

    def show(self, index: int, frames: Tensor, prediction: Segmentation, until_s: float = math.inf) -> None:
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
        return not self._mail and self._learner.settled

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

    @property
    def given_up(self) -> int:
        """See `LearningMode.given_up`."""
        return self._learner.given_up

    def figures(self) -> dict[str, Any]:
        """See `LearningMode.figures`."""
        return overlap_slowdown(self._watch.model)

    def close(self) -> None:
        """See `LearningMode.close`."""
        self._learner.give_up()

    def state_dict(self) -> dict[str, Any]:
        """See `LearningMode.state_dict`."""
        return {"worker_s": self._own.now_s()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `LearningMode.load_state_dict`."""
        self._own.wait_until(float(state["worker_s"]))
