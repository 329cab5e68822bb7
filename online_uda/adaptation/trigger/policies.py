"""The triggers that watch the stream with the frozen source network: HAMLET's windows and the drift detector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from online_uda.adaptation.trigger.base import Decision
from online_uda.adaptation.trigger.drift import DriftDetector, stage_statistics
from online_uda.adaptation.trigger.hamlet import BudgetRule, TrainingBudget, WindowDetector
from online_uda.adaptation.trigger.source_statistics import HAZE_AXIS, shrunk
from online_uda.networks.heads import upsample
from online_uda.networks.segmenter import Segmentation, Segmenter


@torch.no_grad()
def light_head_signal(source: Segmenter, frames: Tensor, prediction: Segmentation) -> float:
    """HAMLET's domain distance (specs/hamlet.md 2.3): cross-entropy of the frozen light head on predicted labels.

    Taken at the stride of the light head's logits: both maps are smooth at that scale and the mean over pixels is the
    same up to the interpolation of the labels.
    """
    light = source.light(frames).logits
    size = (int(light.shape[-2]), int(light.shape[-1]))
    labels = upsample(prediction.logits, size).argmax(1)
    return F.cross_entropy(light.float(), labels).item()


class HamletPolicy:
    """Window detector, budget and learning-rate modulation of HAMLET; nothing is learned before the first change.

    Args:
        source: The frozen network with a trained light head.
        detector: Window detector.
        rule: What a change buys.
    """

    def __init__(self, source: Segmenter, detector: WindowDetector, rule: BudgetRule) -> None:
        self._source, self._detector = source, detector
        self._budget = TrainingBudget(rule)

    def decide(self, frames: Tensor, prediction: Segmentation) -> Decision:
        """See `TriggerPolicy.decide`."""
        plan = self._budget.next_frame()
        signal = light_head_signal(self._source, frames, prediction)
        change = self._detector.update(signal)
        if change is not None:
            self._budget.on_change(change)
        return Decision(
            plan.train,
            plan.lr,
            plan.mix_ratio,
            signal=signal,
            detected=change is not None,
            confirmed=change is not None,
        )

    def state_dict(self) -> dict[str, Any]:
        """See `TriggerPolicy.state_dict`."""
        return {"detector": self._detector.state_dict(), "budget": self._budget.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `TriggerPolicy.load_state_dict`."""
        self._detector.load_state_dict(state["detector"])
        self._budget.load_state_dict(state["budget"])


class DriftPolicy:
    """Learns while the stream is far from the source domain, and goes back to the source network while it is near.

    Args:
        source: The frozen network whose stage 1 watches the stream.
        detector: Calibrated on source images seen at the same ``scale``.
        scale: Side of the watched frame as a share of the full one.
        every: Of the far frames, every ``every``-th is learned from, counted anew at every change.
    """

    def __init__(self, source: Segmenter, detector: DriftDetector, scale: float, every: int = 1) -> None:
        self._source, self._detector, self._scale, self._every = source, detector, scale, every
        self._waited = 0
        self.first_stage: Callable[[Tensor], Tensor] | None = None
        """Gives the map of the source network\'s first stage where something else than torch does; None asks torch."""

    def decide(self, frames: Tensor, prediction: Segmentation) -> Decision:
        """See `TriggerPolicy.decide`."""
        # In full precision, as calibrated: bfloat16 would move every statistic of the stream, and none of the source's.
        with torch.autocast(frames.device.type, enabled=False):
            features = None if self.first_stage is None else self.first_stage(shrunk(frames, self._scale))
            statistics = stage_statistics(self._source, frames, scale=self._scale, features=features)
        report = self._detector.update(statistics)
        self._waited = 0 if report.confirmed or not report.far else (self._waited + 1) % self._every
        learn = report.far and self._waited == 0
        signature = self._detector.signature(statistics)
        return Decision(
            learn,
            relax=not report.far,
            signal=report.distance,
            detected=report.detected,
            confirmed=report.confirmed,
            nearer=report.nearer,
            distance=report.distance,
            far=report.far,
            haze=None if signature is None else float(signature[HAZE_AXIS]),
            signature=signature,
        )

    def state_dict(self) -> dict[str, Any]:
        """See `TriggerPolicy.state_dict`."""
        return {"detector": self._detector.state_dict(), "waited": self._waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `TriggerPolicy.load_state_dict`."""
        self._detector.load_state_dict(state["detector"])
        self._waited = int(state["waited"])
