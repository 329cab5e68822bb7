"""RoTTA, GTTA, EcoTTA, MAD and RODASS: their rules against a few lines of their own (<= 1e-6 in float64)."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recipe_kit import KINDS, changed, copy_of, make_recipe, play, settings_of, stream, trained
from test_domain_alignment import images_and_labels, recipe_of, stepped
from torch import Tensor

from online_uda.adaptation.mixing import classmix_mask
from online_uda.adaptation.patch_mask import ambiguous_patches
from online_uda.adaptation.remembered_step import RememberedStep, timeliness
from online_uda.adaptation.scope_lottery import ModuleLottery
from online_uda.adaptation.target_memory import Remembered, TargetMemory
from online_uda.adaptation.transfer_step import class_moments, transferred
from online_uda.networks.adapters import adapter_parameters

SGD: dict[str, Any] = {"name": "sgd", "learning_rate": 0.05, "momentum": 0.0}


def item(category: int, uncertainty: float) -> Remembered:
    return Remembered(torch.zeros(3, 1, 1, dtype=torch.uint8), category, uncertainty)


# RoTTA


def test_the_memory_keeps_categories_in_balance_and_drops_the_old_and_unsure() -> None:
    memory = TargetMemory(4, 2)
    for uncertainty in (0.1, 0.3):
        assert memory.offer(item(0, uncertainty))
    assert [held.age for held in memory.items] == [2, 1]
    # Category 0 is full: the worst of it goes, if the newcomer is better.
    scores = [1 / (1 + math.exp(-held.age / 4)) + held.uncertainty for held in memory.items]
    assert [memory.score(held) for held in memory.items] == pytest.approx(scores)
    assert memory.offer(item(0, 0.2))
    assert [held.uncertainty for held in memory.items] == [0.1, 0.2]
    assert not memory.offer(item(0, 0.9))
    assert memory.offer(item(1, 0.9))
    assert memory.offer(item(1, 0.8))
    assert len(memory.items) == 4
    # With more categories than places the fullest one makes room.
    crowd = TargetMemory(3, 2)
    for category in (0, 0, 1):
        crowd.offer(item(category, 0.2))
    assert crowd.offer(item(1, 0.0))
    assert sorted(held.category for held in crowd.items) == [0, 1, 1]
    restored = TargetMemory(3, 2)
    restored.load_state_dict(copy.deepcopy(crowd.state_dict()))
    assert [(h.category, h.age) for h in restored.items] == [(h.category, h.age) for h in crowd.items]


@pytest.mark.parametrize("kind", KINDS)
def test_rotta_by_hand(kind: str) -> None:
    """Two steps; frames that were predicted but not learned from are in the memory, and old ones count less."""
    data: dict[str, Any] = {
        "scope": {"parameters": "norm"}, "optimizer": SGD, "deploy": "teacher",
        "teacher": {"cap": 0.9, "warm_up": False, "follows": "after"},
        "objectives": {"remembered": {"frames": 44, "jitter_strength": 0.0, "blur_probability": 0.0}},
    }  # fmt: skip
    recipe = make_recipe(settings_of(data), trained(kind).double())
    student, teacher = trained(kind).double(), trained(kind).double()
    names = [name for name, _ in recipe.learning]
    held: list[Tensor] = []
    for seed in (50, 51):
        x = next(stream(1, seed=seed)).double()
        held.append((x * 255 + 0.5).clamp(0, 255).to(torch.uint8).double() / 255)
        for name in names:
            student.get_parameter(name).requires_grad_(True)
        loss: Any = 0.0
        for position, seen in enumerate(held):
            with torch.no_grad():
                q = teacher(seen).logits.softmax(1)
            a = (len(held) - position) / 44
            cross = -(q * student(seen).logits.log_softmax(1)).sum(1).mean()
            loss = loss + math.exp(-a) / (1 + math.exp(-a)) * cross / len(held)
        gradients = torch.autograd.grad(loss, [student.get_parameter(name) for name in names])
        report = recipe.observe(x, recipe.predict(x))
        step = recipe._gradients._of_the_frame["remembered"]
        assert isinstance(step, RememberedStep)
        assert [h.age for h in step.memory.items] == list(range(len(held), 0, -1))
        assert report.losses["remembered"] == pytest.approx(loss.item(), abs=1e-8)
        with torch.no_grad():
            for name, gradient in zip(names, gradients, strict=True):
                own = student.get_parameter(name)
                own -= 0.05 * gradient
                teacher.get_parameter(name).copy_(0.9 * teacher.get_parameter(name) + 0.1 * own)
    for name in names:
        torch.testing.assert_close(recipe.student.get_parameter(name), student.get_parameter(name), atol=1e-6, rtol=0.0)
    assert timeliness(0.0) == 0.5


# GTTA


def test_class_wise_adain_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    images, target = (
        torch.rand(2, 3, 8, 8, generator=generator),
        torch.rand(1, 3, 8, 8, generator=generator) * 0.2 + 0.4,
    )
    labels, seen = (
        torch.randint(0, 3, (2, 8, 8), generator=generator),
        torch.randint(0, 2, (1, 8, 8), generator=generator),
    )
    labels[0, 0] = 255
    mean, spread, counts = class_moments(target, seen, 3)
    for c in (0, 1):
        pixels = target.movedim(1, -1)[seen == c]
        torch.testing.assert_close(mean[c], pixels.mean(0))
        torch.testing.assert_close(spread[c], pixels.std(0, correction=0))
    found = transferred(images, labels, mean, spread, counts > 0)
    for c in (0, 1):  # its moments are those of the stream's class
        pixels = found.movedim(1, -1)[labels == c]
        torch.testing.assert_close(pixels.mean(0), mean[c], atol=1e-5, rtol=0.0)
        torch.testing.assert_close(pixels.std(0, correction=0), spread[c], atol=1e-5, rtol=0.0)
    for untouched in (labels == 2, labels == 255):
        assert torch.equal(found.movedim(1, -1)[untouched], images.movedim(1, -1)[untouched])


def test_gtta_by_hand() -> None:
    recipe = recipe_of({"transfer": {"of_frame": 0.2, "min_pixels": 1}})

    def by_hand(net: Any, images: Tensor, labels: Tensor, frame: Tensor) -> Tensor:
        logits = net(frame).full()
        with torch.no_grad():
            sure, pseudo = logits.softmax(1).max(1)
            pseudo = torch.where(sure >= sure.mean().sqrt(), pseudo, 255)
            mean, spread, counts = class_moments(frame, pseudo, 11)
            dressed = transferred(images, labels, mean, spread, counts > 0)
        own = F.cross_entropy(logits, pseudo, ignore_index=255)
        others = F.cross_entropy(net(dressed).full(), labels, ignore_index=255, reduction="sum") / labels.numel()
        return others + 0.2 * own

    worst, moved = stepped(recipe, "batchnorm", by_hand)
    assert worst < 1e-6 < moved
    assert images_and_labels(recipe)[0].shape[1] == 3


# EcoTTA


@pytest.mark.parametrize("kind", KINDS)
def test_ecotta_learns_side_nets_alone(kind: str) -> None:
    data: dict[str, Any] = {"scope": {"parameters": "adapters"}, "adapters": {"kind": "side"}, "optimizer": SGD,
                            "objectives": {"entropy": {}, "near_source": {"weight": 0.25}}}  # fmt: skip
    recipe = make_recipe(settings_of(data), trained(kind))
    plain, x = trained(kind), next(stream(1))
    torch.testing.assert_close(recipe.predict(x).logits, plain(x).logits, atol=0.0, rtol=0.0)
    before = copy_of(recipe.student)
    reports = play(recipe, stream(3))
    moved = changed(before, copy_of(recipe.student))
    assert moved
    assert moved <= {name for name, _ in adapter_parameters(recipe.student)}
    assert reports[0].losses["near_source"] == 0.0
    with torch.no_grad():
        own, anchor = recipe.student(x).features, plain(x).features
        expected = sum((one - two).abs().mean() for one, two in zip(own, anchor, strict=True))
    assert recipe.observe(x, recipe.predict(x)).losses["near_source"] == pytest.approx(float(expected), rel=1e-5)


def test_a_side_net_by_hand() -> None:
    data: dict[str, Any] = {"scope": {"parameters": "adapters"}, "adapters": {"kind": "side", "scale": 2.0},
                            "optimizer": SGD, "objectives": {"entropy": {}}}  # fmt: skip
    recipe = make_recipe(settings_of(data), trained("batchnorm"))
    side = recipe.student.get_submodule("stages.0.2.adapter")
    torch.nn.init.normal_(side.get_parameter("conv.weight"))
    x = next(stream(1))
    z, found = trained("batchnorm")(x).features[0], recipe.student(x).features[0]
    unit = (z - z.mean((0, 2, 3), keepdim=True)) / (z.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    expected = z + 2.0 * F.conv2d(unit, side.get_parameter("conv.weight"), padding=1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="side cannot be folded"):
        settings_of({**data, "teacher": {}, "deploy": "teacher"})


# MAD


def test_mad_by_hand() -> None:
    """Scores after a stream of losses, with the decay; a module that no one trained has none."""
    lottery = ModuleLottery(3, 0.9, "round_robin", torch.Generator().manual_seed(0))
    losses, scores, chosen = [2.0, 1.5, 1.4, 1.0, 1.2], [0.0] * 3, []
    for step, loss in enumerate(losses):
        chosen.append(lottery.select())
        lottery.update(loss)
        scores = [0.9 * score for score in scores]
        if step:
            before_last, last = losses[max(step - 2, 0)], losses[step - 1]
            scores[chosen[step - 1] - 1] += 0.1 * ((2 * last - before_last) - loss)
        assert lottery.scores == pytest.approx(scores, abs=1e-12)
    assert chosen == [1, 2, 3, 1, 2]
    lottery.update(float("nan"))
    assert lottery.scores == pytest.approx(scores, abs=1e-12)


def test_mad_draws_by_its_scores_and_goes_on_after_a_pause() -> None:
    lottery = ModuleLottery(3, 0.99, "sample", torch.Generator().manual_seed(0))
    lottery.scores = [0.0, math.log(8.0), 0.0]
    drawn = [lottery.select() for _ in range(2000)]
    assert [drawn.count(module) / 2000 for module in (1, 2, 3)] == pytest.approx([0.1, 0.8, 0.1], abs=0.03)
    again = ModuleLottery(3, 0.99, "sample", torch.Generator())
    again.load_state_dict(copy.deepcopy(lottery.state_dict()))
    assert [again.select() for _ in range(20)] == [lottery.select() for _ in range(20)]
    best = ModuleLottery(3, 0.99, "best", torch.Generator())
    best.scores = [0.0, 1.0, 1.0]
    assert best.select() == 2
    even = ModuleLottery(3, 0.99, "random", torch.Generator().manual_seed(0))
    even.scores = [0.0, 50.0, 0.0]
    assert {even.select() for _ in range(30)} == {1, 2, 3}


def test_mad_trains_one_module_alone_and_resets_above_its_limit() -> None:
    scope = {"parameters": "suffix", "select": "mad", "draw": "round_robin", "train_fuse": True}
    data: dict[str, Any] = {"scope": scope, "optimizer": SGD, "objectives": {"entropy": {}}}
    recipe = make_recipe(settings_of(data), trained("layernorm"))
    for number, frame in enumerate(stream(4), start=1):
        before = copy_of(recipe.student)
        assert recipe.observe(frame, recipe.predict(frame)).scope == f"module {number}"
        moved = changed(before, copy_of(recipe.student))
        own = (f"stages.{number - 1}.", f"head.linears.{number - 1}.")
        rest = ("head.fuse", "head.norm", "head.classifier") if number == 4 else ()
        assert moved
        assert all(name.startswith(own + rest) for name in moved)
    again = make_recipe(settings_of(data, anchor__reset_above=1e-3), trained("layernorm"))
    start = copy_of(again.student)
    play(again, stream(2))
    assert not changed(start, copy_of(again.student))


# RODASS


def test_the_least_sure_patches_are_hidden() -> None:
    p = torch.full((1, 2, 4, 4), 0.5)
    p[:, 0, :2], p[:, 1, :2] = 0.9, 0.1
    p[:, 0, :2, :2], p[:, 1, :2, :2] = 0.6, 0.4
    frames, fill = torch.rand(1, 3, 32, 32), torch.zeros(1, 3, 1, 1)
    masked, hidden = ambiguous_patches(frames, 0.75, 16, fill, p)
    assert hidden.tolist() == [[True] * 16 + [False] * 16] * 16 + [[True] * 32] * 16
    assert torch.equal(masked[..., ~hidden], frames[..., ~hidden])
    assert (masked[0, :, hidden] == 0).all()
    assert not ambiguous_patches(frames, 0.0, 16, fill, p)[1].any()


def test_classes_are_pasted_by_how_ambiguous_they_are() -> None:
    labels = torch.arange(4).view(1, 1, 4)
    doubt, generator = torch.tensor([0.1, 0.1, 0.7, 0.1, 0.5]), torch.Generator().manual_seed(0)
    counts = torch.zeros(4)
    for _ in range(400):
        mask = classmix_mask(labels, 0.75, generator, wanted=doubt)
        assert mask.sum() == 1
        counts += mask[0, 0]
    assert (counts / 400).tolist() == pytest.approx([0.1, 0.1, 0.7, 0.1], abs=0.06)
    labels[0, 0, 0] = 255
    assert not any(classmix_mask(labels, 0.0, generator, wanted=doubt)[0, 0, 0] for _ in range(5))
