"""When a stream that does not wait is learned from: in the frame's own time, or in the slack before the next frame."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from online_uda.adaptation.method import SteppedMethod
from online_uda.adaptation.pieces import FULL, Effort
from online_uda.adaptation.trigger.base import Decision
from online_uda.networks.segmenter import Segmentation
from online_uda.runtime.clock import StreamClock
from online_uda.runtime.cost_model import CostModel, Stopwatch, choose_effort
from online_uda.runtime.learner import LearnedStep, Learner

PATIENCE_FRAMES = 8
"""A step that would be spread over more frames than this is shortened: what it teaches would come too late."""
MARGIN_MS = 1.0
"""Slack that is left alone before every arrival."""
TIRED = 3
"""Fresh frames in whose slack a piece has not fitted before its step is given up."""


class LearningMode(Protocol):
    """Runs a method's learning beside a stream."""

    def predict(self, frames: Tensor) -> Segmentation:
        """Answers with the newest published weights."""
        ...

    @property
    def predict_stage(self) -> str:
        """What a prediction that begins now is timed as."""
        ...

    def show(self, index: int, frames: Tensor, prediction: Segmentation, until_s: float = math.inf) -> Decision | None:
        """A frame has been answered; what the trigger said to it, where that is known at once.

        Args:
            index: Stream index of the frame.
            frames: ``(1, 3, H, W)`` float32 RGB in [0, 1].
            prediction: What was said to it.
            until_s: When the next frame arrives, on the stream's clock.
        """
        ...

    def use_slack(self, until_s: float) -> None:
        """Nothing else is to be done before ``until_s``; returns before that or a little later."""
        ...

    def collect(self) -> list[LearnedStep]:
        """Steps that were finished and published since the last call."""
        ...

    def detections(self) -> list[int]:
        """Frames at which a change was announced since the last call."""
        ...

    def hold(self, hold: bool) -> None:
        """Whether no further step may begin."""
        ...

    @property
    def settled(self) -> bool:
        """Whether no step is in flight, so that the method can be saved."""
        ...

    @property
    def given_up(self) -> int:
        """Steps that were begun and not finished so far."""
        ...

    def figures(self) -> dict[str, Any]:
        """What the mode adds to the summary."""
        ...

    def close(self) -> None:
        """Ends what runs beside the stream."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What later frames depend on beside the method; asked for when settled."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        ...


def overlap_slowdown(model: CostModel) -> dict[str, Any]:
    """Entry of the summary: how much slower frames are answered while a worker works beside them."""
    alone, beside = model.likely_ms("predict"), model.likely_ms("predict.overlapped")
    return {"overlap_slowdown": beside / alone if alone and beside else None}


class Outbox:
    """Steps and detections of a mode, until the pace asks for them."""

    def __init__(self) -> None:
        self._done: list[LearnedStep] = []
        self._detected: list[int] = []

    def collect(self) -> list[LearnedStep]:
        """See `LearningMode.collect`."""
        done, self._done = self._done, []
        return done

    def detections(self) -> list[int]:
        """See `LearningMode.detections`."""
        found, self._detected = self._detected, []
        return found


class _InThread(Outbox):
    """What the modes have in common that learn in the thread of the stream.

    Args:
        method: Predicts and learns.
        watch: Times the stages.
    """

    predict_stage = "predict"

    def __init__(self, method: SteppedMethod, watch: Stopwatch) -> None:
        self._method, self._watch = method, watch
        self._learner = Learner(method, watch, self._effort)
        super().__init__()

    def _effort(self) -> Effort | None:
        return FULL

    def predict(self, frames: Tensor) -> Segmentation:
        """See `LearningMode.predict`."""
        return self._method.predict(frames)

    def show(self, index: int, frames: Tensor, prediction: Segmentation, until_s: float = math.inf) -> Decision | None:
        """See `LearningMode.show`."""
        decision = self._learner.show(index, frames, prediction)
        if decision.detected:
            self._detected.append(index)
        return decision

    def use_slack(self, until_s: float) -> None:
        """See `LearningMode.use_slack`."""

    def hold(self, hold: bool) -> None:
        """See `LearningMode.hold`."""
        self._learner.hold(hold)

    @property
    def settled(self) -> bool:
        """See `LearningMode.settled`."""
        return self._learner.settled

    @property
    def given_up(self) -> int:
        """See `LearningMode.given_up`."""
        return self._learner.given_up

    def figures(self) -> dict[str, Any]:
        """See `LearningMode.figures`."""
        return {}

    def close(self) -> None:
        """See `LearningMode.close`."""

    def state_dict(self) -> dict[str, Any]:
        """See `LearningMode.state_dict`."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `LearningMode.load_state_dict`."""


class SyncLearning(_InThread):
    """A frame is learned from at once and in one go, whatever comes meanwhile."""

    def show(self, index: int, frames: Tensor, prediction: Segmentation, until_s: float = math.inf) -> Decision | None:
        """See `LearningMode.show`; returns when the step is done."""
        decision = super().show(index, frames, prediction, until_s)
        while self._learner.next_stage() is not None:
            step = self._learner.run()
            if step is not None:
                self._done.append(step)
        return decision


class InterleavedLearning(_InThread):
    """Pieces of a step run where they fit into the slack before the next frame, and nowhere else; so does watching.

    A piece fits when the largest of its recent costs does. A step of which some piece would fit no slack, or that would
    take too many frames, is shortened before it begins, or skipped. Weights on their way home wait for slack as well,
    but where `TIRED` frames have had none they go all the same: a late mask is better than many wrong ones.

    Args:
        method: Predicts and learns.
        watch: Times the stages; its cost model decides.
        clock: Of the stream.
        period_s: Seconds from one arrival to the next.
    """

    def __init__(self, method: SteppedMethod, watch: Stopwatch, clock: StreamClock, period_s: float) -> None:
        super().__init__(method, watch)
        self._clock, self._period_s = clock, period_s
        self._refused: tuple[str, int] = ("", 0)
        self._unwatched = 0

    def show(self, index: int, frames: Tensor, prediction: Segmentation, until_s: float = math.inf) -> Decision | None:
        """See `LearningMode.show`; a frame is left unwatched where watching would make the next one wait."""
        if self._watch.model.likely_ms("detect") > 1000.0 * (until_s - self._clock.now_s()):
            self._unwatched += 1
            return None
        return super().show(index, frames, prediction, until_s)

    def figures(self) -> dict[str, Any]:
        """See `LearningMode.figures`: frames for whose watching there was no time."""
        return {"unwatched": self._unwatched}

    def _effort(self) -> Effort | None:
        model = self._watch.model
        taken_ms = model.likely_ms("predict") + model.likely_ms("detect") + MARGIN_MS
        return choose_effort(model, self._method.efforts, 1000.0 * self._period_s - taken_ms, PATIENCE_FRAMES)

    def use_slack(self, until_s: float) -> None:
        """See `LearningMode.use_slack`."""
        fresh = True
        while (stage := self._learner.next_stage()) is not None:
            left_ms = 1000.0 * (until_s - self._clock.now_s()) - MARGIN_MS
            if self._watch.model.safe_ms(stage) > left_ms and not (fresh and self._refuse(stage)):
                return
            fresh = False
            step = self._learner.run()
            if step is not None:
                self._done.append(step)

    def _refuse(self, stage: str) -> bool:
        """A whole frame's slack was too short for ``stage``: was it one bad lap, or is the step too large?

        Returns:
            Whether it is to be run nevertheless.
        """
        self._watch.model.doubt(stage)
        times = self._refused[1] + 1 if self._refused[0] == stage else 1
        self._refused = (stage, times)
        if times < TIRED:
            return False
        self._refused = ("", 0)
        self._learner.give_up()
        return self._learner.overdue

    def state_dict(self) -> dict[str, Any]:
        """See `LearningMode.state_dict`."""
        return {"refused": list(self._refused), "unwatched": self._unwatched}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `LearningMode.load_state_dict`."""
        self._refused = (str(state["refused"][0]), int(state["refused"][1]))
        self._unwatched = int(state["unwatched"])
