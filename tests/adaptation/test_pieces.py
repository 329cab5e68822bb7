"""A step in pieces is the step in one go; in between, frames are predicted as if nothing were going on."""

from __future__ import annotations

import copy

import pytest
import torch

from online_uda.adaptation.pieces import CROP_GRID, Effort, finish, window
from online_uda.adaptation.settings import MethodSettings
from online_uda.adaptation.staged_pass import backward_pieces, forward_pieces
from online_uda.adaptation.trigger.base import Decision
from online_uda.networks.spec import NetworkOptions
from online_uda.networks.zoo import load_network
from streams.classes import CAMVID_11
from tests.adaptation.recipe_kit import HAMLET, KINDS, METHODS, REPLAY, TENT, make_recipe, settings_of, stream, trained
from tests.run_kit import assert_same

STREAM = {"statistics": "stream"}
SETTINGS: dict[str, MethodSettings] = {name: settings_of(data) for name, data in METHODS.items()}
SETTINGS["averaged"] = settings_of(
    REPLAY, teacher__half_life_frames=4, deploy="teacher", norm=STREAM, objectives__entropy={}, steps=2
)
LEARNING = ("tent", "hamlet", "replay", "averaged")


OTHERS = ("timm:vit_tiny_patch16_224+upernet", "timm:convnext_atto+deeplabv3plus")
"""Stages that hand on tokens with their grid, and stages whose map for the head is not what they hand on."""


@pytest.mark.parametrize("kind", [*KINDS, *OTHERS])
def test_gradients_of_a_cut_pass_are_those_of_the_whole(kind: str) -> None:
    network = (
        trained(kind) if kind in KINDS else load_network(kind, CAMVID_11, NetworkOptions(init="random")).network.eval()
    )
    whole, cut = (copy.deepcopy(network).requires_grad_(True) for _ in range(2))
    frames = next(stream(1))

    def loss_of(logits: torch.Tensor, features: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return logits.square().mean() + features[-1].abs().mean() + features[1].square().mean()

    output = whole(frames)
    loss_of(output.logits, output.features).backward()
    passed = finish(forward_pieces(cut, frames, torch.enable_grad, "x"))
    assert torch.equal(passed.output.logits, output.logits)
    names = list(backward_pieces(passed, loss_of(passed.output.logits, passed.output.features), "x"))
    assert names == ["x.backward.head", *(f"x.backward.{number}" for number in (4, 3, 2, 1))]
    for (name, one), (_, other) in zip(whole.named_parameters(), cut.named_parameters(), strict=True):
        if one.grad is None:
            assert other.grad is None
        else:
            assert other.grad is not None
            if kind in KINDS:
                assert torch.equal(one.grad, other.grad), name
            else:
                torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5 * float(one.grad.abs().max()))


def test_nothing_is_propagated_below_the_last_stage_that_learns() -> None:
    network = trained("layernorm")
    network.stages[2].requires_grad_(True)
    passed = finish(forward_pieces(network, next(stream(1)), torch.enable_grad, "x"))
    names = list(backward_pieces(passed, passed.output.logits.square().mean(), "x"))
    assert names == ["x.backward.head", "x.backward.4", "x.backward.3"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LEARNING)
def test_frames_predicted_between_pieces_see_no_half_done_step_and_change_none(name: str, kind: str) -> None:
    """Dropout, BatchNorm in train mode and gradients in flight stay inside their pieces."""
    alone, disturbed = (make_recipe(SETTINGS[name], trained(kind)) for _ in range(2))
    probe = next(stream(1, seed=77))
    for frames in stream(3):
        report = alone.observe(frames, alone.predict(frames))
        prediction = disturbed.predict(frames)
        pieces = disturbed.learn(frames, disturbed.watch(frames, prediction))
        names: list[str] = []
        held = None
        while True:
            try:
                names.append(next(pieces))
            except StopIteration as done:
                in_pieces = done.value
                break
            torch.rand(3)  # what else runs may draw
            if names[-1] == "begin":
                held = None  # the teacher and the absorbed statistics are published here
            elif len(names) > 2 and names[-2].startswith(("begin", "update")):
                held = None  # whole tensors: the optimiser's step, then what holds it back
            seen = disturbed.student(probe).logits
            assert held is None or torch.equal(seen, held), names[-1]
            held = seen
            assert not disturbed.student.training
        assert in_pieces == report
        assert len(names) > 10
        assert_same(disturbed.state_dict(), alone.state_dict())


@pytest.mark.parametrize("name", LEARNING)
def test_a_step_given_up_moves_no_weight(name: str) -> None:
    recipe = make_recipe(SETTINGS[name], trained("batchnorm"))
    frames = next(stream(1))
    pieces = recipe.learn(frames, recipe.watch(frames, recipe.predict(frames)))
    assert [next(pieces), next(pieces)] == ["absorb", "begin"]
    next(pieces)
    before = copy.deepcopy(recipe.student.state_dict())
    while next(pieces) != "update":
        pass
    pieces.close()
    assert_same(dict(recipe.student.state_dict()), dict(before))
    report = recipe.observe(frames, recipe.predict(frames))
    assert report.scope is not None
    assert all(torch.isfinite(tensor).all() for tensor in recipe.student.state_dict().values())


def test_a_smaller_crop_is_what_the_student_sees() -> None:
    widths: list[int] = []
    for share in (1.0, 0.5):
        recipe = make_recipe(
            settings_of(REPLAY, objectives__entropy={}, replay={"crop": [1.0, 1.0]}), trained("layernorm")
        )
        frames = next(stream(1))
        recipe.student.stages[0].register_forward_pre_hook(lambda _, inputs: widths.append(inputs[0].shape[-1]))
        finish(recipe.learn(frames, Decision(learn=True), Effort(crop=share)))
    assert widths == [128, 128, 64, 64]


def test_a_shallower_scope_moves_only_the_stages_that_are_left() -> None:
    recipe = make_recipe(settings_of(REPLAY), trained("layernorm"))
    before = copy.deepcopy(recipe.student.state_dict())
    frames = next(stream(1))
    report = finish(recipe.learn(frames, Decision(learn=True), Effort(first_stage=3)))
    assert report.scope == "all, stages 3-4"
    moved = {name for name, value in recipe.student.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert not [name for name in moved if name.startswith(("stages.0.", "stages.1."))]
    assert finish(recipe.learn(frames, Decision(learn=True))).scope == "all"
    assert "stages.0.embed.proj.weight" in {
        name for name, value in recipe.student.state_dict().items() if not torch.equal(value, before[name])
    }


def test_without_effort_only_statistics_are_absorbed() -> None:
    recipe = make_recipe(settings_of(TENT, norm=STREAM), trained("batchnorm"))
    before = copy.deepcopy(recipe.student.state_dict())
    frames = next(stream(1))
    recipe.predict(frames)
    report = finish(recipe.learn(frames, Decision(learn=True), None))
    assert (report.updated, report.scope, report.losses) == (True, None, {})
    moved = {name for name, value in recipe.student.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all("running_" in name for name in moved)


def test_window_has_the_share_of_the_columns_and_is_drawn_only_when_smaller() -> None:
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    assert window(128, 1.0, generator) == slice(None)
    assert window(CROP_GRID, 0.1, generator) == slice(None)
    assert torch.equal(generator.get_state(), state)
    found = [window(256, 0.5, generator) for _ in range(20)]
    assert {part.stop - part.start for part in found} == {128}
    assert len({part.start for part in found}) > 5
    assert min(part.start for part in found) >= 0
    assert max(part.stop for part in found) <= 256


def test_hamlet_settings_of_the_kit_use_dropout() -> None:
    """What makes the test of predictions between pieces one of random states too."""
    assert settings_of(HAMLET).student_mode == "train"
