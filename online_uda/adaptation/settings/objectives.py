"""What a step minimises."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from online_uda.adaptation.settings.base import Cells, NotNegative, PositiveShare, Share, SlotModel
from streams.yaml_config import KeyedError


class RedundancySettings(SlotModel):
    """ETA's second filter: what looks like the running mean prediction teaches nothing new.

    Kept is what has an absolute cosine below ``limit`` to the mean: whole frames by their mean prediction, as in image
    classification, or single pixels. ``rate`` is the share of a new frame in the mean.
    """

    limit: PositiveShare = 0.05
    of: Literal["frame", "pixels"] = "frame"
    rate: PositiveShare = 0.1


class ShuffleSettings(SlotModel):
    """DeYO's filter: what a shuffle of patches does not shake was not seen by its shape.

    The frame is cut into ``grid`` rows and columns of patches, which change places within windows of ``window`` times
    ``window`` patches (None: all over the frame). Kept are pixels whose probability of their class falls by more than
    ``min_drop``.
    """

    min_drop: Share = 0.2
    grid: tuple[Cells, Cells] = (4, 4)
    window: Cells | None = None

    @model_validator(mode="after")
    def _something_moves(self) -> Self:
        if self.grid == (1, 1):
            raise KeyedError("[1, 1] is one patch, and nothing can change places; give more rows or columns", "grid")
        if self.window == 1:
            raise KeyedError("1 leaves every patch where it is; give 2 or more, or none", "window")
        return self


class EntropySettings(SlotModel):
    """Entropy of the prediction of the target frame (TENT; the filters and weights of ETA and DeYO as switches).

    ``max_entropy`` keeps pixels below that share of ln C. ``eta_weighting`` weighs them by ``exp(E0 - H)``, with
    ``reference`` as E0 in shares of ln C (None: ``max_entropy``).
    """

    weight: NotNegative = 1.0
    max_entropy: PositiveShare | None = None
    eta_weighting: bool = False
    reference: PositiveShare | None = None
    class_balance: Share = 0.0
    redundancy: RedundancySettings | None = None
    shuffle: ShuffleSettings | None = None

    @model_validator(mode="after")
    def _eta_needs_limit(self) -> Self:
        if self.eta_weighting and self.max_entropy is None:
            raise ValueError("eta_weighting needs max_entropy (ETA: 0.4)")
        if self.reference is not None and not self.eta_weighting:
            raise KeyedError("is the E0 of eta_weighting; switch that on or drop it", "reference")
        return self


class FisherSettings(SlotModel):
    """EATA's regulariser: parameters that mattered on ``frames`` source images stay near their source values."""

    weight: NotNegative = 2000.0
    frames: int = Field(default=64, ge=1)


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
    fisher: FisherSettings | None = None
