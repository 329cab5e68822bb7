"""Frames answered by weights between the source's and the learned ones, by distance (WiSE-FT)."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from recipe_kit import REPLAY, Scripted, changed, copy_of, make_recipe, play, settings_of, stream, trained

from online_uda.adaptation.ensemble import DistanceEnsemble
from online_uda.adaptation.recipe import Recipe
from online_uda.adaptation.trigger.base import Decision
from online_uda.networks.segmenter import Segmenter
from online_uda.runtime.buffered import BufferedPredictor

STUDENT: dict[str, Any] = {**REPLAY, "trigger": {"kind": "drift"}}
TEACHER: dict[str, Any] = {**STUDENT, "teacher": {"cap": 0.5}, "deploy": "teacher"}
FRAME = next(stream(1, seed=7))


def learned(data: dict[str, Any], distance: float, ensemble: tuple[float, float] | None = (1.0, 2.0)) -> Recipe:
    """A recipe that has learned from two frames, and was told of ``distance`` at the second."""
    trigger = Scripted(Decision(True, distance=3.0), Decision(True, distance=distance), Decision(False))
    recipe = make_recipe(settings_of(data, anchor={"ensemble": ensemble}), trained("layernorm"), trigger=trigger)
    play(recipe, stream(2))
    return recipe


def between(source: Segmenter, deployed: Segmenter, share: float) -> Segmenter:
    """By hand, a parameter at a time."""
    made = copy.deepcopy(deployed)
    at_home = dict(source.named_parameters())
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_((1.0 - share) * at_home[name] + share * parameter)
    return made


@pytest.mark.parametrize(("distance", "share"), [(0.2, 0.0), (1.0, 0.0), (1.25, 0.25), (2.0, 1.0), (9.0, 1.0)])
def test_the_share_grows_with_the_distance(distance: float, share: float) -> None:
    ensemble = DistanceEnsemble((1.0, 2.0), [], [])
    ensemble.watch(Decision(False, distance=distance))
    assert ensemble.share == share
    ensemble.watch(Decision(False))  # nothing tells: the share stays
    assert ensemble.share == share


@pytest.mark.parametrize("data", [STUDENT, TEACHER], ids=["student", "teacher"])
@pytest.mark.parametrize(("distance", "share"), [(0.5, 0.0), (1.25, 0.25), (1.75, 0.75), (3.0, 1.0)])
def test_weights_between_answer(data: dict[str, Any], distance: float, share: float) -> None:
    recipe = learned(data, distance)
    source = trained("layernorm")
    assert changed(copy_of(source), copy_of(recipe.deployed))
    expected = between(source, recipe.deployed, share)(FRAME).logits
    torch.testing.assert_close(recipe.predict(FRAME).logits, expected, rtol=1e-5, atol=1e-5)
    if share == 0.0:
        assert torch.equal(recipe.predict(FRAME).logits, source(FRAME).logits)


@pytest.mark.parametrize("data", [STUDENT, TEACHER], ids=["student", "teacher"])
def test_learning_goes_on_with_the_whole(data: dict[str, Any]) -> None:
    """Every weight is, bit for bit, what it is without an ensemble."""
    one, other = learned(data, 1.5), learned(data, 1.5, None)
    assert not torch.equal(one.predict(FRAME).logits, other.predict(FRAME).logits)
    for ours, theirs in ((one.student, other.student), (one.deployed, other.deployed)):
        assert not changed(copy_of(ours), copy_of(theirs))


def test_a_predictor_with_memory_of_its_own_has_the_share_of_the_last_publication() -> None:
    recipe = learned(TEACHER, 1.25)
    expected = recipe.predict(FRAME).logits
    recipe.use_predictor(lambda network, wishes: BufferedPredictor(network, wishes, nullcontext))
    recipe.publish()
    assert torch.equal(recipe.predict(FRAME).logits, expected)
    assert not changed(copy_of(recipe.deployed), copy_of(learned(TEACHER, 1.25).deployed))


def test_a_resumed_recipe_answers_alike() -> None:
    recipe = learned(TEACHER, 1.25)
    resumed = learned(TEACHER, 3.0)
    resumed.load_state_dict(recipe.state_dict())
    assert torch.equal(resumed.predict(FRAME).logits, recipe.predict(FRAME).logits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trigger": {"kind": "always"}}, "needs trigger.kind drift, which measures distances; with another, set"),
        ({"anchor__ensemble": [2.0, 2.0]}, "all that was learned answers at the second distance, which must be larger"),
        ({"scope__parameters": "none", "objectives": {}}, "no parameter learns, so there is nothing to put back"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings_of({**STUDENT, "anchor": {"ensemble": [1.0, 2.0]}}, **changes)
