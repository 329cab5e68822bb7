"""Scopes by role and by name, freezing, and adapters in a recipe: exactly what was asked for moves."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from recipe_kit import HAMLET, REPLAY, TENT, changed, copy_of, make_recipe, play, settings_of, stream, trained

from online_uda.adaptation.deployed import deployed_weights
from online_uda.adaptation.scope import scope_parameters
from online_uda.adaptation.scope_table import scope_table
from online_uda.adaptation.settings import ScopeSettings
from online_uda.errors import USER_ERRORS, UserError
from online_uda.networks.adapters import MARK
from streams.yaml_config import KeyedErrors

LORA = {"scope": {"parameters": "adapters"}, "adapters": {"kind": "lora"}}


def names_of(kind: str = "layernorm", **scope: Any) -> set[str]:
    return {name for name, _ in scope_parameters(trained(kind), ScopeSettings(**scope))}


def test_names_biases_and_frozen_patterns() -> None:
    everything = names_of(parameters="all")
    assert names_of(parameters="names", names=("stages.3",)) == {n for n in everything if n.startswith("stages.3.")}
    wild = names_of(parameters="names", names=("*.attention.query.*", "head.norm.bias"))
    assert wild == {n for n in everything if ".attention.query." in n} | {"head.norm.bias"}
    assert names_of(parameters="bias") == {n for n in everything if n.endswith(".bias")}
    kept = names_of(parameters="all", freeze=("stages.0", "head.classifier.*"))
    assert kept == {n for n in everything if not n.startswith(("stages.0.", "head.classifier."))}


def test_a_pattern_that_fits_nothing_is_named_with_what_there_is() -> None:
    with pytest.raises(UserError, match=r"scope\.freeze: 'stage\.3' fits no parameter.*names start with stages\.0"):
        names_of(parameters="all", freeze=("stage.3",))
    with pytest.raises(UserError, match=r"'haed\.\*' fits no parameter; did you mean head\?"):
        names_of(parameters="names", names=("haed.*",))
    with pytest.raises(UserError, match=r"scope\.names: 'light_head' fits no parameter"):
        names_of(parameters="names", names=("light_head",))


@pytest.mark.parametrize("data", [TENT, {**REPLAY, "student_mode": "train"}, HAMLET], ids=["tent", "replay", "hamlet"])
def test_frozen_parts_stay_bit_identical_with_their_statistics(data: dict[str, Any]) -> None:
    """A hundred frames, on a network whose every part a run has trained before."""
    network = trained("batchnorm")
    earlier = make_recipe(settings_of(REPLAY, student_mode="train"), network)
    play(earlier, stream(3))
    trained_before = changed(copy_of(network), copy_of(earlier.student))
    assert any(name.startswith("stages.0.") for name in trained_before)
    network.load_state_dict(earlier.student.state_dict())
    scope = {**data["scope"], "freeze": ["stages.0", "stages.2"]}
    recipe = make_recipe(settings_of({**data, "scope": scope}), network)
    before = copy_of(recipe.student)
    play(recipe, stream(100))
    moved = changed(before, copy_of(recipe.student))
    assert moved
    assert not any(name.startswith(("stages.0.", "stages.2.")) for name in moved)


@pytest.mark.parametrize("kind", ["lora", "two_rank", "conv", "adaptformer"])
def test_only_adapters_move_each_in_one_group(kind: str) -> None:
    network = trained("layernorm")
    recipe = make_recipe(
        settings_of(TENT, scope={"parameters": "adapters"}, adapters={"kind": kind, "targets": []}), network
    )
    before = copy_of(recipe.student)
    first = next(stream(1))
    assert torch.equal(recipe.predict(first).logits, network(first).logits)
    play(recipe, stream(3))
    moved = changed(before, copy_of(recipe.student))
    assert moved
    assert all(MARK in name for name in moved)
    assert not any(MARK in name for name in network.state_dict())  # the source never grows any
    groups = [id(p) for group in recipe._optimizer.param_groups for p in group["params"]]  # type: ignore[union-attr]
    assert sorted(groups) == sorted(id(parameter) for _, parameter in recipe.learning)


def test_the_teacher_never_grows_adapters_and_follows_the_folded_student() -> None:
    network = trained("layernorm")
    recipe = make_recipe(settings_of({**HAMLET, **LORA}, deploy="teacher", anchor={"pull": 0.1}), network)
    assert recipe.teacher is not None
    play(recipe, stream(3))
    assert not any(MARK in name for name in recipe.teacher.module.state_dict())
    served = {name.partition(MARK)[0] + ".weight" for name, _ in recipe.learning}
    moved = changed(copy_of(network), copy_of(recipe.teacher.module))
    parameters = {name for name in moved if "running" not in name and "num_batches" not in name}
    assert parameters
    assert parameters <= served


def test_pull_takes_adapters_back_to_where_they_changed_nothing() -> None:
    network = trained("layernorm")
    recipe = make_recipe(settings_of({**TENT, **LORA}, anchor={"pull": 1.0}), network)
    play(recipe, stream(2))
    frame = next(stream(1))
    assert torch.equal(recipe.predict(frame).logits, network(frame).logits)


def test_state_comes_back_and_deployed_weights_are_folded() -> None:
    network = trained("layernorm")
    settings = settings_of({**TENT, **LORA})
    recipe = make_recipe(settings, network)
    play(recipe, stream(3))
    again = make_recipe(settings, trained("layernorm"), seed=5)
    again.load_state_dict(recipe.state_dict())
    frame = next(stream(1))
    assert torch.equal(again.predict(frame).logits, recipe.predict(frame).logits)
    plain = copy.deepcopy(network)
    plain.load_state_dict(deployed_weights(settings, recipe.state_dict()), strict=False)
    with torch.no_grad():
        torch.testing.assert_close(plain(frame).logits, recipe.predict(frame).logits, atol=1e-5, rtol=0.0)
        assert not torch.equal(plain(frame).logits, network(frame).logits)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scope": {"parameters": "adapters"}}, "needs the slot adapters"),
        ({"adapters": {}, "scope": {"parameters": "norm"}}, "would never train them"),
        ({"adapters": {"kind": "adaptformer"}, "scope": {"parameters": "all"}, "teacher": {}, "deploy": "teacher"},
         "cannot be folded into a teacher"),
        ({**LORA, "adapters": {"kind": "lora", "high_rank": 8}}, "belongs to kind two_rank"),
        ({**LORA, "adapters": {"kind": "conv", "rank": 8}}, "has no rank"),
        ({"scope": {"parameters": "names"}}, "goes with scope.parameters names"),
        ({"scope": {"parameters": "all", "names": ["head"]}}, "goes with scope.parameters names"),
    ],
)  # fmt: skip
def test_slots_that_do_not_fit_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, KeyedErrors, *USER_ERRORS), match=words):
        settings_of({**TENT, **changes})


def test_table_counts_what_learns() -> None:
    network = trained("layernorm")
    recipe = make_recipe(settings_of(TENT, scope={"parameters": "all", "freeze": ["stages"]}), network)
    table = scope_table(recipe.student, recipe.learning, optimizer="adamw", size=(64, 64)).splitlines()
    head = sum(parameter.numel() for _, parameter in network.head_parameters())
    assert table[1].split()[:5] == ["stage", "1", "0", "0", "0.00%"]
    assert f"{head:,}" in table[5]
    assert "100.00%" in table[5]
    assert f"{head * 4 * 4 / 2**20:.2f} MiB" in table[6]
    assert "a step" in table[7]
