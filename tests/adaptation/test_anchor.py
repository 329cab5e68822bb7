"""Rest near the source: the weights arrive there; then a rest is free and changes no bit, until something learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recipe_kit import REPLAY, TENT, Scripted, copy_of, make_recipe, play, settings_of, stream, trained

from online_uda.adaptation.recipe import Recipe
from online_uda.adaptation.trigger.base import Decision

REST = Decision(False, relax=True)
AVERAGED = {**REPLAY, "teacher": {"cap": 0.5}, "deploy": "teacher"}


def away(data: dict[str, Any], share: float) -> Recipe:
    """A recipe that has left the source by a step and rests from then on."""
    settings = settings_of({"norm": {"statistics": "stream"}, **data}, anchor={"relax": share})
    recipe = make_recipe(settings, trained("batchnorm"), trigger=Scripted(Decision(True), Decision(True), REST))
    play(recipe, stream(2))
    return recipe


@pytest.mark.parametrize("data", [TENT, AVERAGED], ids=["student", "teacher"])
@pytest.mark.parametrize("share", [0.3, 0.5, 1.0])
def test_rest_ends_at_home_to_the_bit(data: dict[str, Any], share: float) -> None:
    recipe = away(data, share)
    source = copy_of(trained("batchnorm"))
    rests = 0
    while recipe.rest(REST):
        rests += 1
        assert rests < 60
    assert rests > (0 if share == 1.0 else 5)
    settled, deployed = copy_of(recipe.student), copy_of(recipe.deployed)
    for name, value in source.items():
        if value.is_floating_point():
            assert torch.equal(settled[name], value)
            assert torch.equal(deployed[name], value)
    recipe._anchor.wake()
    assert not recipe.rest(REST)  # looks, and finds nothing to move
    for name, value in copy_of(recipe.student).items():
        assert torch.equal(value, settled[name])


def test_a_settled_rest_is_free_and_learning_wakes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = away(TENT, 0.5)
    while recipe.rest(REST):
        pass
    with monkeypatch.context() as patch:
        patch.setattr(recipe._anchor, "pull", lambda share: pytest.fail("took a step"))
        assert not recipe.rest(REST)
    frame = next(stream(1))
    recipe.predict(frame)
    before = copy_of(recipe.student)
    for _ in recipe.learn(frame, Decision(True)):
        pass
    assert not torch.equal(copy_of(recipe.student)["head.norm.weight"], before["head.norm.weight"])
    assert recipe.rest(REST)
