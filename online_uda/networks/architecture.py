"""An encoder with a head, from its sizes to a network: SegFormer as published, or any encoder with any head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from torch import nn

from online_uda.errors import UserError
from online_uda.networks import foreign, timm_stages
from online_uda.networks.foreign import TORCHVISION, module_of_function, torchvision_module
from online_uda.networks.head_daformer import DAFormerHead, Fusion
from online_uda.networks.head_deeplab import DeepLabPlusHead
from online_uda.networks.head_upernet import UPerHead
from online_uda.networks.heads import AllMLPHead, LightHead, NormedMLPHead, init_weights
from online_uda.networks.mit import MIT_VARIANTS, MiTStage
from online_uda.networks.module_segmenter import ModuleSegmenter
from online_uda.networks.segmenter import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    SegformerConfig,
    Segmenter,
    build_segformer,
)
from online_uda.networks.spec import DEFAULT_WIDTHS, NetworkSpec
from online_uda.networks.timm_stages import ListStage, PlainStage, StagedEncoder, timm_encoder

Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Everything needed to build an encoder with a head again.

    Attributes:
        encoder: ``timm:NAME`` or ``mit_b0`` to ``mit_b5``.
        head: ``segformer``, ``segformer_mmseg``, ``daformer``, ``upernet`` or ``deeplabv3plus``.
        classes: Outputs.
        width: Channels inside the head.
        fusion: Of DAFormer's head.
        light_width: Channels inside the light head.
        dropout: Before the classifier, while training.
        drop_path: Largest stochastic-depth rate.
        image_size: Size that frames are brought to, for encoders of one size.
        mean: Channel means of the input; None takes the encoder's.
        std: Channel standard deviations of the input; None takes the encoder's.
    """

    encoder: str
    head: str
    classes: int
    width: int = 256
    fusion: Fusion | None = None
    light_width: int = 64
    dropout: float = 0.1
    drop_path: float = 0.0
    image_size: tuple[int, int] | None = None
    mean: Triple | None = None
    std: Triple | None = None


@dataclass(frozen=True, slots=True)
class ModuleConfig:
    """A network that torchvision builds.

    Attributes:
        source: ``torchvision:NAME``.
        classes: Outputs.
        light_width: Channels inside the light head.
        mean: Channel means of the input.
        std: Channel standard deviations of the input.
    """

    source: str
    classes: int
    light_width: int = 64
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD


@dataclass(frozen=True, slots=True)
class FunctionConfig:
    """A network that the user's own code builds; how its input is normalised is that code's affair.

    Attributes:
        source: ``module:function``.
        classes: Outputs.
        light_width: Channels inside the light head.
    """

    source: str
    classes: int
    light_width: int = 64


AnyConfig: TypeAlias = SegformerConfig | NetworkConfig | ModuleConfig | FunctionConfig


def config_of(spec: NetworkSpec, classes: int) -> NetworkConfig:
    """The configuration that a description asks for, with ``classes`` outputs."""
    return NetworkConfig(
        spec.encoder, spec.head, classes, spec.width or DEFAULT_WIDTHS[spec.head], spec.fusion, spec.light_width,
        spec.dropout, spec.drop_path, spec.image_size, spec.mean, spec.std,
    )  # fmt: skip


def build_network(config: AnyConfig, *, pretrained: bool = False) -> Segmenter:
    """Builds a network with freshly drawn weights (seed torch before the call).

    Args:
        config: Its sizes.
        pretrained: Let timm download the encoder's weights.

    Raises:
        UserError: The encoder is unknown or cannot be cut into stages, a download fails, or the user's code does.
    """
    if isinstance(config, SegformerConfig):
        return build_segformer(config)
    if isinstance(config, ModuleConfig):
        module = torchvision_module(config.source.removeprefix(TORCHVISION), config.classes)
        return ModuleSegmenter(module, config.source, light_width=config.light_width, mean=config.mean, std=config.std)
    if isinstance(config, FunctionConfig):
        return _of_function(config)
    encoder = _encoder(config, pretrained)
    head = _head(config, encoder.widths)
    if isinstance(head, DeepLabPlusHead):
        for stage in encoder.stages[1:-1]:
            if isinstance(stage, ListStage | PlainStage):
                stage.leave_bare()
    light = LightHead(encoder.widths[0], config.light_width, config.classes)
    head.apply(init_weights)
    light.apply(init_weights)
    mean, std = config.mean or encoder.mean, config.std or encoder.std
    return Segmenter(encoder.stages, head, light, mean, std, encoder.divisor)


def refuse_unknown(config: AnyConfig) -> None:
    """Raises `UserError` where timm or torchvision has no such network."""
    if isinstance(config, ModuleConfig):
        foreign.refuse_unknown(config.source.removeprefix(TORCHVISION))
    elif isinstance(config, NetworkConfig) and config.encoder.startswith("timm:"):
        timm_stages.refuse_unknown(config.encoder.removeprefix("timm:"))


def with_drop_path(config: AnyConfig, rate: float) -> AnyConfig:
    """The same network with another largest stochastic-depth rate."""
    if isinstance(config, SegformerConfig):
        return replace(config, encoder=replace(config.encoder, drop_path=rate))
    if isinstance(config, ModuleConfig | FunctionConfig):
        if rate > 0.0:
            raise UserError(f"{config.source} has no stochastic depth; drop --drop-path")
        return config
    return replace(config, drop_path=rate)


def title(config: AnyConfig) -> str:
    """What the network is, in a few words."""
    if isinstance(config, SegformerConfig):
        return f"SegFormer (widths {', '.join(map(str, config.encoder.widths))}; {config.classes} classes)"
    if isinstance(config, ModuleConfig | FunctionConfig):
        return f"{config.source} ({config.classes} classes)"
    head = config.head if config.fusion is None else f"{config.head}.{config.fusion}"
    return f"{config.encoder}+{head} ({config.classes} classes)"


def _of_function(config: FunctionConfig) -> ModuleSegmenter:
    module = module_of_function(config.source, config.classes)
    mean, std = getattr(module, "input_mean", IMAGENET_MEAN), getattr(module, "input_std", IMAGENET_STD)
    try:
        mean, std = tuple(map(float, mean)), tuple(map(float, std))
        sound = len(mean) == len(std) == 3 and all(map(math.isfinite, (*mean, *std))) and 0.0 not in std
    except (TypeError, ValueError):
        sound = False
    if not sound:
        raise UserError(f"network {config.source}: input_mean and input_std need three numbers each, and no std of 0")
    return ModuleSegmenter(module, config.source, light_width=config.light_width, mean=mean, std=std)


def _encoder(config: NetworkConfig, pretrained: bool) -> StagedEncoder:
    if config.encoder.startswith("timm:"):
        return timm_encoder(
            config.encoder.removeprefix("timm:"), pretrained=pretrained, drop_path=config.drop_path,
            image_size=config.image_size,
        )  # fmt: skip
    sizes = replace(MIT_VARIANTS[config.encoder.removeprefix("mit_")], drop_path=config.drop_path)
    stages: list[nn.Module] = [MiTStage(sizes, index) for index in range(4)]
    for stage in stages:
        stage.apply(init_weights)
    return StagedEncoder(stages, sizes.widths, IMAGENET_MEAN, IMAGENET_STD)


def _head(config: NetworkConfig, widths: Sequence[int]) -> nn.Module:
    if config.head == "daformer":
        return DAFormerHead(widths, config.width, config.classes, config.fusion or "sep_aspp", config.dropout)
    if config.head == "upernet":
        return UPerHead(widths, config.width, config.classes, config.dropout)
    if config.head == "segformer_mmseg":
        return NormedMLPHead(widths, config.width, config.classes, config.dropout)
    if config.head == "deeplabv3plus":
        return DeepLabPlusHead(widths, config.width, config.classes, config.dropout)
    return AllMLPHead(widths, config.width, config.classes, config.dropout)
