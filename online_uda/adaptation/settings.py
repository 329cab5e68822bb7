"""The slots of a method as typed settings: a method YAML is one `MethodSettings`, every key is checked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from streams.yaml_config import ConfigModel

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]


class NormSettings(ConfigModel):
    """Statistics that BatchNorm layers normalise with; networks without BatchNorm ignore it.

    ``source`` keeps the trained ones; ``stream`` is an exponential mean of the frames' statistics (BN-EMA of
    specs/methods.md 3), started at the source's; ``batch`` takes those of the frame alone while learning (TENT).
    """

    statistics: Literal["source", "stream", "batch"] = "source"
    momentum: Share = 0.1


class ScopeSettings(ConfigModel):
    """Which parameters learn.

    ``suffix`` are HAMLET's modules n..4 (specs/hamlet.md 2.4); ``select`` says how n is chosen and ``train_fuse``
    whether the head's fuse and classifier learn with them (they never do in the released system).
    """

    parameters: Literal["none", "norm", "all", "head", "suffix"] = "norm"
    select: Literal["hamt", "fixed"] = "hamt"
    first_module: int = Field(default=1, ge=1, le=4)
    speeds_hz: tuple[Positive, Positive, Positive, Positive] = (4.21, 4.83, 5.11, 5.73)
    temperature: Positive = 1.75
    rate: Share = 0.1
    train_fuse: bool = False


class OptimizerSettings(ConfigModel):
    """Optimiser of the scope's parameters; norm and bias vectors never decay."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 0.0
    head_factor: Positive = 1.0
    momentum: Share = 0.9


class AnchorSettings(ConfigModel):
    """Pull of the learning parameters back to the source weights: a linear step of ``pull`` a frame (0 = none)."""

    pull: Share = 0.0


class TeacherSettings(ConfigModel):
    """EMA teacher (specs/hamlet.md 2.1): capped warm-up rate, or a half-life in frames."""

    cap: Share | None = None
    half_life_frames: Positive | None = None
    buffers: Literal["copy", "ema", "keep"] = "copy"


class ReplaySettings(ConfigModel):
    """Source replay buffer and how crops are drawn from it (specs/hamlet.md 2.9)."""

    frames: int = Field(default=256, ge=1)
    fill: Literal["uniform", "rare_class"] = "rare_class"
    sampling: Literal["uniform", "rare_class"] = "rare_class"
    temperature: Positive = 0.01
    crop: Share = 1.0
    style: Literal["none", "target"] = "none"
    style_grid: int = Field(default=6, ge=1, le=32)
    style_half_life_frames: Positive = 8.0
    style_detail: NotNegative = 1.0


class MixingSettings(ConfigModel):
    """ClassMix with a dynamic ratio, colour jitter and blur (specs/hamlet.md 2.6)."""

    ratio: tuple[Share, Share] = (0.5, 0.75)
    jitter_probability: Share = 0.8
    jitter_strength: NotNegative = 0.2
    blur_probability: Share = 0.5


class PseudoLabelSettings(ConfigModel):
    """Teacher labels with the share of confident pixels as their weight (specs/hamlet.md 2.7)."""

    confidence: Share = 0.968
    ignore_top: Share = 15 / 512
    ignore_bottom: Share = 120 / 512


class EntropySettings(ConfigModel):
    """Entropy of the prediction on the target frame (TENT; ETA's filter and weight as switches)."""

    weight: NotNegative = 1.0
    max_entropy: Share | None = None
    eta_weight: bool = False
    class_balance: Share = 0.0
