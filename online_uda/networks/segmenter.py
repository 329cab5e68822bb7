"""The one interface of a segmentation network: ordered stages, a head, a light head, and their output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from online_uda.networks.full_labels import upsampled_argmax
from online_uda.networks.heads import AllMLPHead, LightHead, init_weights, upsample
from online_uda.networks.mit import MIT_VARIANTS, MiTConfig, MiTStage

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SMALLEST_SIDE = 64
"""Below this, the spatial reduction of stage 1 would leave no key; smaller frames are padded up to it."""


@dataclass(frozen=True, slots=True)
class Segmentation:
    """What a network says of a batch of frames.

    Attributes:
        logits: ``(B, C, h, w)`` float at stride 4 of the padded frame.
        features: One map a stage, ``(B, C_i, h_i, w_i)``, finest first.
        size: Height and width of the frames before padding.
        padded: Height and width after padding; the logits are spread over it, ``padded == 4 * (h, w)`` for SegFormer.
        auxiliary: Logits of an auxiliary head, which only training reads; None in eval mode or without such a head.
        forwards: Forward passes that it took (`online_uda.networks.views`).
    """

    logits: Tensor
    features: tuple[Tensor, ...]
    size: tuple[int, int]
    padded: tuple[int, int]
    auxiliary: Tensor | None = None
    forwards: int = 1

    def full(self, size: tuple[int, int] | None = None) -> Tensor:
        """Logits ``(B, C, H, W)`` at ``size`` (the frames' own by default), bilinear."""
        return to_full_size(self.logits, self.size, self.padded, size)

    def labels(self, size: tuple[int, int] | None = None) -> Tensor:
        """Class ids ``(B, H, W)`` uint8 at ``size`` (the frames' own by default)."""
        target = self.size if size is None else size
        # Padding is cut off before a frame is resized, so that only one of the two can be had in one step.
        if self.logits.device.type != "cpu" or (target != self.size and self.padded != self.size):
            return self.full(size).argmax(1).to(torch.uint8)
        full = self.padded if target == self.size else target
        return upsampled_argmax(self.logits, full, target)


def to_full_size(
    logits: Tensor, size: tuple[int, int], padded: tuple[int, int], target: tuple[int, int] | None = None
) -> Tensor:
    """Upsamples stride-4 logits to the padded frame, crops the padding, and resizes to ``target`` when it differs."""
    if target is None or target == size:
        return upsample(logits.float(), padded)[..., : size[0], : size[1]]
    if padded == size:
        return upsample(logits.float(), target)
    return upsample(upsample(logits.float(), padded)[..., : size[0], : size[1]], target)


def padded_size(size: tuple[int, int], divisor: int = 4, smallest: int = SMALLEST_SIDE) -> tuple[int, int]:
    """The frame size after padding: the next multiples of ``divisor`` that are at least ``smallest``."""
    height, width = (-(-max(smallest, side) // divisor) * divisor for side in size)
    return height, width


class Segmenter(nn.Module):
    """Encoder stages, main head and light head behind one call.

    A stage may have a method ``tap``: then what it passes on is its own affair (tokens, say), and ``tap`` of that is
    its map for the heads. Without one, what it passes on is its map.

    Args:
        stages: Encoder stages in order; stage i takes what stage i-1 passes on, the first takes the normalised frame.
        head: Main head over all stage maps.
        light_head: Head over the first stage map.
        mean: Channel means of the input, RGB in [0, 1].
        std: Channel standard deviations of the input.
        divisor: Frames are padded to multiples of it.

    Attributes:
        alignment: What frames go through before anything else, such as an `InputAlignment`; None leaves them alone.
    """

    def __init__(
        self,
        stages: list[nn.Module],
        head: nn.Module,
        light_head: LightHead,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        divisor: int = 4,
    ) -> None:
        super().__init__()
        self.divisor = divisor
        self.answers: int | None = None
        self.alignment: nn.Module | None = None
        self.stages = nn.ModuleList(stages)
        self.head = head
        self.light_head = light_head
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> Segmenter:
        """Sets the mode; BatchNorm layers that are marked ``keeps_source_statistics`` stay in eval mode."""
        super().train(mode)
        for module in self.modules():
            if getattr(module, "keeps_source_statistics", False):
                module.training = False
        return self

    def normalise(self, frames: Tensor) -> tuple[Tensor, tuple[int, int], tuple[int, int]]:
        """Aligns, pads by edge replication and normalises ``frames`` (B, 3, H, W) float32 RGB in [0, 1]."""
        size = (int(frames.shape[-2]), int(frames.shape[-1]))
        if self.alignment is not None:
            frames = self.alignment(frames)
        padded = padded_size(size, self.divisor)
        if padded != size:
            frames = F.pad(frames, (0, padded[1] - size[1], 0, padded[0] - size[0]), mode="replicate")
        x = (frames - self.get_buffer("mean")) / self.get_buffer("std")
        return x.contiguous(memory_format=torch.channels_last), size, padded

    def encode(self, x: Tensor, stages: int | None = None) -> tuple[Tensor, ...]:
        """Stage maps of a normalised frame, the first ``stages`` of them (all by default)."""
        features = []
        for stage in list(self.stages)[:stages]:
            x = stage(x)
            tap = getattr(stage, "tap", None)
            features.append(x if tap is None else tap(x))
        return tuple(features)

    def forward(self, frames: Tensor) -> Segmentation:
        """Segments ``frames``: (B, 3, H, W) float32 RGB in [0, 1], any H and W."""
        x, size, padded = self.normalise(frames)
        features = self.encode(x)
        auxiliary = getattr(self.head, "auxiliary", None) if self.training else None
        if auxiliary is not None and not any(parameter.requires_grad for parameter in auxiliary.parameters()):
            auxiliary = None  # nobody trains it, so nobody asks for it
        extra = None if auxiliary is None else auxiliary(features)
        return Segmentation(self.head(features), features, size, padded, extra)

    def light(self, frames: Tensor) -> Segmentation:
        """Stage 1 and the light head only."""
        x, size, padded = self.normalise(frames)
        features = self.encode(x, 1)
        return Segmentation(self.light_head(features[0]), features, size, padded)

    def stage_parameters(self, index: int) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters of stage ``index`` (0-based)."""
        yield from self.stages[index].named_parameters(f"stages.{index}")

    def module_parameters(self, index: int) -> Iterator[tuple[str, nn.Parameter]]:
        """HAMLET's module ``index`` (0-based): stage ``index`` and the head's projection of it (hamlet.md 2.4)."""
        yield from self.stage_parameters(index)
        linears = getattr(self.head, "linears", None)
        if linears is not None:
            yield from linears[index].named_parameters(f"head.linears.{index}")

    def first_stage(self) -> nn.Module:
        """The module that `encode` runs for the first map alone."""
        return self.stages[0]

    def head_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters of the main head, an auxiliary one left out: no prediction comes from it."""
        for name, parameter in self.head.named_parameters("head"):
            if not name.startswith("head.auxiliary."):
                yield name, parameter

    def learnable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Every parameter that a prediction comes from: all but those of the light head and an auxiliary one."""
        for name, parameter in self.named_parameters():
            if not name.startswith(("light_head.", "head.auxiliary.")):
                yield name, parameter

    @property
    def stage_count(self) -> int:
        """Number of modules that a suffix scope chooses among."""
        return len(self.stages)

    @property
    def classes(self) -> int:
        """Number of classes that it answers with."""
        return self.answers or int(self.light_head.classifier.out_channels)


@dataclass(frozen=True, slots=True)
class SegformerConfig:
    """Everything needed to build a SegFormer: encoder sizes, head width, number of classes, input statistics."""

    encoder: MiTConfig
    classes: int
    head_width: int = 256
    light_width: int = 64
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


def segformer_config(variant: str, classes: int) -> SegformerConfig:
    """The published sizes of ``variant`` ("b0" ... "b5"): head width 256 for B0 and B1, 768 above."""
    return SegformerConfig(MIT_VARIANTS[variant], classes, 256 if variant in ("b0", "b1") else 768)


def build_segformer(config: SegformerConfig) -> Segmenter:
    """Builds a SegFormer with freshly drawn weights (seed torch before the call)."""
    network = Segmenter(
        [MiTStage(config.encoder, index) for index in range(4)],
        AllMLPHead(config.encoder.widths, config.head_width, config.classes),
        LightHead(config.encoder.widths[0], config.light_width, config.classes),
        config.mean,
        config.std,
    )
    network.apply(init_weights)
    return network
