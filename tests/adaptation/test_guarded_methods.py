"""Every method under guards that find each candidate bad: the source network predicts, then learning goes on."""

from __future__ import annotations

import pytest
import torch
from recipe_kit import KINDS, make_recipe, settings_of, stream, trained
from test_every_method import METHODS, SHORT, STILL, make
from test_option_table import FORMER, LORA, TWO, Data

from online_uda.adaptation.guards.guard import Guard
from online_uda.adaptation.recipe import Recipe

REST = 4
GUARDS = ("guards={every: 1, canary: 1, patience: 1, rest: 4}",)
ADAPTERS: dict[str, Data] = {
    "lora": LORA, "two_rank": TWO, "conv": {**LORA, "adapters": {"kind": "conv"}}, "adaptformer": FORMER,
    "side": {**LORA, "adapters": {"kind": "side"}},
    "a teacher of lora": {**LORA, "teacher": {"half_life_frames": 2}, "deploy": "teacher"},
}  # fmt: skip


@pytest.fixture
def nothing_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guard, "_fault_of_candidate", lambda *_: ("canary", "found bad"))


def play_until_it_rests(recipe: Recipe) -> None:
    for frame in stream(24, haze=0.7):
        recipe.observe(frame, recipe.predict(frame))
        if any(event.action == "frozen" for event in recipe.take_events()):
            return
    raise AssertionError("no candidate was scored in 24 frames")


def assert_rests_as_the_source_network(recipe: Recipe, kind: str) -> None:
    source, guard = trained(kind), recipe._guard
    assert guard is not None
    assert guard.resting
    for frame in stream(4 * REST, seed=9):
        prediction = recipe.predict(frame)
        if guard.resting:
            torch.testing.assert_close(prediction.logits, source(frame).logits, atol=1e-6, rtol=0.0)
        recipe.observe(frame, prediction)
        if any(event.action == "resume" for event in recipe.take_events()):
            return
    raise AssertionError("the rest has no end")


@pytest.mark.usefixtures("nothing_passes")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_go_back_to_where_they_change_nothing(name: str, kind: str) -> None:
    if name == "adaptformer" and kind == "batchnorm":
        pytest.skip("goes beside MLPs, and this network has none")
    slot = {"every": 1, "canary": 1, "patience": 1, "rest": REST}
    recipe = make_recipe(settings_of(ADAPTERS[name], guards=slot, norm={"statistics": "source"}), trained(kind))
    play_until_it_rests(recipe)
    assert_rests_as_the_source_network(recipe, kind)


# Frames near the source are not learned from, or not at once; what they see is moved and their answers fused.
SELDOM = {"default", "dressed", "hamlet"}
# It normalises with the frame's own statistics at rest too: that is no weight which a guard could put back.
OWN = {"iabn"}
WATCHED = [name for name in METHODS if name not in STILL | SELDOM | OWN]


@pytest.mark.usefixtures("nothing_passes")
@pytest.mark.parametrize("name", WATCHED)
def test_at_rest_every_method_answers_as_the_source_network(name: str) -> None:
    changes = {name: (*SHORT.get(name, ()), *GUARDS, "norm.statistics=source")}
    if name in ("dua", "norm_ema"):  # what moves are statistics
        changes = {name: GUARDS}
    recipe = make(name, "layernorm", changes=changes)
    play_until_it_rests(recipe)
    assert_rests_as_the_source_network(recipe, "layernorm")
