"""A live stream at a rate: the newest picture is answered at once, and what is left of its time is learned in."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from online_uda.reports.record import FrameRecord
from online_uda.runtime.camera import Camera
from online_uda.runtime.clock import StreamClock
from online_uda.runtime.cost_model import Stopwatch
from online_uda.runtime.learning_modes import LearningMode
from online_uda.runtime.on_time import OnTime
from online_uda.runtime.scoring import Scorer, to_tensor
from streams.frame import Frame, StreamItem, Truth


class LivePace(OnTime):
    """Takes a picture of a live stream ``camera.fps`` times a second, or as often as there is time for.

    Nothing stands still here: comparing with the frozen network and reporting take their share of a picture's time, and
    learning gets the rest. A mask is late when it is finished more than ``camera.budget_s`` after its picture came. A
    tick that passes while the run is busy is a dropped frame; pictures between two ticks are left alone. While the
    source is lost there is no tick, and no further step begins.

    Args:
        mode: Predicts, and learns in its way.
        scorer: Of the run.
        clock: The wall's.
        watch: Times the stages on it.
        camera: Rate and budget.
        arrived_s: When the picture handed out last came, by ``time.perf_counter``.
        about: Entries of the summary that say what was asked for.
        at_end: Called once when the run ends.
    """

    def __init__(
        self,
        mode: LearningMode,
        scorer: Scorer,
        clock: StreamClock,
        watch: Stopwatch,
        camera: Camera,
        arrived_s: Callable[[], float],
        about: Mapping[str, Any],
        at_end: Callable[[], None],
    ) -> None:
        super().__init__(mode, scorer, clock, watch, camera, None, about, at_end)
        self._arrived_s = arrived_s

    def off_clock(self) -> AbstractContextManager[None]:
        """See `Pace.off_clock`: a camera does not wait for reports either."""
        return nullcontext()

    def take(self, item: StreamItem, *, save_soon: bool) -> FrameRecord:
        """See `Pace.take`."""
        if item.frame is None:
            self._mode.hold(True)
            self._note_learned(item.index)
            return self._scorer.fault(item)
        self._mode.hold(save_soon)
        return self._take_picture(item.frame, item.truth)

    def _take_picture(self, frame: Frame, truth: Truth) -> FrameRecord:
        clock, scorer, score = self._clock, self._scorer, self.score
        period_s = 1.0 / self._fps
        began_s = clock.now_s()
        waited_s = max(0.0, time.perf_counter() - self._arrived_s())
        with self._watch.measure(self._mode.predict_stage) as predict:
            frames = to_tensor(frame.image, scorer.device)
            prediction = self._mode.predict(frames)
            mask = prediction.labels().cpu().numpy()[0]
        latency_s = waited_s + clock.now_s() - began_s
        late = latency_s > self._budget_s
        scores, images = scorer.score(frame, truth, mask, scorer.frozen_mask(frames, mask))
        watched = self._mode.show(frame.index, frames, prediction)
        next_s = began_s + period_s
        self._mode.use_slack(next_s)
        missed = max(0, int((clock.now_s() - next_s) / period_s))
        clock.wait_until(next_s)
        score.frames += 1 + missed
        score.dropped += missed
        score.late += late
        steps = self._note_learned(frame.index)
        scorer.latency.record("predict", predict.latency_ms, prediction.forwards)
        scorer.latency.record("frame", 1000.0 * latency_s)
        report = steps[-1].report if steps else None
        updated = any(step.report.updated for step in steps)
        return FrameRecord(
            frame.index, truth.domain, truth.visit, frame.timestamp_s, agreement=scores.agreement,
            signal=None if watched is None else watched.signal, detected=watched is not None and watched.detected,
            updated=updated, scope=None if report is None else report.scope,
            lr=None if report is None else report.learning_rate, losses={} if report is None else report.losses,
            predict_ms=predict.latency_ms, forwards=prediction.forwards,
            adapt_ms=sum(step.cost_ms for step in steps) if updated else None,
            frame_ms=1000.0 * latency_s, late=late, mask_of=frame.index,
            confidence=scorer.confidence(prediction), images=images,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """See `Pace.state_dict`."""
        return {
            "costs": self._watch.model.state_dict(), "score": self.score.state_dict(), "mode": self._mode.state_dict()
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Pace.load_state_dict`."""
        self._watch.model.load_state_dict(state["costs"])
        self.score.load_state_dict(state["score"])
        self._given_up_before = self.score.given_up
        self._mode.load_state_dict(state["mode"])
