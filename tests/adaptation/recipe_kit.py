"""Tiny trained networks, a labelled source set and a stream, shared by the tests of recipes."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from online_uda.adaptation.guards.canary import Canary
from online_uda.adaptation.look import StreamLook
from online_uda.adaptation.method import StepReport
from online_uda.adaptation.recipe import Recipe
from online_uda.adaptation.replay.buffer import ReplayBuffer
from online_uda.adaptation.replay.source import SourceReplay
from online_uda.adaptation.settings import AlwaysTrigger, MethodSettings
from online_uda.adaptation.trigger.base import Decision, EveryFrames, TriggerPolicy
from online_uda.networks.alignment import mean_look, to_frame
from online_uda.networks.haze import mean_transmission
from online_uda.networks.heads import AllMLPHead, LightHead
from online_uda.networks.mit import MiTConfig
from online_uda.networks.segmenter import SegformerConfig, Segmentation, Segmenter, build_segformer
from streams.classes import CAMVID_11
from streams.frame import ClassSet, LabelledImage

SIZE = (64, 128)
WIDTHS = (8, 16, 24, 32)
KINDS = ("layernorm", "batchnorm")
State = dict[str, Tensor]


class SourceSet:
    """Blocks of classes, each painted in a colour of its own with noise; class 9 is rare."""

    classes: ClassSet = CAMVID_11

    def __init__(self, count: int = 8, size: tuple[int, int] = SIZE, seed: int = 0) -> None:
        self.count, self.size, self.seed = count, size, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> LabelledImage:
        generator = np.random.default_rng((self.seed, index))
        height, width = self.size
        blocks = generator.integers(0, 9, (2, 4))
        if index == 3:
            blocks[0, 0] = 9
        label = np.kron(blocks, np.ones((height // 2, width // 4), np.int64)).astype(np.uint8)
        label[0] = 255
        colours = np.random.default_rng(99).integers(40, 216, (256, 3))
        image = np.clip(colours[label] + generator.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)
        return LabelledImage(image, label)


def stream(count: int, *, seed: int = 50, size: tuple[int, int] = SIZE, haze: float = 0.5) -> Iterator[Tensor]:
    """Unseen scenes of the source in haze, ``(1, 3, H, W)`` float32 in [0, 1]."""
    scenes = SourceSet(count, size, seed)
    for index in range(count):
        image = torch.from_numpy(scenes[index].image).permute(2, 0, 1)[None].float() / 255.0
        yield image * (1.0 - haze) + haze * 0.8


class _ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map ``(N, C, H, W)``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _conv_stage(into: int, out: int, stride: int, norm: type[nn.Module]) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(into, out, 2 * stride - 1, stride, stride - 1), norm(out), nn.ReLU())


def untrained(kind: str) -> Segmenter:
    """A network by the norm layers that it has.

    Args:
        kind: "layernorm" for a SegFormer; "batchnorm" or "channelnorm" for nothing but convolutions and BatchNorm, or
            LayerNorm, behind the same interface, at less than half its time.
    """
    torch.manual_seed(0)
    if kind == "layernorm":
        encoder = MiTConfig(WIDTHS, (1, 1, 1, 1), (1, 1, 1, 1), (8, 4, 2, 1))
        return build_segformer(SegformerConfig(encoder, len(CAMVID_11), head_width=16, light_width=8))
    sides = zip((3, *WIDTHS), WIDTHS, (4, 2, 2, 2), strict=False)
    norm = nn.BatchNorm2d if kind == "batchnorm" else _ChannelNorm
    stages: list[nn.Module] = [_conv_stage(*side, norm) for side in sides]
    return Segmenter(stages, AllMLPHead(WIDTHS, 16, len(CAMVID_11)), LightHead(WIDTHS[0], 8, len(CAMVID_11)))


@functools.cache
def _trained(kind: str) -> Segmenter:
    network, source = untrained(kind).train(), SourceSet()
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    images = torch.stack([torch.from_numpy(source[i].image).permute(2, 0, 1).float() / 255.0 for i in range(8)])
    labels = torch.stack([torch.from_numpy(source[i].label).long() for i in range(8)])
    for _ in range(40):
        output, light = network(images), network.light(images)
        loss = sum(nn.functional.cross_entropy(part.full(), labels, ignore_index=255) for part in (output, light))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()
    return network.eval().requires_grad_(False)


def trained(kind: str) -> Segmenter:
    """A copy of a network that was trained for a moment on `SourceSet`, frozen."""
    return copy.deepcopy(_trained(kind))


def settings_of(data: dict[str, Any], **changes: Any) -> MethodSettings:
    """Settings from plain data; ``changes`` are dotted keys with ``__`` for the dot."""
    data = copy.deepcopy({"description": "test", **data})
    for key, value in changes.items():
        node, parts = data, key.split("__")
        for part in parts[:-1]:
            node[part] = node.get(part) or {}
            node = node[part]
        node[parts[-1]] = value
    return MethodSettings.model_validate(data)


def make_recipe(
    settings: MethodSettings,
    network: Segmenter,
    *,
    trigger: TriggerPolicy | None = None,
    seed: int = 0,
    source: SourceSet | None = None,
) -> Recipe:
    """A recipe on the CPU in float32; without a trigger it learns as the settings' always-trigger says."""
    replay = None
    if settings.replay is not None:
        source = source if source is not None else SourceSet()
        buffer = ReplayBuffer(source, range(len(source)))
        replay = SourceReplay(buffer, settings.replay, seed)
    if trigger is None:
        assert isinstance(settings.trigger, AlwaysTrigger)
        trigger = EveryFrames(settings.trigger.every)
    canary = None
    if settings.guards is not None and settings.guards.canary:
        images = SourceSet()
        buffer = ReplayBuffer(images, range(len(images)))
        canary = Canary(buffer, settings.guards.canary, settings.guards.canary_most, seed, torch.device("cpu"))
    look = None
    if settings.alignment is not None:
        images, grid = SourceSet(), (settings.alignment.rows, settings.alignment.columns)
        shown = [images[index].image for index in range(8)]
        clear = mean_transmission(to_frame(image, torch.device("cpu")) for image in shown)
        look = StreamLook(mean_look(shown, grid, torch.device("cpu")), settings.alignment, clear)
    return Recipe(
        settings, name="test", source=network, classes=CAMVID_11, replay=replay, trigger=trigger, seed=seed, bf16=False,
        canary=canary, look=look,
    )  # fmt: skip


def play(recipe: Recipe, frames: Iterator[Tensor]) -> list[StepReport]:
    """Predicts and observes every frame."""
    return [recipe.observe(frame, recipe.predict(frame)) for frame in frames]


def copy_of(module: nn.Module) -> State:
    """Parameters and buffers by name, copied."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(before: State, after: State) -> set[str]:
    """Names whose values differ in any bit."""
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def ruin(recipe: Recipe) -> None:
    """Weights that predict noise, in every network of the recipe."""
    generator = torch.Generator().manual_seed(3)
    networks = [recipe.student] + ([] if recipe.teacher is None else [recipe.teacher.module])
    for network in networks:
        for name, parameter in network.named_parameters():
            if name.startswith("light_head."):
                continue
            parameter.data += 2.0 * torch.randn(parameter.shape, generator=generator)


TENT: dict[str, Any] = {
    "scope": {"parameters": "norm"},
    "optimizer": {"name": "adam", "learning_rate": 1e-3},
    "objectives": {"entropy": {}},
}
HAMLET: dict[str, Any] = {
    "student_mode": "train",
    "scope": {"parameters": "suffix"},
    "optimizer": {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01, "head_factor": 10.0},
    "teacher": {"buffers": "keep"},
    "replay": {"crop": [1.0, 0.5]},
    "mixing": {},
    "pseudo_labels": {"confidence": 0.4},
    "objectives": {"replay": {}, "mixed": {}, "feature_distance": {"weight": 0.1, "min_share": 0.75}},
}
REPLAY: dict[str, Any] = {"scope": {"parameters": "all"}, "replay": {"style": {}}, "objectives": {"replay": {}}}
STATISTICS: dict[str, Any] = {"scope": {"parameters": "none"}, "norm": {"statistics": "stream", "momentum": 0.3}}
FROZEN: dict[str, Any] = {"scope": {"parameters": "none"}}
METHODS = {"tent": TENT, "hamlet": HAMLET, "replay": REPLAY, "statistics": STATISTICS, "frozen": FROZEN}


class Scripted:
    """A trigger that answers from a list; the last answer stays."""

    def __init__(self, *decisions: Decision) -> None:
        self.decisions, self.count = list(decisions), 0

    def decide(self, frames: Tensor, prediction: Segmentation) -> Decision:
        """The next answer."""
        self.count += 1
        return self.decisions[min(self.count, len(self.decisions)) - 1]

    def state_dict(self) -> dict[str, Any]:
        """How many were given."""
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues."""
        self.count = int(state["count"])
