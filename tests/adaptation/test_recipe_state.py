"""A recipe's state: saved in mid-run through a file, it continues bit for bit (specs/hamlet.md section 9, check 21)."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from recipe_kit import (
    HAMLET,
    KINDS,
    METHODS,
    REPLAY,
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
from torch import nn

from online_uda.adaptation.recipe import Recipe
from online_uda.errors import UserError

RUNS: dict[str, dict[str, Any]] = {
    **METHODS,
    "sgd": {**TENT, "optimizer": {"name": "sgd", "momentum": 0.9}},
    "batch": {**TENT, "norm": {"statistics": "batch"}},
    "stream": {**TENT, "norm": {"statistics": "stream"}, "anchor": {"pull": 0.02}},
    "deployed": {**REPLAY, "teacher": {"cap": 0.9}, "deploy": "teacher", "norm": {"statistics": "stream"}},
    "every": {**HAMLET, "trigger": {"kind": "always", "every": 2}},
}


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def build(name: str, kind: str, seed: int = 0) -> Recipe:
    return make_recipe(settings_of(RUNS[name]), trained(kind), seed=seed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", RUNS)
def test_resumed_run_equals_the_uninterrupted_one(name: str, kind: str) -> None:
    """The resumed one starts from another seed and after other draws: nothing but the state may matter."""
    whole, resumed = build(name, kind), build(name, kind, seed=99)
    frames = list(stream(8))
    play(whole, iter(frames[:3]))
    saved = through_a_file(whole.state_dict())
    play(resumed, stream(2, seed=1))
    torch.manual_seed(1234)
    resumed.load_state_dict(saved)
    for frame in frames[3:]:
        first, second = whole.predict(frame), resumed.predict(frame)
        assert torch.equal(first.logits, second.logits)
        assert whole.observe(frame, first) == resumed.observe(frame, second)
    assert not changed(copy_of(whole.student), copy_of(resumed.student))


@pytest.mark.parametrize("name", ["hamlet", "stream", "deployed"])
def test_a_state_is_a_copy_and_can_be_gone_back_to_twice(name: str) -> None:
    recipe = build(name, "batchnorm")
    frames = list(stream(4))
    play(recipe, iter(frames[:2]))
    state = recipe.state_dict()
    kept = copy.deepcopy(state)
    ends = []
    for _ in range(2):
        recipe.load_state_dict(state)
        play(recipe, iter(frames[2:]))
        ends.append(copy_of(recipe.student))
    assert not changed(ends[0], ends[1])
    file, again = io.BytesIO(), io.BytesIO()
    torch.save(state, file)
    torch.save(kept, again)
    assert file.getvalue() == again.getvalue()


def test_the_state_of_another_network_is_refused() -> None:
    state = build("tent", "layernorm").state_dict()
    with pytest.raises(UserError, match="another network"):
        build("tent", "batchnorm").load_state_dict(state)


def test_light_head_and_source_are_not_saved_and_frozen_saves_no_weights() -> None:
    assert build("frozen", "batchnorm").state_dict()["student"] == {}
    names = set(build("tent", "batchnorm").state_dict()["student"])
    assert names
    assert not any(name.startswith("light_head.") for name in names)


def test_a_fresh_light_head_does_not_hinder_a_resume() -> None:
    state = build("tent", "layernorm").state_dict()
    network = untrained("layernorm")
    network.light_head = nn.Identity()  # type: ignore[assignment]
    recipe = make_recipe(settings_of(RUNS["tent"]), network.eval())
    recipe.load_state_dict(state)
    frame = next(stream(1))
    assert torch.equal(recipe.predict(frame).logits, trained("layernorm")(frame).logits)
