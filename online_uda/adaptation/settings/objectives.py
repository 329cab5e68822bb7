"""What a step minimises."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from online_uda.adaptation.settings.base import BelowOne, Cells, NotNegative, Positive, PositiveShare, Share, SlotModel
from online_uda.adaptation.settings.domains import (
    AdversarialSettings,
    ContrastSettings,
    DiscrepancySettings,
    WhiteningSettings,
)
from online_uda.adaptation.settings.labels import FusedSettings, StrongSettings
from online_uda.adaptation.settings.memory import NearSourceSettings, RememberedSettings, TransferSettings
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
    ``reference`` as E0 in shares of ln C (None: ``max_entropy``). ``normalised`` divides by ln C; ``variance`` is a
    factor on the variance over pixels (MinEnt).
    """

    weight: NotNegative = 1.0
    normalised: bool = False
    variance: NotNegative = 0.0
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


class ReplayedSettings(SlotModel):
    """Cross-entropy on labelled source images, at every ``stride``-th row and column of them.

    Logits come at a quarter of the images' size: what a loss at every pixel adds is the price of interpolating them.
    """

    weight: NotNegative = 1.0
    stride: Literal[1, 2, 4] = 1


class FeatureDistanceSettings(SlotModel):
    """Distance of last-stage features of replayed images to the source network's (specs/hamlet.md 2.8)."""

    weight: NotNegative = 0.005
    min_share: Share = 0.75


class ViewSettings(SlotModel):
    """Views that a teacher's answer is averaged over: each scale, and with ``flip`` each mirrored too.

    The frame at its own scale is always among them.
    """

    scales: tuple[Annotated[float, Field(ge=0.25, le=4.0)], ...] = Field(default=(1.0,), min_length=1)
    flip: bool = False

    @property
    def count(self) -> int:
        """Number of answers, the native one included."""
        scales = {1.0, *self.scales}
        return (len(self.scales) * 2 + (1.0 not in self.scales)) if self.flip else len(scales)


class MaskSettings(SlotModel):
    """Patches of ``patch`` pixels that the student does not see, a ``share`` of them (Hybrid-TTA, MIC).

    ``where``: ``random`` ones, or the ``ambiguous``, of which the teacher is least sure (RODASS).
    """

    share: BelowOne = 0.6
    patch: int = Field(default=64, ge=4)
    where: Literal["random", "ambiguous"] = "random"


class TaughtSettings(SlotModel):
    """Distance of the student on the frame to labels of the teacher (specs/methods.md 3, teacher family).

    ``trust``: ``views`` takes the mean over views everywhere; ``anchor`` (CoTTA) the teacher's native answer where the
    source network's confidence is above ``confidence``; ``better`` (BECoTTA) where the teacher's own is, and is not
    below the source network's. ``labels`` are the best class or the probabilities; ``loss`` their cross-entropy or the
    symmetric one, which takes probabilities. With ``strong`` the student sees a strong view of the frame.
    """

    weight: NotNegative = 1.0
    views: ViewSettings = ViewSettings()
    trust: Literal["views", "anchor", "better"] = "views"
    confidence: PositiveShare = 0.69
    labels: Literal["hard", "soft"] = "hard"
    loss: Literal["cross_entropy", "symmetric"] = "cross_entropy"
    mask: MaskSettings | None = None
    strong: StrongSettings | None = None

    @model_validator(mode="after")
    def _something_to_choose(self) -> Self:
        if self.trust != "views" and self.views.count == 1:
            raise KeyedError(f"{self.trust} chooses between one view and several; give views.scales or flip", "trust")
        if self.loss == "symmetric" and self.labels == "hard":
            raise KeyedError("symmetric compares probabilities; set labels to soft", "loss")
        return self


class LikelihoodSettings(SlotModel):
    """ROID in pixels: soft likelihood ratio clipped at ``clip``, and ``consistency`` with a recoloured frame.

    Pixels are weighed by diversity and certainty with ``temperature``; ``rate`` is the share of a frame in the mean
    prediction that diversity is measured against.
    """

    weight: NotNegative = 1.0
    clip: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.99
    temperature: Positive = 1 / 3
    rate: PositiveShare = 0.1
    consistency: NotNegative = 1.0
    jitter_strength: Share = 0.2
    blur_probability: Share = 0.5


class DistilledSettings(SlotModel):
    """Labels of a bigger network: JITNet's online distillation.

    ``network`` and ``classes`` are what ``--network`` and ``--classes`` take. A frame is learned from in up to
    ``steps`` steps of the method, until the mean IoU of student and bigger network reaches ``target``.
    """

    network: str = Field(min_length=1)
    classes: str | None = None
    weight: NotNegative = 1.0
    target: PositiveShare = 0.9


class PrototypeSettings(SlotModel):
    """OnDA: labels of a prior weighed by the distance of features to class prototypes (specs/methods.md 3).

    The prior is the source network's (``static``), the teacher's (``dynamic``), or what the source network's confidence
    says (``switch``, with ``window``, ``gray`` and ``slope``). Prototypes start on ``frames`` source images, follow the
    stream by ``rate`` where a class has ``min_cells`` cells of the last stage's map. Labels below ``confidence`` are
    left out. ``cross_entropy``, ``reverse`` and ``regular`` weigh CE, RCE and MRKLD.

    With ``strong`` the student sees a strong view of the frame. ``consistency`` weighs the divergence between its
    softmax over distances to the prototypes and the teacher's (ProDA: 10). ``spread`` measures distances in units of
    each class's deviation (OnDA); without it they are plain (ProDA).
    """

    weight: NotNegative = 1.0
    temperature: Positive = 1.0
    rate: Share = 5e-4
    min_cells: int = Field(default=10, ge=1)
    frames: int = Field(default=64, ge=1)
    confidence: Share = 0.3
    cross_entropy: NotNegative = 0.1
    reverse: NotNegative = 1.0
    regular: NotNegative = 0.1
    prior: Literal["static", "dynamic", "switch"] = "switch"
    window: int = Field(default=200, ge=1)
    gray: tuple[Share, Share] = (0.83, 0.90)
    slope: NotNegative = 2e-4
    strong: StrongSettings | None = None
    consistency: NotNegative = 0.0
    spread: bool = True

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.gray[0] > self.gray[1]:
            raise KeyedError(f"{list(self.gray)} runs backwards; give the smaller confidence first", "gray")
        return self


class ObjectiveSettings(SlotModel):
    """What a step minimises: the weighted sum of the objectives present."""

    entropy: EntropySettings | None = None
    replay: ReplayedSettings | None = None
    mixed: WeightSettings | None = None
    feature_distance: FeatureDistanceSettings | None = None
    fisher: FisherSettings | None = None
    taught: TaughtSettings | None = None
    likelihood: LikelihoodSettings | None = None
    distilled: DistilledSettings | None = None
    prototype: PrototypeSettings | None = None
    fused: FusedSettings | None = None
    remembered: RememberedSettings | None = None
    near_source: NearSourceSettings | None = None
    transfer: TransferSettings | None = None
    adversarial: AdversarialSettings | None = None
    discrepancy: DiscrepancySettings | None = None
    whitening: WhiteningSettings | None = None
    contrast: ContrastSettings | None = None

    @property
    def weighs_source(self) -> bool:
        """Whether source images are looked at before the stream begins."""
        return self.fisher is not None or self.prototype is not None or self.whitening is not None

    @property
    def draws_source(self) -> bool:
        """Whether a step draws labelled source images."""
        return any(
            part is not None for part in (self.replay, self.mixed, self.adversarial, self.discrepancy, self.transfer)
        )
