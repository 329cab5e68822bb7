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
from online_uda.adaptation.settings import EnsembleSettings
from online_uda.adaptation.trigger.base import Decision
from online_uda.networks.segmenter import Segmenter
from online_uda.runtime.buffered import BufferedPredictor

STUDENT: dict[str, Any] = {**REPLAY, "trigger": {"kind": "drift"}}
TEACHER: dict[str, Any] = {**STUDENT, "teacher": {"cap": 0.5}, "deploy": "teacher"}
FRAME = next(stream(1, seed=7))


WIDE: dict[str, Any] = {"near": 1.0, "full": 0.5}


def learned(data: dict[str, Any], distance: float, ensemble: dict[str, Any] | None = WIDE) -> Recipe:
    """A recipe that has learned from two frames, one at distance 4 and one at ``distance``: all answers from 2 on."""
    trigger = Scripted(
        Decision(True, distance=4.0, far=True), Decision(True, distance=distance, far=True), Decision(False)
    )
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


def told(ensemble: DistanceEnsemble, *distances: float, far: bool = True) -> float:
    for distance in distances:
        ensemble.watch(Decision(False, distance=distance, far=far))
    return ensemble.share


@pytest.mark.parametrize(("distance", "share"), [(0.2, 0.0), (1.0, 0.0), (1.25, 0.25), (2.0, 1.0), (4.0, 1.0)])
def test_the_share_falls_on_the_way_back(distance: float, share: float) -> None:
    ensemble = DistanceEnsemble(EnsembleSettings(**WIDE), [], [])
    assert told(ensemble, 1.2, 2.0, 4.0) == 1.0  # on the way there all answers
    assert told(ensemble, distance) == share
    ensemble.watch(Decision(False))  # nothing tells: the share stays
    assert ensemble.share == share


def test_what_was_learned_last_time_says_nothing_of_the_next() -> None:
    ensemble = DistanceEnsemble(EnsembleSettings(**WIDE), [], [])
    assert told(ensemble, 4.0, 1.25) == 0.25
    assert told(ensemble, 0.9, far=False) == 0.0  # while the weights go home they do not answer
    assert told(ensemble, 1.25) == 1.0  # a new storm begins


def test_all_of_recalled_weights_answer() -> None:
    ensemble = DistanceEnsemble(EnsembleSettings(**WIDE), [], [])
    assert told(ensemble, 4.0, 1.5) == 0.5
    ensemble.settle()
    assert ensemble.share == told(ensemble, 1.4) == 1.0


@pytest.mark.parametrize("key", ["near", "full"])
def test_every_option_counts(key: str) -> None:
    shares = [
        told(DistanceEnsemble(EnsembleSettings(**{**WIDE, key: value}), [], []), 4.0, 1.5)
        for value in (WIDE[key], WIDE[key] * 1.2)
    ]
    assert shares[0] != shares[1]


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
        ({"scope__parameters": "none", "objectives": {}}, "no parameter learns, so there is nothing to put back"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings_of({**STUDENT, "anchor": {"ensemble": WIDE}}, **changes)
