"""Slots of the network that learns: what it sees, its statistics, what of it learns, how, and what pulls it back."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from online_uda.adaptation.settings.base import (
    BelowOne,
    Cells,
    NotNegative,
    Pattern,
    Positive,
    PositiveShare,
    Share,
    SlotModel,
)
from streams.yaml_config import KeyedError


class AlignmentSettings(SlotModel):
    """How far frames are moved to the look of the source images before the network sees them.

    ``strength`` is the largest share of the way; with a drift trigger it is reached as the stream gets far from the
    source. ``rows`` and ``columns`` are the grid of places that are moved each for itself, with a drift trigger as far
    as it finds haze: without haze all of a frame is moved alike. ``half_life_frames`` is the memory of the stream's
    look, ``own`` how much of the look to move to is what the stream had while it was near the source. ``haze`` is the
    largest share of haze beyond the normal that is taken out of them after that (`online_uda.networks.haze`). The
    frozen network that a run is compared with sees frames as they are.
    """

    strength: PositiveShare = 0.5
    rows: Cells = 4
    columns: Cells = 1
    half_life_frames: Positive = 7.0
    own: Share = 0.5
    haze: Share = 0.0


class FusionSettings(SlotModel):
    """How much of an answer comes from the last frames along the optical flow: see `online_uda.adaptation.fusion`.

    ``weight`` is the largest say of the past; with a drift trigger it has that as the stream gets far from the source.
    """

    weight: PositiveShare = 0.4


class MemorySettings(SlotModel):
    """States of up to ``states`` domains, recalled when a domain comes back: see `online_uda.adaptation.memory`.

    ``window`` is how many frames, the last ones, stand for the domain that a change has led to.
    """

    states: int = Field(default=4, ge=1, le=64)
    window: int = Field(default=5, ge=1, le=100)


class NormSettings(SlotModel):
    """Statistics that BatchNorm layers normalise with; a network without BatchNorm ignores it (specs/methods.md 3).

    * ``source`` keeps the trained ones.
    * ``stream`` is an exponential mean of the predicted frames' statistics, started at the source's (BN-EMA).
    * ``batch`` takes those of the frame at hand (TENT).
    * ``alpha`` mixes a share ``alpha`` of the frame's into the source's (alpha-BN); 1 is BN-1.
    * ``dua`` is an exponential mean whose share falls by ``decay`` a frame, from ``momentum`` to ``floor``, of
      ``views`` randomly mirrored crops of the frame, ``crop`` of each side; 0 views take the prediction's (DUA).
    * ``iabn`` corrects the running ones by what in the frame's goes beyond ``shrink`` standard errors, and lets the
      running ones follow the stream by ``momentum`` (NOTE); 0 leaves them the source's.
    """

    statistics: Literal["source", "stream", "batch", "alpha", "dua", "iabn"] = "source"
    momentum: Share = 0.1
    alpha: Share = 0.1
    decay: BelowOne = 0.94
    floor: Share = 0.005
    views: int = Field(default=4, ge=0, le=64)
    crop: PositiveShare = 0.5
    shrink: NotNegative = 3.0

    @property
    def moves(self) -> bool:
        """Whether the running statistics follow the stream."""
        return self.statistics in ("stream", "dua") or (self.statistics == "iabn" and self.momentum > 0.0)

    @model_validator(mode="after")
    def _keys_of_the_statistics(self) -> Self:
        of_kind = {"alpha": "alpha", "decay": "dua", "floor": "dua", "views": "dua", "crop": "dua", "shrink": "iabn"}
        for key, kind in of_kind.items():
            if kind != self.statistics and getattr(self, key) != type(self).model_fields[key].default:
                raise KeyedError(f"belongs to statistics {kind}, not to {self.statistics}; drop it", key)
        if self.statistics == "dua" and self.momentum + self.floor > 1.0:
            raise KeyedError(f"momentum {self.momentum:g} and floor {self.floor:g} must not exceed 1 together", "floor")
        return self


class ScopeSettings(SlotModel):
    """Which parameters learn.

    ``suffix`` are HAMLET's modules n..4 (specs/hamlet.md 2.4): ``select`` says how n is chosen (``hamt`` as published,
    ``measured`` by loss drop per measured millisecond with ``exploration``; with ``mad`` one module alone learns, which
    ``draw`` chooses by scores that keep ``decay`` of themselves a step), ``train_fuse`` whether the head's fuse and
    classifier learn too (they never do in the released system). ``names`` are patterns of parameter names
    (``stages.3.*``); ``freeze`` are patterns that never learn, whatever the rest says, and ``spare_last`` a number of
    last stages that never do (SAR: 1).

    ``hybrid`` trains adapters, and everything while the mean of the last ``window`` losses lies ``rise`` above a slow
    threshold with ``memory`` (Hybrid-TTA).
    """

    parameters: Literal["none", "norm", "bias", "head", "all", "suffix", "adapters", "hybrid", "names"] = "norm"
    names: tuple[Pattern, ...] = ()
    freeze: tuple[Pattern, ...] = ()
    select: Literal["hamt", "fixed", "measured", "mad"] = "hamt"
    draw: Literal["sample", "random", "round_robin", "best"] = "sample"
    decay: BelowOne = 0.99
    spare_last: int = Field(default=0, ge=0, le=8)
    first_module: int = Field(default=1, ge=1, le=4)
    speeds_hz: tuple[Positive, Positive, Positive, Positive] = (4.21, 4.83, 5.11, 5.73)
    temperature: Positive = 1.75
    rate: PositiveShare = 0.1
    exploration: NotNegative = 1.0
    window: int = Field(default=10, ge=1)
    rise: NotNegative = 0.1
    memory: BelowOne = 0.9
    train_fuse: bool = False


class AdapterSettings(SlotModel):
    """Small modules that learn beside the layers of the student: see `online_uda.networks.adapters`.

    ``lora`` of rank ``rank``; ``two_rank`` with a second part of ``high_rank``; ``conv``, a 1x1 convolution beside
    larger ones; ``side`` nets behind whole stages (EcoTTA); ``adaptformer``, a bottleneck of ``rank`` beside
    (``parallel``) or behind (``sequential``) MLPs. ``targets`` are patterns of module names; empty takes the usual.
    """

    kind: Literal["lora", "two_rank", "conv", "adaptformer", "side"] = "lora"
    rank: int = Field(default=4, ge=1, le=1024)
    high_rank: int = Field(default=32, ge=1, le=1024)
    scale: Positive = 1.0
    high_scale: Positive = 1.0
    placement: Literal["parallel", "sequential"] = "parallel"
    targets: tuple[Pattern, ...] = ()

    @model_validator(mode="after")
    def _keys_of_the_kind(self) -> Self:
        of_kind = {"high_rank": "two_rank", "high_scale": "two_rank", "placement": "adaptformer"}
        for key, kind in of_kind.items():
            if kind != self.kind and getattr(self, key) != type(self).model_fields[key].default:
                raise KeyedError(f"belongs to kind {kind}, not to {self.kind}; drop it", key)
        if self.kind in ("conv", "side") and self.rank != type(self).model_fields["rank"].default:
            raise KeyedError("belongs to the other kinds; a convolution has no rank", "rank")
        return self


class OptimizerSettings(SlotModel):
    """Optimiser of the learning parameters; vectors (norms, biases) have no weight decay.

    With ``sharpness`` rho above 0 the gradient is taken where the loss is highest within a radius of rho, along the
    first gradient (SAM: Foret et al. 2021; SAR): two forward and backward passes a step.

    For ``warm_up`` steps from the start and from every change of domain the rate rises from a share ``warm_up_ratio``
    of its value in a line (DAFormer).
    """

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 0.0
    momentum: BelowOne = 0.9
    head_factor: Positive = 1.0
    sharpness: NotNegative = 0.0
    warm_up: int = Field(default=0, ge=0)
    warm_up_ratio: PositiveShare = 1e-6

    @model_validator(mode="after")
    def _ratio_of_warm_up(self) -> Self:
        if self.warm_up == 0 and self.warm_up_ratio != type(self).model_fields["warm_up_ratio"].default:
            raise KeyedError("is where warm_up begins; give warm_up or drop it", "warm_up_ratio")
        return self


class KalmanSettings(SlotModel):
    """CMF's hidden model (Lee & Chang 2024; specs/methods.md 3): drifts to the source, corrected by the weights.

    ``drift`` a of the way it stays where it is, ``noise`` q of the process, bounds ``gain`` of the correction factor b,
    and ``blend`` g of the weights that are kept when the hidden model is mixed in.
    """

    drift: Share = 0.99
    noise: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.005
    gain: tuple[Share, Share] = (0.89, 0.9999)
    blend: Share = 0.99

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.gain[0] > self.gain[1]:
            raise KeyedError(f"{list(self.gain)} runs backwards; give the smaller bound first", "gain")
        return self


class EnsembleSettings(SlotModel):
    """Weights that answer on the way back to the source domain (WiSE-FT; `online_uda.adaptation.ensemble`).

    Distances are the drift trigger's, 1 being the limit of the source domain. All that was learned answers from
    ``full`` times the furthest distance since the stream left that domain on; nothing of it up to ``near``.
    """

    near: NotNegative = 0.8
    full: PositiveShare = 0.6


class AnchorSettings(SlotModel):
    """Pull of the learning parameters and BatchNorm statistics towards the source network, a linear step each time.

    ``pull`` acts after every learning step; ``relax`` on frames on which the drift trigger finds the stream near the
    source and lets the method rest; ``restart`` before the step of a frame on which the trigger finds that the domain
    has changed back towards the source: what a storm has taught is no help in the drizzle after it.

    ``restore`` puts that share of single weights, drawn anew, back after every step (CoTTA). ``reset_every`` puts all
    back after so many steps (RDumb), ``reset_below`` where a running mean (0.9, 0.1) of the entropy falls below it, in
    nats: the sign of a collapse (SAR). ``reset_above`` puts all back where the loss of a step is above it (MAD).
    ``kalman`` blends the weights with a filtered way back (CMF). ``ensemble`` answers frames with weights
    between the source network's and the learned ones where the stream has come nearer than it was.
    """

    pull: Share = 0.0
    relax: Share = 0.0
    restart: Share = 0.0
    restore: Share = 0.0
    reset_every: int | None = Field(default=None, ge=1)
    reset_below: Positive | None = None
    reset_above: Positive | None = None
    kalman: KalmanSettings | None = None
    ensemble: EnsembleSettings | None = None
