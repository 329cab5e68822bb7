"""Adversarial alignment, MMD, whitening and contrast as parts of a step, against gradients of a few lines."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recipe_kit import CAMVID_11, KINDS, SourceSet, changed, copy_of, play, settings_of, stream, trained
from torch import Tensor, nn

from online_uda.adaptation.adversarial_step import AdversarialStep
from online_uda.adaptation.build import build_method
from online_uda.adaptation.frame_pass import FramePass
from online_uda.adaptation.objectives.kernel_distance import kernel_distance
from online_uda.adaptation.objectives.pixel_contrast import cell_labels, pixel_contrast
from online_uda.adaptation.objectives.whitening import all_pairs, whitening_loss
from online_uda.adaptation.pieces import finish
from online_uda.adaptation.recipe import Recipe
from online_uda.adaptation.replay.source import SourceReplay
from online_uda.adaptation.settings.domains import AdversarialSettings
from online_uda.adaptation.views import quiet
from online_uda.errors import UserError
from online_uda.networks.checkpoints import LoadedNetwork
from online_uda.networks.segmenter import Segmenter

RATE = 0.05
BASE: dict[str, Any] = {
    "scope": {"parameters": "all"},
    "optimizer": {"name": "sgd", "learning_rate": RATE, "momentum": 0.0},
    "replay": {"frames": 8, "fill": "uniform", "sampling": "uniform"},
}
SEES = ("image", "pixel", "patch", "output", "entropy", "multi")


def recipe_of(objectives: dict[str, Any], kind: str = "batchnorm", **changes: Any) -> Recipe:
    settings = settings_of({**BASE, "objectives": objectives}, **changes)
    return build_method(
        settings, name="m", network=LoadedNetwork(trained(kind), CAMVID_11.names, True, kind), classes=CAMVID_11,
        source=SourceSet(), size=None, seed=0, device=torch.device("cpu"), bf16=False,
    )  # fmt: skip


def images_and_labels(recipe: Recipe) -> tuple[Tensor, Tensor]:
    """What the coming step draws."""
    replay = copy.deepcopy(recipe._replay)
    assert isinstance(replay, SourceReplay)
    return replay.draw(torch.device("cpu"))


def stepped(recipe: Recipe, kind: str, loss_of: Any) -> tuple[float, float]:
    """Largest difference of the weights after one step to a step by hand, and how far they moved."""
    images, labels = images_and_labels(recipe)
    frame = next(stream(1))
    hand = trained(kind).requires_grad_(True)
    hand.light_head.requires_grad_(False)
    loss = loss_of(hand, images, labels, frame)
    wanted = [(name, p) for name, p in hand.named_parameters() if not name.startswith("light_head.")]
    gradients = torch.autograd.grad(loss, [p for _, p in wanted], allow_unused=True)
    recipe.observe(frame, recipe.predict(frame))
    worst = moved = 0.0
    for (name, parameter), gradient in zip(wanted, gradients, strict=True):
        expected = parameter.detach() - (0.0 if gradient is None else RATE * gradient)
        worst = max(worst, (recipe.student.get_parameter(name) - expected).abs().max().item())
        moved = max(moved, (expected - parameter.detach()).abs().max().item())
    return worst, moved


@pytest.mark.parametrize("kind", KINDS)
def test_discrepancy_moves_both_sides(kind: str) -> None:
    recipe = recipe_of({"discrepancy": {"weight": 2.0, "cells": 4096}}, kind)

    def by_hand(net: Segmenter, images: Tensor, _: Tensor, frame: Tensor) -> Tensor:
        one, two = (net(x).features[-1].movedim(1, -1).flatten(0, -2) for x in (images, frame))
        return 2.0 * kernel_distance(one, two)

    worst, moved = stepped(recipe, kind, by_hand)
    assert worst < 1e-6 < moved


def test_whitening_and_contrast_add_to_the_replayed_pass() -> None:
    recipe = recipe_of({
        "replay": {}, "whitening": {"kind": "irw", "stages": [1, 3], "margin": 0.05, "weight": 0.7},
        "contrast": {"weight": 0.3, "temperature": 0.5, "exclude": ["sky"]},
    })  # fmt: skip

    def by_hand(net: Segmenter, images: Tensor, labels: Tensor, _: Tensor) -> Tensor:
        said = net(images)
        ignored = F.cross_entropy(said.full(), labels, ignore_index=255, reduction="sum") / labels.numel()
        one, three = (whitening_loss(said.features[i], all_pairs(said.features[i].shape[1]), 0.05) for i in (0, 2))
        last = said.features[-1]
        ids = cell_labels(labels, (int(last.shape[-2]), int(last.shape[-1])), 11)
        return ignored + 0.7 * (one + three) / 2 + 0.3 * pixel_contrast(last, ids, 0.5, exclude=(0,))

    worst, moved = stepped(recipe, "batchnorm", by_hand)
    assert worst < 2e-6 < moved


def test_adversarial_step_by_hand() -> None:
    """The segmenter steps up the domain loss by lambda, the discriminator down."""
    recipe = recipe_of({"adversarial": {"sees": "image", "reversal": 0.4, "ramp": 0, "weight": 2.0}})
    assert recipe._gradients._adversarial is not None
    judge = copy.deepcopy(recipe._gradients._adversarial.discriminator)

    def by_hand(net: Segmenter, images: Tensor, _: Tensor, frame: Tensor) -> Tensor:
        said = [judge([net(x).features[-1]])[0] for x in (images, frame)]
        right = -torch.log(1.0 - said[0].sigmoid()).mean() - torch.log(said[1].sigmoid()).mean()
        return -0.4 * 2.0 * right

    worst, moved = stepped(recipe, "batchnorm", by_hand)
    assert worst < 1e-6 < moved
    now = recipe._gradients._adversarial.discriminator.state_dict()
    assert all((now[name] - old).abs().max() <= 1.01e-4 for name, old in judge.state_dict().items())
    assert any(not torch.equal(now[name], old) for name, old in judge.state_dict().items())


def test_least_squares() -> None:
    recipe = recipe_of({"adversarial": {"loss": "least_squares", "sees": "patch", "reversal": 1.0, "ramp": 0}})
    assert recipe._gradients._adversarial is not None
    judge = copy.deepcopy(recipe._gradients._adversarial.discriminator)

    def by_hand(net: Segmenter, images: Tensor, _: Tensor, frame: Tensor) -> Tensor:
        said = [judge([net(x).features[-1]])[0] for x in (images, frame)]
        return -(said[0].square().mean() + (said[1] - 1.0).square().mean())

    worst, moved = stepped(recipe, "batchnorm", by_hand)
    assert worst < 1e-6 < moved


@pytest.mark.parametrize("phase", ["disc_only", "seg_only"])
def test_check_3_a_phase_leaves_the_other_network_alone(phase: str) -> None:
    recipe = recipe_of(
        {"adversarial": {"phase": phase, "ramp": 0}, "entropy": {}}, norm={"statistics": "batch"}
    )  # fmt: skip
    assert recipe._gradients._adversarial is not None
    before, judge = copy_of(recipe.student), copy_of(recipe._gradients._adversarial.discriminator)
    play(recipe, stream(3))
    assert bool(changed(before, copy_of(recipe.student))) is (phase == "seg_only")
    assert bool(changed(judge, copy_of(recipe._gradients._adversarial.discriminator))) is (phase == "disc_only")


@pytest.mark.parametrize("sees", SEES)
def test_check_4_every_kind_reverses_the_gradient(sees: str) -> None:
    """The encoder's gradient with reversal against that without: cosine -1. Batch 1 works."""
    found = []
    for strength in (1.0, -1.0):
        recipe = recipe_of({"adversarial": {"sees": sees, "reversal": strength, "ramp": 0}})
        before = copy_of(recipe.student)
        play(recipe, stream(1))
        after = copy_of(recipe.student)
        found.append(torch.cat([(after[name] - before[name]).flatten() for name in before if "weight" in name]))
    assert F.cosine_similarity(found[0], found[1], dim=0).item() == pytest.approx(-1.0, abs=1e-3)


def test_check_4_without_reversal_the_weights_are_those_of_replay_alone() -> None:
    plain = recipe_of({"replay": {}})
    with_judge = recipe_of({"replay": {}, "adversarial": {"reversal": 0.0}})
    play(plain, stream(3))
    play(with_judge, stream(3))
    assert not changed(copy_of(plain.student), copy_of(with_judge.student))


def test_the_reversal_rises_since_the_last_change() -> None:
    run = FramePass(trained("batchnorm"), lambda: torch.no_grad(), torch.Generator().manual_seed(0))
    step = AdversarialStep(
        AdversarialSettings(ramp=4, reversal=2.0), run, run, quiet(run.student, lambda: torch.no_grad())
    )
    seen = []
    for _ in range(6):
        seen.append(step.strength)
        step._steps += 1
    assert seen[0] == 0.0
    assert seen == sorted(seen)
    assert seen[4] == seen[5] == pytest.approx(2.0, abs=1e-3)
    step.shifted()
    assert step.strength == 0.0


class Toy(Segmenter):
    """Features that are the input's cells, moved by a learned shift; what alignment has to undo is a shift."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.shift = nn.Parameter(torch.zeros(3))
        self.stages = nn.ModuleList()
        self.answers = 2

    def forward(self, x: Tensor) -> Any:
        from online_uda.networks.segmenter import Segmentation

        moved = x + self.shift.view(1, 3, 1, 1) * (x.mean() > 1.0)  # the stream's own input layer
        size = (int(x.shape[-2]), int(x.shape[-1]))
        return Segmentation(moved[:, :2], (moved,), size, size)


def test_check_5_a_toy_shift_is_told_apart_and_then_removed() -> None:
    """Stream = source + 2 sigma: held-out accuracy >= 95 % after disc_only, <= 65 % after 300 adversarial steps."""
    drawn = torch.Generator().manual_seed(0)
    net = Toy()

    def draw(domain: int) -> Tensor:
        return torch.randn(1, 3, 8, 8, generator=drawn) + 2.0 * domain

    run = FramePass(net, torch.enable_grad, drawn)
    slot = AdversarialSettings(sees="patch", phase="disc_only", learning_rate=1e-2, ramp=0, reversal=1.0)
    step = AdversarialStep(slot, run, run, net)

    def accuracy() -> float:
        right = []
        with torch.no_grad():
            for domain in (0, 1):
                for _ in range(8):
                    verdict = step.discriminator([net(draw(domain)).features[-1]])[0]
                    right.append(((verdict > 0) == bool(domain)).float().mean())
        return float(torch.stack(right).mean())

    for _ in range(200):
        finish(step.pieces(draw(1), draw(0)))
    assert net.shift.abs().max() == 0.0
    assert accuracy() >= 0.95
    step._settings = slot.model_copy(update={"phase": "both"})
    optimizer = torch.optim.SGD([net.shift], 0.05)
    for _ in range(300):
        optimizer.zero_grad()
        finish(step.pieces(draw(1), draw(0)))
        optimizer.step()
    assert accuracy() <= 0.65
    assert net.shift.mean().item() == pytest.approx(-2.0, abs=0.5)


def test_isw_takes_the_pairs_that_recolouring_moves() -> None:
    recipe = recipe_of({"replay": {}, "whitening": {"frames": 4, "stages": [1, 2]}})
    whitening = recipe._gradients._whitening
    assert whitening is not None
    for mask in whitening.masks:
        assert 0 < mask.sum() < all_pairs(len(mask)).sum()
        assert not (mask & ~all_pairs(len(mask))).any()


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"adversarial": {}}, {"replay": None}, "needs the slot replay"),
    ({"discrepancy": {}}, {"replay": None}, "needs the slot replay"),
    ({"whitening": {}}, {}, "needs objectives.replay, whose maps"),
    ({"whitening": {"kind": "iw", "margin": 0.5}, "replay": {}}, {}, "belongs to kind irw"),
    ({"whitening": {"stages": []}, "replay": {}}, {}, "is empty"),
    ({"contrast": {"of": "mixed"}, "replay": {}}, {}, "needs objectives.mixed"),
    ({"adversarial": {"phase": "disc_only"}}, {"norm": {"statistics": "stream"}}, "leaves the segmenter alone"),
    ({"adversarial": {}}, {"optimizer__sharpness": 0.1}, "takes the same step twice"),
]


@pytest.mark.parametrize(("objectives", "changes", "text"), REFUSED, ids=[text for *_, text in REFUSED])
def test_what_cannot_work_is_refused(objectives: dict[str, Any], changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        settings_of({**BASE, "objectives": objectives}, **changes)


@pytest.mark.parametrize(
    ("objectives", "text"),
    [({"replay": {}, "whitening": {"stages": [7]}}, "names stage 7"),
     ({"replay": {}, "contrast": {"exclude": ["Cow"]}}, "no class 'Cow'")],
)  # fmt: skip
def test_what_the_network_does_not_have_is_named(objectives: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        recipe_of(objectives)
