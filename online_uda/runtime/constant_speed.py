"""The constant-speed stream of Alfarra et al. (ICML 2024): a slow method misses frames, whatever the machine.

"Evaluation of Test-Time Adaptation Under Computational Time Constraints"; specs/protocols.md section 2.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from online_uda.adaptation.method import Method, MindsCosts
from online_uda.evaluation.on_time import FIELDS
from online_uda.reports.record import FrameRecord
from online_uda.runtime.clock import Clock
from online_uda.runtime.scoring import Scorer, to_tensor
from streams.frame import Frame, StreamItem, Truth


def delay_frames(relative_cost: float, eta: float) -> int:
    """Frames that pass unlearned after one that was learned from: ``max(0, ceil(eta * C) - 1)``.

    Args:
        relative_cost: C, the time of a frame with its learning over that of a plain forward pass.
        eta: Speed of the stream over that of the plain forward pass, in (0, 1].
    """
    # A ratio of measured times carries rounding; 1.0 and its neighbours are the same cost.
    return max(0, math.ceil(round(eta * relative_cost, 9)) - 1)


class ConstantSpeed:
    """Predicts every frame; after one that was learned from, as many pass unlearned as its learning has cost.

    Frames that pass are answered by the weights adapted last, as in the published code, which is kind to a slow method.
    The plain forward pass is the frozen network's on the same frame.

    Args:
        method: Bound to its network.
        scorer: Of the run.
        clock: Times the stages.
        eta: Speed of the stream over that of the plain forward pass, in (0, 1]; 1 is the hard setting.
    """

    settled = True

    def __init__(self, method: Method, scorer: Scorer, clock: Clock, eta: float) -> None:
        self._method, self._scorer, self._clock, self._eta = method, scorer, clock, eta
        self._delay = 0
        self._frames = self._learned = self._published = 0

    def off_clock(self) -> AbstractContextManager[None]:
        """See `Pace.off_clock`."""
        return nullcontext()

    def take(self, item: StreamItem, *, save_soon: bool) -> FrameRecord:
        """See `Pace.take`."""
        return self._scorer.fault(item) if item.frame is None else self._answer(item.frame, item.truth)

    def _answer(self, frame: Frame, truth: Truth) -> FrameRecord:
        scorer = self._scorer
        self._frames += 1
        with self._clock.measure("predict") as predict:
            frames = to_tensor(frame.image, scorer.device)
            prediction = self._method.predict(frames)
            mask = prediction.labels().cpu().numpy()[0]
        scored = scorer.at_label_size(truth, mask, prediction)
        with self._clock.measure("predict.frozen") as plain:
            frozen = scorer.plain_mask(frames, scorer.label_size(truth, mask))
        score, images = scorer.score(frame, truth, scored, scored if scorer.is_frozen else frozen)
        scorer.latency.record("predict", predict.latency_ms, prediction.forwards)
        rest: dict[str, Any] = {"forwards": prediction.forwards, "predict_ms": predict.latency_ms}
        rest["frame_ms"] = predict.latency_ms
        if self._delay > 0:
            self._delay -= 1
        else:
            with self._clock.measure("adapt") as adapt:
                step = self._method.observe(frames, prediction)
            self._learned += 1
            if step.scope is not None and isinstance(self._method, MindsCosts):
                self._method.note_cost(adapt.latency_ms)
            cost_ms = predict.latency_ms + adapt.latency_ms
            self._delay = delay_frames(cost_ms / max(plain.latency_ms, 1e-6), self._eta)
            if step.updated:
                self._published += 1
                scorer.evaluator.note_update()
                scorer.latency.record("adapt", adapt.latency_ms)
            if step.detected:
                scorer.evaluator.note_detection(frame.index)
            rest = {
                "predict_ms": predict.latency_ms, "forwards": prediction.forwards, "frame_ms": cost_ms,
                "signal": step.signal, "detected": step.detected, "updated": step.updated, "scope": step.scope,
                "lr": step.learning_rate, "losses": step.losses, "adapt_ms": adapt.latency_ms if step.updated else None,
            }  # fmt: skip
        scorer.latency.record("frame", rest["frame_ms"])
        return FrameRecord(
            frame.index, truth.domain, truth.visit, frame.timestamp_s, None,
            score.miou, score.miou_frozen, score.visit_miou, score.visit_miou_frozen, score.agreement,
            images=images, **rest,
        )  # fmt: skip

    def figures(self) -> dict[str, Any]:
        """See `Pace.figures`: nothing is late or dropped in this protocol, and every frame counts."""
        return {
            **dict.fromkeys(FIELDS),
            "adapted_ratio": self._learned / max(self._frames, 1),
            "published": self._published,
            "on_time": None,
            "constant_speed": {"eta": self._eta, "observed": self._learned},
        }

    def close(self) -> None:
        """See `Pace.close`."""

    def state_dict(self) -> dict[str, Any]:
        """See `Pace.state_dict`."""
        return {
            "delay": self._delay, "frames": self._frames, "learned": self._learned, "published": self._published
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Pace.load_state_dict`."""
        self._delay, self._frames = int(state["delay"]), int(state["frames"])
        self._learned, self._published = int(state["learned"]), int(state["published"])
