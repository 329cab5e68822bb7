"""From settings to a method: fills the replay buffer, trains what the trigger lacks, composes the recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from online_uda.adaptation.fisher import SourceImages
from online_uda.adaptation.guards.canary import Canary
from online_uda.adaptation.look import StreamLook
from online_uda.adaptation.recipe import Recipe
from online_uda.adaptation.replay.buffer import ReplayBuffer
from online_uda.adaptation.replay.sampling import ReplaySampler
from online_uda.adaptation.replay.source import SourceReplay
from online_uda.adaptation.settings import DriftTrigger, HamletTrigger, MethodSettings, StrideTrigger
from online_uda.adaptation.trigger.base import EveryFrames, TriggerPolicy
from online_uda.adaptation.trigger.drift import calibrate_from_buffer
from online_uda.adaptation.trigger.hamlet import BudgetRule, WindowDetector
from online_uda.adaptation.trigger.policies import DriftPolicy, HamletPolicy
from online_uda.adaptation.trigger.stride import StridePolicy
from online_uda.errors import UserError
from online_uda.networks.alignment import mean_look, to_frame
from online_uda.networks.checkpoints import LoadedNetwork
from online_uda.networks.haze import mean_transmission
from online_uda.networks.segmenter import Segmenter
from online_uda.networks.spec import NetworkOptions
from online_uda.networks.supervised import train_light_head
from online_uda.networks.zoo import load_network
from streams.frame import ClassSet, LabelledSet

Progress = Callable[[int, int], None]
CANARY_CHOICE = 64
LOOK_IMAGES = 64
LIGHT_HEAD_STEPS = 150
LIGHT_HEAD_RATE = 2e-3


def build_method(
    settings: MethodSettings,
    *,
    name: str,
    network: LoadedNetwork,
    classes: ClassSet,
    source: LabelledSet | None,
    size: tuple[int, int] | None,
    seed: int,
    device: torch.device,
    bf16: bool,
    progress: Progress | None = None,
) -> Recipe:
    """Builds a method around a frozen source network.

    Args:
        settings: The slots.
        name: Name in reports.
        network: The source network, already on ``device``; it is shared and never changed, but for a light head
            that the checkpoint lacks and HAMLET's trigger needs.
        classes: Label space.
        source: Labelled source images; needed when the method has a replay slot.
        size: Height and width of replayed images; None keeps the source's own.
        seed: Of every random draw of the method.
        device: Where the network is.
        bf16: Run networks under bfloat16 autocast.
        progress: Called with (done, total) while the buffer fills.

    Raises:
        UserError: If the method needs source images and there are none.
    """
    model = network.network.requires_grad_(False)
    replay = None
    if settings.replay is not None:
        if source is None:
            raise UserError(f"method {name} replays labelled source images; give them with --source DIR")
        buffer = ReplayBuffer.fill(
            source, torch.Generator().manual_seed(seed), capacity=settings.replay.frames, policy=settings.replay.fill,
            size=size, temperature=settings.replay.temperature, progress=progress,
        )  # fmt: skip
        replay = SourceReplay(buffer, settings.replay, seed + 1)
    images = _SourceImages(name, source, replay, size)
    canary = _build_canary(settings, images, seed + 3, device)
    unlabelled = _unlabelled(settings, images, seed + 4, device)
    look = _build_look(settings, images, seed + 5, device)
    trigger = _build_trigger(settings, network, replay, seed, device, bf16)
    return Recipe(
        settings, name=name, source=model, classes=classes, replay=replay, trigger=trigger, seed=seed + 2, bf16=bf16,
        canary=canary, source_images=unlabelled, look=look, bigger=_bigger_network(settings, classes, device),
    )  # fmt: skip


@dataclass(frozen=True)
class _SourceImages:
    """Where the parts of a method take source images from: the replay buffer, or a small one of their own."""

    method: str
    source: LabelledSet | None
    replay: SourceReplay | None
    size: tuple[int, int] | None

    def buffer(self, count: int, seed: int, need: str) -> ReplayBuffer:
        """At least ``count`` images, as far as the source has them; ``need`` says who wants them, in the error."""
        if self.replay is not None:
            return self.replay.buffer
        if self.source is None:
            raise UserError(f"method {self.method}: {need}")
        return ReplayBuffer.fill(self.source, torch.Generator().manual_seed(seed), capacity=count, size=self.size)


def _build_canary(settings: MethodSettings, images: _SourceImages, seed: int, device: torch.device) -> Canary | None:
    slot = settings.guards
    if slot is None or slot.canary == 0:
        return None
    need = "the guards' canary needs labelled source images; give them with --source DIR, or set guards.canary=0"
    return Canary(images.buffer(CANARY_CHOICE, seed, need), slot.canary, slot.canary_most, seed, device)


def _unlabelled(settings: MethodSettings, images: _SourceImages, seed: int, device: torch.device) -> Iterable[Tensor]:
    """Source images for Fisher's weights and for prototypes; their labels are not looked at."""
    wanted = {name: getattr(settings.objectives, name) for name in ("fisher", "prototype", "whitening")}
    counts = {f"objectives.{name}": slot.frames for name, slot in wanted.items() if slot is not None}
    if settings.reservoir is not None:
        counts["reservoir"] = settings.reservoir.frames
    if not counts:
        return ()
    need = f"{next(iter(counts))} needs source images; give them with --source DIR"
    return SourceImages(images.buffer(max(counts.values()), seed, need), max(counts.values()), device)


def _build_look(settings: MethodSettings, images: _SourceImages, seed: int, device: torch.device) -> StreamLook | None:
    """The look of source images, towards which frames are moved."""
    slot = settings.alignment
    if slot is None:
        return None
    need = "alignment moves frames to the look of source images; give them with --source DIR"
    buffer = images.buffer(LOOK_IMAGES, seed, need)
    shown = buffer.images[:LOOK_IMAGES]
    clear = mean_transmission(to_frame(image, device) for image in shown) if slot.haze > 0.0 else None
    return StreamLook(mean_look(shown, (slot.rows, slot.columns), device), slot, clear)


def _bigger_network(settings: MethodSettings, classes: ClassSet, device: torch.device) -> Segmenter | None:
    """The network that the distilled objective asks."""
    slot = settings.objectives.distilled
    if slot is None:
        return None
    loaded = load_network(slot.network, classes, NetworkOptions(classes=slot.classes))
    return loaded.network.to(device).requires_grad_(False).eval()


def _build_trigger(
    settings: MethodSettings,
    network: LoadedNetwork,
    replay: SourceReplay | None,
    seed: int,
    device: torch.device,
    bf16: bool,
) -> TriggerPolicy:
    slot = settings.trigger
    if isinstance(slot, HamletTrigger):
        assert replay is not None
        if not network.has_light_head:
            fit_light_head(network.network, replay.buffer, seed, device, bf16)
        mixing = settings.mixing
        rule = BudgetRule(
            near_value=slot.near_value, far_value=slot.far_value, jump_unit=slot.up, base_frames=slot.base_frames,
            max_frames=slot.max_frames, return_factor=slot.return_factor, lr=slot.learning_rate,
            **({} if mixing is None else {"mix_ratio": mixing.ratio}),
        )  # fmt: skip
        return HamletPolicy(network.network, WindowDetector(slot.window, slot.up, slot.down), rule)
    if isinstance(slot, DriftTrigger):
        assert replay is not None
        detector = calibrate_from_buffer(network.network, replay.buffer, scale=slot.scale)
        return DriftPolicy(network.network, detector, slot.scale, slot.every)
    if isinstance(slot, StrideTrigger):
        return StridePolicy(slot.smallest, slot.largest)
    never = settings.scope.parameters == "none" and not settings.norm.moves
    return EveryFrames(0 if never else slot.every)


def fit_light_head(network: Segmenter, buffer: ReplayBuffer, seed: int, device: torch.device, bf16: bool) -> None:
    """Trains a missing light head on the replay buffer, everything else untouched (specs/hamlet.md 2.3).

    A checkpoint from elsewhere has none, and HAMLET's signal is its loss. A minute of source training at start-up
    gives a head that is good enough to tell domains apart.

    Args:
        network: Frozen network whose light head is replaced.
        buffer: Labelled source images.
        seed: Of weights and draws.
        device: Where the network is.
        bf16: Run under bfloat16 autocast.
    """
    sampler = ReplaySampler(buffer, torch.Generator().manual_seed(seed), policy="uniform")
    drawn = (sampler.sample(2, device) for _ in range(LIGHT_HEAD_STEPS))
    batches = ((batch.images, batch.labels) for batch in drawn)
    head = network.light_head
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for module in head.modules():
            reset: Any = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
        optimizer = torch.optim.AdamW(head.parameters(), lr=LIGHT_HEAD_RATE)
        train_light_head(network, batches, LIGHT_HEAD_STEPS, optimizer, stride=2, bf16=bf16)
