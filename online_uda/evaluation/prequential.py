"""The scorebook of a run: test first, then train (specs/protocols.md section 1).

The only reader of `Truth`. Adapted and frozen predictions of the same frames fill one confusion matrix each per
domain visit; boundaries, detections, updates and faults are noted beside them so that one state holds the whole score.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from online_uda.evaluation.confusion import (
    Matrix,
    confusion_matrix,
    intersection_union,
    iou_per_class,
    mean_iou,
)
from online_uda.evaluation.history import BUDGET_BYTES, ScoreHistory
from streams.frame import ClassSet, Truth

HARM_MARGIN = 1.0
"""Points below frozen from which a frame or a visit counts as harmed (specs/protocols.md section 6)."""

MAX_FAULT_EXAMPLES = 20
MAX_GUARD_EVENTS = 200


@dataclass(frozen=True, slots=True)
class FrameScore:
    """Scores after one frame, in percent; None without labelled pixels (or without a frozen prediction).

    Attributes:
        miou: mIoU of this frame alone, adapted network.
        miou_frozen: The same for the frozen network.
        visit_miou: mIoU of the domain visit so far, adapted network.
        visit_miou_frozen: The same for the frozen network.
        agreement: Share of pixels on which adapted and frozen agree, in percent; needs no labels.
    """

    miou: float | None
    miou_frozen: float | None
    visit_miou: float | None
    visit_miou_frozen: float | None
    agreement: float | None


@dataclass(slots=True)
class VisitScore:
    """What one domain visit adds up to. ``confusion`` and ``confusion_frozen`` are ``(C, C)`` int64, rows = truth."""

    domain: str
    visit: int
    start: int
    confusion: Matrix
    confusion_frozen: Matrix
    frames: int = 0
    scored: int = 0
    faults: int = 0
    updates: int = 0
    harmed: int = 0
    below: int = 0
    compared: int = 0
    agreement_sum: float = 0.0

    @property
    def miou(self) -> float | None:
        """mIoU of the adapted network over the visit, in percent; None without labels."""
        return _or_none(mean_iou(self.confusion))

    @property
    def miou_frozen(self) -> float | None:
        """mIoU of the frozen network over the visit, in percent; None without labels."""
        return _or_none(mean_iou(self.confusion_frozen))

    @property
    def agreement(self) -> float | None:
        """Mean share of pixels on which adapted and frozen agree, in percent; None if never compared."""
        return self.agreement_sum / self.compared if self.compared else None

    def iou(self) -> NDArray[np.float64]:
        """``(C,)`` IoU of the adapted network in percent, NaN for classes absent from the visit."""
        return iou_per_class(self.confusion)

    def iou_frozen(self) -> NDArray[np.float64]:
        """``(C,)`` IoU of the frozen network in percent, NaN for classes absent from the visit."""
        return iou_per_class(self.confusion_frozen)


@dataclass(slots=True)
class FaultLog:
    """Frames that could not be used: how many, and the first few as (frame index, reason)."""

    count: int = 0
    examples: list[tuple[int, str]] = field(default_factory=list)


@dataclass(slots=True)
class GuardLog:
    """What the method's guards did: how often each action, for which cause, and the first few in full."""

    actions: dict[str, int] = field(default_factory=dict)
    causes: dict[str, int] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)

    def add(self, index: int, event: dict[str, str]) -> None:
        """Counts an event with the keys ``action``, ``cause`` and ``detail`` at frame ``index``."""
        for counts, key in ((self.actions, event["action"]), (self.causes, event["cause"])):
            counts[key] = counts.get(key, 0) + 1
        if len(self.events) < MAX_GUARD_EVENTS:
            self.events.append({"frame": index, **event})


class PrequentialEvaluator:
    """Scores every prediction with the weights that were published before its frame.

    Visits appear as the stream reaches them, so a live stream of unknown length needs no plan. Visits without labels
    score None. Memory is bounded: two ``(C, C)`` matrices a visit and a `ScoreHistory`.

    Args:
        classes: Label space of the stream.
        history_bytes: Budget of the per-frame counts behind recovery and drawdown windows.
    """

    def __init__(self, classes: ClassSet, history_bytes: int = BUDGET_BYTES) -> None:
        self.classes = classes
        self.visits: list[VisitScore] = []
        self.boundaries: list[int] = []
        self.detections: list[int] = []
        self.faults = FaultLog()
        self.guards = GuardLog()
        self.history = ScoreHistory(len(classes), history_bytes)

    @property
    def frames(self) -> int:
        """Frames seen, faulty ones included."""
        return sum(visit.frames for visit in self.visits)

    @property
    def updates(self) -> int:
        """Adaptation steps noted over all visits."""
        return sum(visit.updates for visit in self.visits)

    def update(
        self,
        index: int,
        truth: Truth,
        prediction: NDArray[np.uint8],
        frozen_prediction: NDArray[np.uint8] | None = None,
    ) -> FrameScore:
        """Score one frame. Call it before the method sees the frame.

        Args:
            index: Stream index of the frame.
            truth: Its truth; ``label`` (h, w) uint8 or None.
            prediction: ``(h, w)`` uint8 train ids from the adapted network, at the label's size.
            frozen_prediction: The same from the frozen network. May be the same array (counted once). May be None
                only for a frame without label.

        Raises:
            UserError: The label holds ids outside the class set.
            ValueError: Sizes differ, a predicted id is no class, a labelled frame came without frozen prediction, or
                visits do not come in order.
        """
        # Everything that can fail comes first: a frame that raises leaves the score as it was.
        agreement = adapted = frozen = None
        if frozen_prediction is not None:
            same = frozen_prediction is prediction
            agreement = 100.0 if same else 100.0 * float(np.mean(prediction == frozen_prediction))
        if truth.label is not None:
            if frozen_prediction is None:
                raise ValueError(f"frame {index}: a labelled frame needs the frozen network's prediction too")
            adapted = confusion_matrix(truth.label, prediction, len(self.classes))
            frozen = adapted if same else confusion_matrix(truth.label, frozen_prediction, len(self.classes))
        visit = self._enter(index, truth)
        if agreement is not None:
            visit.agreement_sum += agreement
            visit.compared += 1
        if adapted is None or frozen is None:
            return FrameScore(None, None, visit.miou, visit.miou_frozen, agreement)
        visit.confusion += adapted
        visit.confusion_frozen += frozen
        score, score_frozen = _or_none(mean_iou(adapted)), _or_none(mean_iou(frozen))
        if score is not None and score_frozen is not None:
            visit.scored += 1
            visit.harmed += score < score_frozen - HARM_MARGIN
            visit.below += score < score_frozen
            intersection, union, present = intersection_union(adapted)
            counts = np.stack([present, intersection, union, *intersection_union(frozen)[:2]])
            self.history.append(index, truth.visit, counts)
        return FrameScore(score, score_frozen, visit.miou, visit.miou_frozen, agreement)

    def note_fault(self, index: int, truth: Truth, reason: str) -> None:
        """Count a tick that brought no usable frame; it belongs to its visit but is not scored."""
        self._enter(index, truth).faults += 1
        self.faults.count += 1
        if len(self.faults.examples) < MAX_FAULT_EXAMPLES:
            self.faults.examples.append((index, reason))

    def note_update(self, steps: int = 1) -> None:
        """Count adaptation steps for the visit of the latest frame."""
        self.visits[-1].updates += steps

    def note_detection(self, index: int) -> None:
        """Remember that the method announced a domain change at frame ``index``."""
        self.detections.append(int(index))

    def note_guard(self, index: int, event: dict[str, str]) -> None:
        """Remember what a guard did at frame ``index``: keys ``action``, ``cause`` and ``detail``."""
        self.guards.add(int(index), event)

    def _enter(self, index: int, truth: Truth) -> VisitScore:
        current = self.visits[-1] if self.visits else None
        if current is None or truth.visit > current.visit:
            # Two visits of the same domain in a row (two folders of one weather) are no change to detect.
            if current is not None and current.domain != truth.domain:
                self.boundaries.append(int(index))
            zeros = np.zeros((len(self.classes), len(self.classes)), dtype=np.int64)
            current = VisitScore(truth.domain, int(truth.visit), int(index), zeros, zeros.copy())
            self.visits.append(current)
        elif (truth.visit, truth.domain) != (current.visit, current.domain):
            raise ValueError(
                f"frame {index} belongs to visit {truth.visit} ({truth.domain}) "
                f"after visit {current.visit} ({current.domain}) began"
            )
        current.frames += 1
        return current

    def state_dict(self) -> dict[str, Any]:
        """The whole score as plain values and int64 tensors, loadable with ``torch.load(weights_only=True)``."""
        import torch

        return {
            "classes": self.classes.name,
            "visits": [
                {
                    **{name: getattr(visit, name) for name in _PLAIN_FIELDS},
                    "confusion": torch.from_numpy(visit.confusion.copy()),
                    "confusion_frozen": torch.from_numpy(visit.confusion_frozen.copy()),
                }
                for visit in self.visits
            ],
            "boundaries": list(self.boundaries),
            "detections": list(self.detections),
            "fault_count": self.faults.count,
            "fault_examples": [list(example) for example in self.faults.examples],
            "guards": {
                "actions": dict(self.guards.actions),
                "causes": dict(self.guards.causes),
                "events": [dict(event) for event in self.guards.events],
            },
            "history": self.history.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict`` bit for bit.

        Raises:
            ValueError: The state belongs to another label space.
        """
        if state["classes"] != self.classes.name:
            raise ValueError(f"the score belongs to classes {state['classes']!r}, this run has {self.classes.name!r}")
        self.history.load_state_dict(state["history"])
        self.visits = [
            VisitScore(
                confusion=visit["confusion"].numpy().copy(),
                confusion_frozen=visit["confusion_frozen"].numpy().copy(),
                **{name: visit[name] for name in _PLAIN_FIELDS},
            )
            for visit in state["visits"]
        ]
        self.boundaries = list(state["boundaries"])
        self.detections = list(state["detections"])
        self.faults = FaultLog(state["fault_count"], [(int(i), str(reason)) for i, reason in state["fault_examples"]])
        self.guards = GuardLog(**copy.deepcopy(state["guards"]))


_PLAIN_FIELDS = (
    "domain", "visit", "start", "frames", "scored", "faults", "updates", "harmed", "below", "compared",
    "agreement_sum",
)  # fmt: skip


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
