"""A stream that does not wait: every mask is due a budget after its frame has arrived (specs/protocols.md 2.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import cv2
import numpy as np
import torch

from online_uda.adaptation.pieces import FULL
from online_uda.evaluation.domain_metrics import overall_miou
from online_uda.evaluation.on_time import OnTimeScore
from online_uda.reports.record import FrameRecord
from online_uda.runtime.camera import BareTimeline, Camera, Held, MaskShelf
from online_uda.runtime.clock import StreamClock
from online_uda.runtime.cost_model import Stopwatch
from online_uda.runtime.learner import LearnedStep
from online_uda.runtime.learning_modes import LearningMode
from online_uda.runtime.scoring import Mask, Scorer, to_tensor
from streams.frame import Frame, StreamItem, Truth


class OnTime:
    """Plays a stream at a camera's rate: predict by the deadline, learn as the mode says, score what the user holds.

    A frame is scored by the mask that is at hand at its deadline: its own, or an older one where that is late. A frame
    is dropped when a newer one has arrived before it could be begun. The frozen network plays the same camera on a
    timeline of its own with nothing but predictions. The clock stands while frames are made, scored and reported.

    Args:
        mode: Predicts, and learns in its way.
        scorer: Of the run.
        clock: Of the stream.
        watch: Times the stages on it.
        camera: Rate and budget.
        total: Frames of the stream; None where it has no known end.
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
        total: int | None,
        about: Mapping[str, Any],
        at_end: Callable[[], None],
    ) -> None:
        self._mode, self._scorer, self._clock, self._watch = mode, scorer, clock, watch
        self._fps, self._budget_s, self._about = camera.fps, camera.budget_s, dict(about)
        self._total = math.inf if total is None else total
        self._at_end = at_end
        self._camera: Camera | None = None
        self._stream_s: float | None = None
        self._shelf: MaskShelf[Mask] = MaskShelf()
        self._bare: MaskShelf[Mask] = MaskShelf()
        self._timeline = BareTimeline()
        self._given_up_before = 0
        self.score = OnTimeScore()

    @property
    def settled(self) -> bool:
        """See `Pace.settled`: a step in flight cannot be saved."""
        return self._mode.settled

    def off_clock(self) -> AbstractContextManager[None]:
        """See `Pace.off_clock`."""
        return self._clock.stopped()

    def take(self, item: StreamItem, *, save_soon: bool) -> FrameRecord:
        """See `Pace.take`."""
        camera = self._started(item.index)
        self._mode.hold(save_soon)
        if item.frame is None:
            self._clock.wait_until(camera.arrival_s(item.index))
            self._mode.use_slack(camera.arrival_s(item.index + 1))
            self._note_learned(item.index)
            return self._scorer.fault(item)
        self.score.frames += 1
        last = item.index + 1 >= self._total
        if not last and self._clock.now_s() >= camera.arrival_s(item.index + 1):
            return self._drop(camera, item.frame, item.truth)
        return self._answer(camera, item.frame, item.truth, last)

    def _started(self, index: int) -> Camera:
        """The camera on the clock: it starts with the first frame taken, and goes on where a saved run stood."""
        if self._camera is None:
            elapsed_s = index / self._fps if self._stream_s is None else self._stream_s
            self._camera = Camera(self._fps, self._budget_s, self._clock.now_s() - elapsed_s)
            if self._stream_s is not None:
                self._move_masks(self._camera.origin_s)
        return self._camera

    def _answer(self, camera: Camera, frame: Frame, truth: Truth, last: bool) -> FrameRecord:
        clock, scorer, index = self._clock, self._scorer, frame.index
        arrival_s = camera.arrival_s(index)
        clock.wait_until(arrival_s)
        with self._watch.measure(self._mode.predict_stage) as predict:
            frames = to_tensor(frame.image, scorer.device)
            prediction = self._mode.predict(frames)
            mask = prediction.labels().cpu().numpy()[0]
        finished_s = clock.now_s()

        with clock.stopped():
            own = scorer.at_label_size(truth, mask, prediction)
            self._shelf.put(index, own, finished_s)
            self._play_bare(camera, index, last, scorer.frozen_mask(frames, own))
            late = finished_s > camera.deadline_s(index)
            self.score.late += late
            record = self._scored(camera, frame, truth, own.shape)
            confidence = scorer.confidence(prediction)

        watched = self._mode.show(index, frames, prediction, camera.arrival_s(index + 1))
        self._mode.use_slack(camera.arrival_s(index + 1))
        steps = self._note_learned(index)
        latency_ms = 1000.0 * (finished_s - arrival_s)
        scorer.latency.record("predict", predict.latency_ms, prediction.forwards)
        scorer.latency.record("frame", latency_ms)
        report = steps[-1].report if steps else None
        updated = any(step.report.updated for step in steps)
        return record(
            signal=None if watched is None else watched.signal, detected=watched is not None and watched.detected,
            updated=updated, scope=None if report is None else report.scope,
            lr=None if report is None else report.learning_rate, losses={} if report is None else report.losses,
            predict_ms=predict.latency_ms, forwards=prediction.forwards,
            adapt_ms=sum(step.cost_ms for step in steps) if updated else None,
            frame_ms=latency_ms, late=late, confidence=confidence,
        )  # fmt: skip

    def _drop(self, camera: Camera, frame: Frame, truth: Truth) -> FrameRecord:
        self.score.dropped += 1
        with self._clock.stopped():
            size = frame.image.shape[:2] if truth.label is None else truth.label.shape
            blank = np.zeros(size, np.uint8)
            bare = self._scorer.frozen_mask(to_tensor(frame.image, self._scorer.device), blank)
            self._play_bare(camera, frame.index, False, bare)
            record = self._scored(camera, frame, truth, blank.shape)
        steps = self._note_learned(frame.index)
        return record(dropped=True, updated=any(step.report.updated for step in steps))

    def _play_bare(self, camera: Camera, index: int, last: bool, mask: Mask) -> None:
        finished_s = self._timeline.take(camera, index, self._watch.model.likely_ms("predict"), last=last)
        if finished_s is not None:
            self._bare.put(index, mask, finished_s)

    def _scored(self, camera: Camera, frame: Frame, truth: Truth, size: tuple[int, ...]) -> Callable[..., FrameRecord]:
        """Scores what is at hand at the frame's deadline; the rest of the record is given later."""
        deadline_s = camera.deadline_s(frame.index)
        held = self._shelf.at(deadline_s)
        bare = held if self._scorer.is_frozen else self._bare.at(deadline_s)
        mask = _at_size(held, size)
        score, images = self._scorer.score(frame, truth, mask, mask if bare is held else _at_size(bare, size))

        def record(**rest: Any) -> FrameRecord:
            return FrameRecord(
                frame.index, truth.domain, truth.visit, frame.timestamp_s, None,
                score.miou, score.miou_frozen, score.visit_miou, score.visit_miou_frozen, score.agreement,
                mask_of=None if held is None else held.frame, images=images, **rest,
            )  # fmt: skip

        return record

    def _note_learned(self, index: int) -> list[LearnedStep]:
        """Books the steps that have been published since frame ``index`` was answered."""
        steps = self._mode.collect()
        for step in steps:
            if step.report.updated:
                self._scorer.evaluator.note_update()
                self._scorer.latency.record("adapt", step.cost_ms)
                self.score.adapted += step.report.scope is not None
                self.score.note_published(index - step.frame)
            self.score.skipped += step.effort is None
            self.score.shortened += step.effort not in (None, FULL)
        for frame in self._mode.detections():
            self._scorer.evaluator.note_detection(frame)
        self.score.given_up = self._given_up_before + self._mode.given_up
        return steps

    def figures(self) -> dict[str, Any]:
        """See `Pace.figures`."""
        streaming, _ = overall_miou(self._scorer.evaluator.visits)
        model = self._watch.model
        costs_ms = {stage: model.likely_ms(stage) for stage in ("predict", "detect")}
        costs_ms["step"] = model.step_ms(FULL)
        details = {**self._about, **self.score.details(), **self._mode.figures(), "costs_ms": costs_ms}
        return {**self.score.figures(streaming), "on_time": details}

    def close(self) -> None:
        """See `Pace.close`."""
        self._mode.close()
        self._at_end()

    def state_dict(self) -> dict[str, Any]:
        """See `Pace.state_dict`."""
        origin_s = 0.0 if self._camera is None else self._camera.origin_s
        return {
            "stream_s": None if self._camera is None else self._clock.now_s() - origin_s,
            "clock": self._clock.state_dict(),
            "costs": self._watch.model.state_dict(),
            "score": self.score.state_dict(),
            "mode": self._mode.state_dict(),
            "bare_until_s": self._timeline.busy_until_s - origin_s,
            "masks": [_packed(shelf, origin_s) for shelf in (self._shelf, self._bare)],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Pace.load_state_dict`; the camera starts anew with the next frame."""
        self._stream_s = state["stream_s"]
        self._clock.load_state_dict(state["clock"])
        self._watch.model.load_state_dict(state["costs"])
        self.score.load_state_dict(state["score"])
        self._given_up_before = self.score.given_up
        self._mode.load_state_dict(state["mode"])
        self._timeline = BareTimeline(float(state["bare_until_s"]))
        for shelf, saved in zip((self._shelf, self._bare), state["masks"], strict=True):
            shelf.restore([Held(int(frame), mask.numpy().copy(), float(at)) for frame, mask, at in saved])

    def _move_masks(self, origin_s: float) -> None:
        self._timeline.shift(origin_s)
        for shelf in (self._shelf, self._bare):
            shelf.restore([Held(held.frame, held.mask, held.finished_s + origin_s) for held in shelf.state()])


def _packed(shelf: MaskShelf[Mask], origin_s: float) -> list[list[Any]]:
    return [[held.frame, torch.from_numpy(held.mask.copy()), held.finished_s - origin_s] for held in shelf.state()]


def _at_size(held: Held[Mask] | None, size: tuple[int, ...]) -> Mask:
    """The mask held, brought to ``size``; class 0 everywhere where there is none yet."""
    if held is None:
        return np.zeros(size, np.uint8)
    if held.mask.shape == size:
        return held.mask
    return np.asarray(cv2.resize(held.mask, (size[1], size[0]), interpolation=cv2.INTER_NEAREST), np.uint8)
