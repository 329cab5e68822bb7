"""The slots of a method as typed settings: a method YAML is one `MethodSettings`, every key is checked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator
from typing_extensions import Self

from streams.yaml_config import ConfigModel, KeyedError, KeyedErrors

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Cells = Annotated[int, Field(ge=1, le=32)]
PositiveShare = Annotated[float, Field(gt=0.0, le=1.0)]
BelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Pattern = Annotated[str, Field(min_length=1)]
NotNegative = Annotated[float, Field(ge=0.0)]


class SlotModel(ConfigModel):
    """Base of the slots: no number may be infinite or NaN."""

    model_config = ConfigDict(allow_inf_nan=False)


class NormSettings(SlotModel):
    """Statistics that BatchNorm layers normalise with; a network without BatchNorm ignores it.

    ``source`` keeps the trained ones. ``stream`` is an exponential mean of the predicted frames' statistics, started at
    the source's (BN-EMA, specs/methods.md 3). ``batch`` takes those of the frame at hand (TENT).
    """

    statistics: Literal["source", "stream", "batch"] = "source"
    momentum: Share = 0.1


class ScopeSettings(SlotModel):
    """Which parameters learn.

    ``suffix`` are HAMLET's modules n..4 (specs/hamlet.md 2.4): ``select`` says how n is chosen (``hamt`` as published,
    ``measured`` by loss drop per measured millisecond with ``exploration``), ``train_fuse`` whether the head's fuse and
    classifier learn too (they never do in the released system). ``names`` are patterns of parameter names
    (``stages.3.*``); ``freeze`` are patterns that never learn, whatever the rest says.
    """

    parameters: Literal["none", "norm", "bias", "head", "all", "suffix", "adapters", "names"] = "norm"
    names: tuple[Pattern, ...] = ()
    freeze: tuple[Pattern, ...] = ()
    select: Literal["hamt", "fixed", "measured"] = "hamt"
    first_module: int = Field(default=1, ge=1, le=4)
    speeds_hz: tuple[Positive, Positive, Positive, Positive] = (4.21, 4.83, 5.11, 5.73)
    temperature: Positive = 1.75
    rate: PositiveShare = 0.1
    exploration: NotNegative = 1.0
    train_fuse: bool = False


class AdapterSettings(SlotModel):
    """Small modules that learn beside the layers of the student: see `online_uda.networks.adapters`.

    ``lora`` of rank ``rank``; ``two_rank`` with a second part of ``high_rank``; ``conv``, a 1x1 convolution beside
    larger ones; ``adaptformer``, a bottleneck of ``rank`` beside (``parallel``) or behind (``sequential``) MLPs.
    ``targets`` are patterns of module names; empty takes the usual ones.
    """

    kind: Literal["lora", "two_rank", "conv", "adaptformer"] = "lora"
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
        if self.kind == "conv" and self.rank != type(self).model_fields["rank"].default:
            raise KeyedError("belongs to the other kinds; a 1x1 convolution has no rank", "rank")
        return self


class OptimizerSettings(SlotModel):
    """Optimiser of the learning parameters; vectors (norms, biases) have no weight decay."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 0.0
    momentum: BelowOne = 0.9
    head_factor: Positive = 1.0


class AnchorSettings(SlotModel):
    """Pull of the learning parameters and BatchNorm statistics towards the source network, a linear step each time.

    ``pull`` acts after every learning step; ``relax`` on frames on which the drift trigger finds the stream near the
    source and lets the method rest; ``restart`` before the step of a frame on which the trigger finds that the domain
    has changed back towards the source: what a storm has taught is no help in the drizzle after it.
    """

    pull: Share = 0.0
    relax: Share = 0.0
    restart: Share = 0.0


class TeacherSettings(SlotModel):
    """EMA teacher (specs/hamlet.md 2.1) by a capped warm-up rate or by a half-life in frames."""

    cap: BelowOne | None = None
    half_life_frames: Positive | None = None
    buffers: Literal["copy", "ema", "keep"] = "copy"

    @model_validator(mode="after")
    def _one_rate(self) -> Self:
        if self.cap is not None and self.half_life_frames is not None:
            raise ValueError("give cap or half_life_frames, not both")
        return self


class StyleSettings(SlotModel):
    """Target styling of replayed source images: see `online_uda.adaptation.replay.style`.

    ``strength`` is the range that the share of the way from the source look to the stream's is drawn from, once for
    colour and once for detail.
    """

    grid: tuple[Cells, Cells] = (6, 6)
    half_life_frames: Positive = 8.0
    detail: NotNegative = 1.0
    strength: tuple[Share, Share] = (0.0, 1.0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.strength[0] > self.strength[1]:
            raise KeyedError(f"{list(self.strength)} runs backwards; give the smaller strength first", "strength")
        return self


class ReplaySettings(SlotModel):
    """Source replay buffer and how crops are drawn from it (specs/hamlet.md 2.9); ``crop`` is a share of each side."""

    frames: int = Field(default=256, ge=1)
    fill: Literal["uniform", "rare_class"] = "rare_class"
    sampling: Literal["uniform", "rare_class"] = "rare_class"
    temperature: Positive = 0.01
    crop: tuple[PositiveShare, PositiveShare] = (1.0, 1.0)
    batch: int = Field(default=1, ge=1, le=16)
    style: StyleSettings | None = None


class MixingSettings(SlotModel):
    """ClassMix with a dynamic ratio (near, far), colour jitter and blur (specs/hamlet.md 2.6)."""

    ratio: tuple[Share, Share] = (0.5, 0.75)
    jitter_probability: Share = 0.8
    jitter_strength: Share = 0.2
    blur_probability: Share = 0.5


class PseudoLabelSettings(SlotModel):
    """Teacher labels weighted by the share of confident pixels (specs/hamlet.md 2.7)."""

    confidence: PositiveShare = 0.968
    ignore_top: Share = 15 / 512
    ignore_bottom: Share = 120 / 512

    @model_validator(mode="after")
    def _rows_are_left(self) -> Self:
        if self.ignore_top + self.ignore_bottom >= 1.0:
            raise ValueError("ignore_top and ignore_bottom leave no row between them; their sum must be below 1")
        return self


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


class AlwaysTrigger(SlotModel):
    """Learn on every ``every``-th frame."""

    kind: Literal["always"] = "always"
    every: int = Field(default=1, ge=1)


class DriftTrigger(SlotModel):
    """Learn while the stream is far from the source domain; calibrates itself on the replay buffer.

    ``scale`` is the side of the frame that the detector looks at, as a share of the full one.
    """

    kind: Literal["drift"]
    scale: PositiveShare = 0.5


class HamletTrigger(SlotModel):
    """HAMLET's detector, training budget and learning-rate modulation (specs/hamlet.md 2.3, 2.5)."""

    kind: Literal["hamlet"]
    window: int = Field(default=75, ge=1)
    up: Positive = 0.23
    down: Annotated[float, Field(lt=0.0)] = -0.23
    near_value: float = 0.80
    far_value: float = 2.55
    base_frames: int = Field(default=750, ge=1)
    max_frames: int = Field(default=4450, ge=1)
    return_factor: tuple[Share, Share] = (0.25, 0.75)
    learning_rate: tuple[Positive, Positive] = (1.5e-5, 6e-5)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.near_value >= self.far_value:
            raise ValueError(f"near_value {self.near_value:g} must be below far_value {self.far_value:g}")
        return self


Trigger = Annotated[AlwaysTrigger | DriftTrigger | HamletTrigger, Field(discriminator="kind")]


class GuardSettings(SlotModel):
    """Guards: bad frames are not learned from, bad weights do not predict (`online_uda.adaptation.guards`).

    Every ``every``-th step is scored on ``canary`` labelled source images in the look of the stream (0: none). It fails
    more than ``margin`` points of mIoU below the source network, or where its agreement with the source network is
    lower on the stream than on the canary by more than ``disagreement``. A prediction with less than ``collapse``
    classes in effect has collapsed. A failure multiplies the learning rate by ``rate_factor``; after ``patience``
    failures the source network predicts for ``rest`` frames, twice as many the next time.
    """

    every: int = Field(default=16, ge=1)
    canary: int = Field(default=3, ge=0, le=64)
    margin: NotNegative = 2.0
    disagreement: Share = 0.3
    collapse: float = Field(default=1.2, ge=1.0)
    rate_factor: float = Field(default=0.5, gt=0.0, lt=1.0)
    patience: int = Field(default=3, ge=1)
    rest: int = Field(default=100, ge=1)


class MethodSettings(SlotModel):
    """A whole method.

    ``student_mode`` is the mode of dropout and stochastic depth while learning: ``train`` as in source training,
    ``eval`` with both switched off. With ``train``, BatchNorm layers also learn their statistics from the step's crops.
    ``deploy`` says whose weights predict: the student's, or their average over recent steps, which the teacher holds.
    """

    description: str = Field(min_length=1)
    norm: NormSettings = NormSettings()
    scope: ScopeSettings = ScopeSettings()
    adapters: AdapterSettings | None = None
    student_mode: Literal["eval", "train"] = "eval"
    optimizer: OptimizerSettings = OptimizerSettings()
    anchor: AnchorSettings = AnchorSettings()
    steps: int = Field(default=1, ge=1, le=16)
    teacher: TeacherSettings | None = None
    replay: ReplaySettings | None = None
    mixing: MixingSettings | None = None
    pseudo_labels: PseudoLabelSettings | None = None
    objectives: ObjectiveSettings = ObjectiveSettings()
    deploy: Literal["student", "teacher"] = "student"
    trigger: Trigger = AlwaysTrigger()
    guards: GuardSettings | None = None

    @property
    def needs_source(self) -> bool:
        """Whether labelled source images are needed: for replay, to calibrate the trigger, or for the canary."""
        return self.replay is not None or (self.guards is not None and self.guards.canary > 0)

    @model_validator(mode="after")
    def _slots_fit(self) -> Self:
        faults = [
            *self._faults_of_replay(), *self._faults_of_mixed(), *self._faults_of_deploy(), *self._faults_of_scope(),
            *self._faults_of_guards(),
        ]  # fmt: skip
        if faults:
            raise KeyedErrors(faults)
        return self

    def _faults_of_replay(self) -> Iterator[KeyedError]:
        wanted = self.objectives
        calibrates = self.trigger.kind != "always"
        if self.replay is None:
            for name in ("replay", "feature_distance"):
                if getattr(wanted, name) is not None:
                    yield KeyedError("needs the slot replay", "objectives", name)
            if calibrates:
                yield KeyedError(f"trigger {self.trigger.kind} needs the slot replay", "trigger")
        elif wanted.feature_distance is not None and wanted.replay is None:
            yield KeyedError("needs objectives.replay, whose features it compares", "objectives", "feature_distance")
        elif wanted.replay is None and wanted.mixed is None and not calibrates:
            yield KeyedError("no objective or trigger uses this slot; drop it", "replay")

    def _faults_of_mixed(self) -> Iterator[KeyedError]:
        slots = ("teacher", "mixing", "pseudo_labels")
        if self.objectives.mixed is None:
            for name in slots:
                used = name == "teacher" and self.deploy == "teacher"
                if getattr(self, name) is not None and not used:
                    yield KeyedError("only objectives.mixed uses this slot; add it or drop the slot", name)
            return
        missing = [name for name in ("replay", *slots) if getattr(self, name) is None]
        if missing:
            noun = "slot" if len(missing) == 1 else "slots"
            yield KeyedError(f"needs the {noun} {', '.join(missing)}", "objectives", "mixed")

    def _faults_of_deploy(self) -> Iterator[KeyedError]:
        if self.deploy != "teacher":
            return
        if self.teacher is None:
            yield KeyedError("needs the slot teacher", "deploy")
        if self.scope.parameters == "none":
            yield KeyedError("the teacher averages learning steps, and scope.parameters none takes none", "deploy")

    def _faults_of_scope(self) -> Iterator[KeyedError]:
        learns = any(getattr(self.objectives, name) is not None for name in type(self.objectives).model_fields)
        if learns and self.scope.parameters == "none":
            text = "is none, so the objectives have nothing to move; choose a scope or drop them"
            yield KeyedError(text, "scope", "parameters")
        if not learns and self.scope.parameters != "none":
            yield KeyedError("no objective is given; set scope.parameters to none or add an objective", "scope")
        yield from self._faults_of_adapters()
        if (self.scope.parameters == "names") != bool(self.scope.names):
            yield KeyedError("goes with scope.parameters names, and that with patterns here", "scope", "names")

    def _faults_of_adapters(self) -> Iterator[KeyedError]:
        if self.adapters is None:
            if self.scope.parameters == "adapters":
                yield KeyedError("needs the slot adapters, such as adapters.kind=lora", "scope", "parameters")
            return
        if self.scope.parameters in ("none", "norm", "bias", "head"):
            text = f"scope.parameters {self.scope.parameters} would never train them; set it to adapters"
            yield KeyedError(text, "adapters")
        if self.adapters.kind == "adaptformer" and self.teacher is not None:
            text = "adaptformer cannot be folded into a teacher's weights; take lora, conv or two_rank"
            yield KeyedError(text, "adapters", "kind")

    def _faults_of_guards(self) -> Iterator[KeyedError]:
        if self.guards is not None and self.scope.parameters == "none" and self.norm.statistics != "stream":
            yield KeyedError("this method never moves a weight, so there is nothing to guard; drop it", "guards")
