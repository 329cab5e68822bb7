"""What a step minimises."""

from __future__ import annotations

from pydantic import model_validator
from typing_extensions import Self

from online_uda.adaptation.settings.base import NotNegative, PositiveShare, Share, SlotModel


class EntropySettings(SlotModel):
    """Entropy of the prediction of the target frame (TENT; ETA's filter and weights as switches)."""

    weight: NotNegative = 1.0
    max_entropy: PositiveShare | None = None
    eta_weighting: bool = False
    class_balance: Share = 0.0

    @model_validator(mode="after")
    def _eta_needs_limit(self) -> Self:
        if self.eta_weighting and self.max_entropy is None:
            raise ValueError("eta_weighting needs max_entropy (ETA: 0.4)")
        return self


class WeightSettings(SlotModel):
    """An objective with nothing but a weight."""

    weight: NotNegative = 1.0


class FeatureDistanceSettings(SlotModel):
    """Distance of last-stage features of replayed images to the source network's (specs/hamlet.md 2.8)."""

    weight: NotNegative = 0.005
    min_share: Share = 0.75


class ObjectiveSettings(SlotModel):
    """What a step minimises: the weighted sum of the objectives present."""

    entropy: EntropySettings | None = None
    replay: WeightSettings | None = None
    mixed: WeightSettings | None = None
    feature_distance: FeatureDistanceSettings | None = None
