"""How a run goes through time. Here: without any deadline, every frame is learned from before the next one comes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Protocol

from online_uda.adaptation.method import Method, MindsCosts
from online_uda.evaluation.on_time import FIELDS
from online_uda.reports.record import FrameRecord
from online_uda.runtime.clock import Clock
from online_uda.runtime.scoring import Scorer, to_tensor
from streams.frame import Frame, StreamItem, Truth


class Pace(Protocol):
    """Takes a stream's items one by one: predicts, scores and learns when its rules say so."""

    @property
    def settled(self) -> bool:
        """Whether the run may be saved between this item and the next; False asks for patience."""
        ...

    def off_clock(self) -> AbstractContextManager[None]:
        """Around what no camera would see: the making of a frame, and reports."""
        ...

    def take(self, item: StreamItem, *, save_soon: bool) -> FrameRecord:
        """One tick of the stream, to the moment the next one is due.

        Args:
            item: A frame with its truth, or a fault.
            save_soon: A snapshot is due: come to a point where `settled` holds.
        """
        ...

    def figures(self) -> dict[str, Any]:
        """Entries of the summary that only this pace can fill."""
        ...

    def close(self) -> None:
        """Ends whatever runs beside the stream; called once, also after an error."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What later frames depend on beside method, scores and latencies."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        ...


class Untimed:
    """The stream waits: frames are predicted and learned from on the clock; what was predicted is scored off it.

    Args:
        method: Bound to its network.
        scorer: Of the run.
        clock: Times the stages.
    """

    settled = True

    def __init__(self, method: Method, scorer: Scorer, clock: Clock) -> None:
        self._method, self._scorer, self._clock = method, scorer, clock

    def off_clock(self) -> AbstractContextManager[None]:
        """See `Pace.off_clock`."""
        return nullcontext()

    def take(self, item: StreamItem, *, save_soon: bool) -> FrameRecord:
        """See `Pace.take`."""
        return self._scorer.fault(item) if item.frame is None else self._learn_and_score(item.frame, item.truth)

    def _learn_and_score(self, frame: Frame, truth: Truth) -> FrameRecord:
        scorer = self._scorer
        frozen = scorer.ask_frozen(frame, truth)
        with self._clock.measure("predict") as predict:
            frames = to_tensor(frame.image, scorer.device)
            prediction = self._method.predict(frames)
            mask = prediction.labels().cpu().numpy()[0]

        scored = scorer.at_label_size(truth, mask, prediction)
        confidence, sureness = scorer.confidence(prediction), scorer.sureness(prediction, truth)

        with self._clock.measure("adapt") as adapt:
            step = self._method.observe(frames, prediction)

        score, images = scorer.score(frame, truth, scored, frozen(frames, scored))
        images = replace(images, sureness=sureness)
        frame_ms = predict.latency_ms + adapt.latency_ms
        scorer.latency.record("predict", predict.latency_ms, prediction.forwards)
        scorer.latency.record("frame", frame_ms)
        if step.scope is not None and isinstance(self._method, MindsCosts):
            self._method.note_cost(adapt.latency_ms)
        if step.updated:
            scorer.evaluator.note_update()
            scorer.latency.record("adapt", adapt.latency_ms)
        if step.detected:
            scorer.evaluator.note_detection(frame.index)
        return FrameRecord(
            frame.index, truth.domain, truth.visit, frame.timestamp_s, None,
            score.miou, score.miou_frozen, score.visit_miou, score.visit_miou_frozen, score.agreement,
            signal=step.signal, detected=step.detected, updated=step.updated, scope=step.scope, lr=step.learning_rate,
            losses=step.losses, predict_ms=predict.latency_ms, forwards=prediction.forwards,
            adapt_ms=adapt.latency_ms if step.updated else None, frame_ms=frame_ms, confidence=confidence,
            images=images,
        )  # fmt: skip

    def figures(self) -> dict[str, Any]:
        """See `Pace.figures`; there is no deadline to be missed."""
        return dict.fromkeys((*FIELDS, "on_time"))

    def close(self) -> None:
        """See `Pace.close`."""

    def state_dict(self) -> dict[str, Any]:
        """See `Pace.state_dict`."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Pace.load_state_dict`."""
