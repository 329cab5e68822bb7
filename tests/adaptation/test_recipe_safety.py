"""What a recipe must never do: touch the source network, learn from what is not finite, or see a label."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recipe_kit import (
    FROZEN,
    HAMLET,
    KINDS,
    METHODS,
    SIZE,
    TENT,
    changed,
    copy_of,
    make_recipe,
    play,
    settings_of,
    stream,
    trained,
    untrained,
)
from torch import Tensor, nn

from online_uda.adaptation.method import Method
from online_uda.adaptation.objectives.cross_entropy import cross_entropy
from online_uda.adaptation.recipe import Recipe
from online_uda.errors import UserError


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", METHODS)
def test_the_source_never_changes_and_is_what_predicts_first(name: str, kind: str) -> None:
    network = trained(kind)
    before, flags = copy_of(network), [module.training for module in network.modules()]
    recipe = make_recipe(settings_of(METHODS[name]), network)
    frames = list(stream(4))
    assert torch.equal(recipe.predict(frames[0]).logits, trained(kind)(frames[0]).logits)
    reports = play(recipe, iter(frames))
    assert not changed(before, copy_of(network))
    assert [module.training for module in network.modules()] == flags
    assert not any(module.training for module in recipe.student.modules())
    # Both networks have a BatchNorm layer, the SegFormer in its head alone.
    moves = name != "frozen"
    assert reports[-1].updated is moves
    assert bool(changed(before, copy_of(recipe.student))) is moves


@pytest.mark.parametrize("statistics", ["source", "stream", "batch"])
def test_no_choice_of_statistics_touches_the_source(statistics: str) -> None:
    network = trained("batchnorm")
    before = copy_of(network)
    play(make_recipe(settings_of(FROZEN, norm={"statistics": statistics}), network), stream(3))
    assert not changed(before, copy_of(network))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_of_nan_is_answered_and_not_learned_from(name: str, kind: str) -> None:
    """Weights, statistics and optimiser stay finite and as they were; the next frame is learned from again."""
    recipe = make_recipe(settings_of(METHODS[name]), trained(kind))
    good = list(stream(3))
    play(recipe, iter(good[:1]))
    before = copy_of(recipe.student)
    bad = torch.full((1, 3, *SIZE), float("nan"))
    report = recipe.observe(bad, recipe.predict(bad))
    if "entropy" in report.losses or name == "statistics":
        assert not report.updated
        assert report.scope is None
        assert report.learning_rate is None
        assert not changed(before, copy_of(recipe.student))
    after = play(recipe, iter(good[1:]))[-1]
    assert all(tensor.isfinite().all() for tensor in copy_of(recipe.student).values() if tensor.is_floating_point())
    assert recipe.predict(good[2]).logits.isfinite().all()
    assert after.updated is (name != "frozen")


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_loss_that_is_not_finite_takes_no_step(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with BatchNorm in train mode, whose statistics have then already seen the step's crops."""
    recipe = make_recipe(settings_of(HAMLET, student_mode=mode), trained("batchnorm"))
    frames = list(stream(3))
    play(recipe, iter(frames[:1]))
    before = copy_of(recipe.student)
    moments = copy.deepcopy(recipe.state_dict()["optimizer"])
    real = cross_entropy
    monkeypatch.setattr("online_uda.adaptation.mixing.cross_entropy", lambda *args: real(*args) * float("nan"))
    report = play(recipe, iter(frames[1:2]))[0]
    assert not report.updated
    assert report.losses["mixed"] != report.losses["mixed"]
    assert not changed(before, copy_of(recipe.student))
    after = recipe.state_dict()["optimizer"]
    for index, state in moments["state"].items():
        assert torch.equal(state["exp_avg"], after["state"][index]["exp_avg"])
    monkeypatch.undo()
    assert play(recipe, iter(frames[2:]))[0].updated
    assert changed(before, copy_of(recipe.student))


def test_a_finite_loss_with_an_infinite_gradient_takes_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def steep(logits: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        return (logits - logits.detach()).abs().sum().sqrt(), torch.tensor(True)  # 0, with an infinite slope

    recipe = make_recipe(settings_of(TENT), trained("layernorm"))
    before = copy_of(recipe.student)
    monkeypatch.setattr("online_uda.adaptation.entropy_step.selected_entropy", steep)
    report = play(recipe, stream(1))[0]
    assert report.losses == {"entropy": 0.0}
    assert not report.updated
    assert not changed(before, copy_of(recipe.student))


def test_labels_cannot_reach_a_method() -> None:
    """By type: a method is handed frames and its own predictions."""
    for owner in (Recipe, Method):
        assert list(inspect.signature(owner.observe).parameters) == ["self", "frames", "prediction"]
        assert list(inspect.signature(owner.predict).parameters) == ["self", "frames"]


def test_a_scope_that_fits_nothing_is_refused() -> None:
    network = trained("layernorm")
    network.head = nn.Sequential(nn.Identity())
    with pytest.raises(UserError, match=r"scope\.parameters head fits nothing"):
        make_recipe(settings_of(TENT, scope={"parameters": "head"}), network)


def test_hamt_needs_as_many_modules_as_it_has_speeds() -> None:
    network = untrained("batchnorm")
    del network.stages[-1]
    with pytest.raises(UserError, match=r"4 modules, this network has 3; set scope\.select to fixed"):
        make_recipe(settings_of(TENT, scope={"parameters": "suffix"}), network)
    make_recipe(settings_of(TENT, scope={"parameters": "suffix", "select": "fixed"}), untrained("batchnorm"))


def test_frames_of_another_size_than_the_replayed_images() -> None:
    """Larger, smaller and odd frames all pass through every slot."""
    recipe = make_recipe(settings_of(HAMLET, replay__style={}), trained("layernorm"))
    for size in ((96, 160), (32, 80), (70, 131)):
        frame = F.interpolate(next(stream(1)), size)
        prediction = recipe.predict(frame)
        assert prediction.labels().shape == (1, *size)
        report = recipe.observe(frame, prediction)
        assert report.updated
