"""Methods that learn beside labelled replay, as shipped, against a few lines each: weights after one step (<= 1e-6).

What a step draws (source images, mixtures, masked frames) is recorded as it is drawn and checked on its own elsewhere;
losses and gradients are by hand, in float64 where the method itself takes nothing in float32. The optimiser is plain
gradient descent, dropout is off and statistics stay the source's: other tests hold those.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recipe_kit import CAMVID_11, KINDS, SourceSet, stream, trained
from torch import Tensor

from online_uda.adaptation.build import build_method
from online_uda.adaptation.frame_pass import FramePass
from online_uda.adaptation.mixed_step import MixedObjective
from online_uda.adaptation.objectives.kernel_distance import kernel_distance
from online_uda.adaptation.objectives.pixel_contrast import cell_labels, pixel_contrast
from online_uda.adaptation.objectives.whitening import whitening_loss
from online_uda.adaptation.recipe import Recipe
from online_uda.adaptation.replay.source import SourceReplay
from online_uda.adaptation.settings import MethodSettings
from online_uda.adaptation.step import StepGradients
from online_uda.networks.checkpoints import LoadedNetwork
from online_uda.networks.segmenter import Segmenter
from streams.yaml_config import build, load_yaml

METHODS = Path(__file__).parents[2] / "configs" / "methods"
RATE, CLASSES, CONFIDENCE = 0.05, len(CAMVID_11), 0.6
COMMON = (
    f"optimizer={{name: sgd, learning_rate: {RATE}, momentum: 0.0}}", "norm.statistics=source", "student_mode=eval",
    "replay.frames=8",
)  # fmt: skip
MIXES = (f"pseudo_labels.confidence={CONFIDENCE}",)
"""The tiny network is never as sure as 0.968."""


@dataclass
class Step:
    """What a step saw: ``images`` and ``labels`` of the source, the ``frame``, a mixture, the student's inputs."""

    recipe: Recipe
    source: Segmenter
    frame: Tensor
    images: Tensor = field(init=False)
    labels: Tensor = field(init=False)
    replayed: Any = None
    mixed: Any = None
    target: Tensor = field(init=False)
    inputs: list[Tensor] = field(default_factory=list)
    judge: Any = None


def ce(logits: Tensor, labels: Tensor, weights: Tensor | float = 1.0) -> Tensor:
    """Over all pixels, ignored ones among them."""
    known = labels != 255
    chosen = logits.log_softmax(1).gather(1, labels.where(known, 0)[:, None])[:, 0]
    return -(chosen * known * weights).mean()


def entropy(logits: Tensor) -> Tensor:
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1)


def replay(step: Step, net: Segmenter) -> Tensor:
    return ce(net(step.images).full(), step.labels)


def minent(step: Step, net: Segmenter) -> Tensor:
    return replay(step, net) + 1e-3 * entropy(net(step.frame).logits).mean() / math.log(CLASSES)


def adversary(step: Step, said: Callable[[Tensor], Tensor], strength: float) -> Tensor:
    """The segmenter steps up the loss of the discriminator."""
    of_source, of_stream = (step.judge([said(x)])[0] for x in (step.images, step.frame))
    return strength * (F.logsigmoid(-of_source).mean() + F.logsigmoid(of_stream).mean())


def advent(step: Step, net: Segmenter) -> Tensor:
    def information(x: Tensor) -> Tensor:
        logits = net(x).full()
        return -logits.softmax(1) * logits.log_softmax(1) / math.log(CLASSES)

    return replay(step, net) + adversary(step, information, 1e-3)


def dann(step: Step, net: Segmenter) -> Tensor:
    strength = 0.1 * (2.0 / (1.0 + math.exp(-10.0 * 0.5)) - 1.0)
    return replay(step, net) + adversary(step, lambda x: net(x).features[-1], strength)


def robustnet(step: Step, net: Segmenter) -> Tensor:
    said, parts = net(step.images), step.recipe._gradients._whitening
    assert parts is not None
    terms = [whitening_loss(said.features[i], parts.masks[i]) for i in (0, 1)]
    return ce(said.full(), step.labels) + 0.6 * (terms[0] + terms[1]) / 2


def mixture(step: Step, net: Segmenter) -> Tensor:
    """Loss on the mixture; its labels and weights are the source's or the teacher's, which is the source network."""
    teacher = step.source(step.target).full().softmax(1)
    share = (teacher.amax(1) > CONFIDENCE).double().mean()
    assert 0.0 < share < 1.0
    slot = step.recipe.settings.pseudo_labels
    assert slot is not None
    rows = torch.arange(step.target.shape[-2])[:, None] / step.target.shape[-2]
    counted = ((rows >= slot.ignore_top) & (rows < 1.0 - slot.ignore_bottom)).expand(step.target.shape[-2:])
    pasted = step.mixed.weights == 1.0
    assert pasted.any()
    assert not pasted.all()
    assert torch.equal(step.mixed.labels, step.labels.where(pasted, teacher.argmax(1)))
    torch.testing.assert_close(
        step.mixed.weights.double(), torch.where(pasted, 1.0, share * counted), atol=1e-6, rtol=0
    )
    return ce(net(step.mixed.images).full(), step.mixed.labels, step.mixed.weights)


def dacs(step: Step, net: Segmenter) -> Tensor:
    return replay(step, net) + mixture(step, net)


def near_things(step: Step, net: Segmenter) -> Tensor:
    """Mean distance to the source network's last map where a thing fills three quarters of a cell."""
    own, anchor = (one(step.images).features[-1] for one in (net, step.source))
    ids = F.one_hot(step.labels.where(step.labels != 255, CLASSES), CLASSES + 1).movedim(-1, 1).double()
    share, which = F.adaptive_avg_pool2d(ids, own.shape[-2:]).max(1)
    mask = (share >= 0.75) & torch.isin(which, torch.tensor(sorted(CAMVID_11.things)))
    assert mask.any()
    return (own - anchor).square().sum(1).sqrt()[mask].mean()


def daformer(step: Step, net: Segmenter) -> Tensor:
    return dacs(step, net)  # at the first step features are the source network's: see the second below


def cluda(step: Step, net: Segmenter) -> Tensor:
    def contrast(images: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        found = net(images).features[-1]
        size = (int(found.shape[-2]), int(found.shape[-1]))
        pooled = None if weights is None else F.adaptive_avg_pool2d(weights[:, None], size)[:, 0]
        return pixel_contrast(found, cell_labels(labels, size, CLASSES, 0.5), 1.0, pooled)

    on_source = contrast(step.images, step.labels, None)
    return dacs(step, net) + 0.1 * (on_source + contrast(step.mixed.images, step.mixed.labels, step.mixed.weights))


def dsp(step: Step, net: Segmenter) -> Tensor:
    def layered(seen: Any) -> Tensor:
        logits = net(seen.images).full()
        return torch.stack([ce(logits, labels, weights) for labels, weights in seen.layers]).sum()

    assert len(step.replayed.layers) > 1
    assert len(step.mixed.layers) > 1
    one, two = (net(x).features[-1].movedim(1, -1).flatten(0, -2) for x in (step.images, step.frame))
    return layered(step.replayed) + layered(step.mixed) + 0.005 * kernel_distance(one, two)


def rodass(step: Step, net: Segmenter) -> Tensor:
    hidden = next(x for x in step.inputs if x.shape == step.frame.shape and not torch.equal(x, step.frame))
    label = step.source(step.frame).logits.softmax(1)
    return dacs(step, net) - (label * net(hidden).logits.log_softmax(1)).sum(1).mean()


CASES: dict[str, tuple[Callable[[Step, Segmenter], Tensor], tuple[str, ...]]] = {
    "minent": (minent, ()),
    "advent": (advent, ("objectives.adversarial.width=4",)),
    "dann": (dann, ()),
    "robustnet": (robustnet, ("objectives.whitening.frames=4",)),
    "dacs": (dacs, MIXES),
    "daformer": (daformer, MIXES),
    "cluda": (cluda, MIXES),
    "dsp": (dsp, (*MIXES, "replay.crop=[1.0, 1.0]")),  # as many cells as the frame has: all of them are compared
    "rodass": (rodass, MIXES),
}


def prepared(name: str, kind: str, changes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> Step:
    """The method as shipped but for `COMMON`, and a recorder of what it draws."""
    exact = torch.float32 if name in ("robustnet", "advent") else torch.float64
    settings = build(MethodSettings, load_yaml(METHODS / f"{name}.yaml"), [*COMMON, *changes])
    loaded = LoadedNetwork(trained(kind).to(exact), CAMVID_11.names, True, kind)
    recipe = build_method(
        settings, name=name, network=loaded, classes=CAMVID_11, source=SourceSet(), size=None, seed=0,
        device=torch.device("cpu"), bf16=False,
    )  # fmt: skip
    step = Step(recipe, trained(kind).to(exact), next(stream(1)).to(exact))
    forward_pass = FramePass.forward
    draw, mix, source_labels = SourceReplay.draw, MixedObjective.mix, StepGradients._source_labels

    def drawn(self: SourceReplay, device: torch.device) -> tuple[Tensor, Tensor]:
        images, labels = draw(self, device)
        step.images, step.labels = images.to(exact), labels
        return step.images, step.labels

    def mixed(self: MixedObjective, images: Tensor, labels: Tensor, target: Tensor, *rest: Any) -> Any:
        step.target, step.mixed = target, mix(self, images, labels, target, *rest)
        return step.mixed

    def labelled(self: StepGradients, seen: Any) -> Any:
        step.replayed = seen
        return source_labels(self, seen)

    def forward(self: FramePass, frames: Tensor, name: str) -> Any:
        step.inputs.append(frames.clone())
        return forward_pass(self, frames, name)

    monkeypatch.setattr(FramePass, "forward", forward)
    monkeypatch.setattr(SourceReplay, "draw", drawn)
    monkeypatch.setattr(MixedObjective, "mix", mixed)
    monkeypatch.setattr(StepGradients, "_source_labels", labelled)
    adversarial = recipe._gradients._adversarial
    if adversarial is not None:
        adversarial._steps = 50  # the reversal has begun to rise
        step.judge = copy.deepcopy(adversarial.discriminator)
    return step


def weights_by_hand(step: Step, net: Segmenter, loss: Tensor) -> dict[str, Tensor]:
    names = [name for name, _ in step.recipe.learning]
    gradients = torch.autograd.grad(loss, [net.get_parameter(name) for name in names], allow_unused=True)
    return {
        name: net.get_parameter(name).detach() - (0.0 if gradient is None else RATE * gradient)
        for name, gradient in zip(names, gradients, strict=True)
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_one_step(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loss_of, changes = CASES[name]
    step = prepared(name, kind, changes, monkeypatch)
    student, net = step.recipe.student, trained(kind).to(step.frame.dtype).requires_grad_(True)
    step.recipe.observe(step.frame, step.recipe.predict(step.frame))
    expected = weights_by_hand(step, net, loss_of(step, net))
    moved = 0.0
    for parameter, value in expected.items():
        torch.testing.assert_close(student.get_parameter(parameter).detach(), value, atol=1e-6, rtol=0.0, msg=parameter)
        moved = max(moved, (value - step.source.get_parameter(parameter)).abs().max().item())
    assert moved > 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["daformer", "cluda"])
def test_features_of_things_are_held_near_the_source_networks(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are the source network's at first and the distance has no gradient there: a student that has moved."""
    step = prepared(name, kind, (*MIXES, "objectives.mixed=null", "mixing=null", "teacher=null", "pseudo_labels=null",
                                 *(["objectives.contrast=null"] if name == "cluda" else [])), monkeypatch)  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    net = trained(kind).double().requires_grad_(True)
    with torch.no_grad():
        for name_, _ in step.recipe.learning:
            away = 0.02 * torch.randn(net.get_parameter(name_).shape, generator=generator).double()
            step.recipe.student.get_parameter(name_).add_(away)
            net.get_parameter(name_).add_(away)
    report = step.recipe.observe(step.frame, step.recipe.predict(step.frame))
    distance = near_things(step, net)
    assert report.losses["feature_distance"] == pytest.approx(distance.item(), abs=1e-6)
    expected = weights_by_hand(step, net, replay(step, net) + 0.005 * distance)
    for parameter, value in expected.items():
        own = step.recipe.student.get_parameter(parameter).detach()
        torch.testing.assert_close(own, value, atol=1e-6, rtol=0.0, msg=parameter)
