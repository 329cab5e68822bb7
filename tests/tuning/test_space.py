"""The table of what may be tuned: every row belongs to a shipped method, and both its ends go with the method."""

from __future__ import annotations

import optuna
import pytest

from online_uda.config import named_methods
from online_uda.tuning.space import TABLE, Choice, Span, round_off, space_of, value_at

SPACES = {name: space_of(name) for name in named_methods()}


def test_every_row_of_the_table_is_tuned_of_some_shipped_method() -> None:
    tuned = {option.key for space in SPACES.values() for option in space.options}
    assert {option.key for option in TABLE} == tuned
    assert not SPACES["frozen"].options


@pytest.mark.parametrize("name", sorted(SPACES))
def test_both_ends_of_every_option_give_a_method_that_differs_in_that_option_alone(name: str) -> None:
    space = SPACES[name]
    shipped = space.settings(space.shipped)
    for option in space.options:
        ends = (option.low, option.high) if isinstance(option, Span) else option.choices
        for end in ends:
            value = int(end) if isinstance(option, Span) and option.whole else end
            settings = space.settings({**space.shipped, option.key: value})
            assert value_at(settings, option.key) == value
            assert (settings == shipped) == (value == space.shipped[option.key])
        assert space.shipped[option.key] in option.around(space.shipped[option.key]) or isinstance(option, Span)


def test_a_draw_lies_in_the_range_and_a_shipped_value_comes_back_to_the_digit() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space = SPACES["roid"]
    for _ in range(20):
        values = space.suggest(study.ask())
        for option in space.options:
            if isinstance(option, Span):
                assert round_off(option.low) <= values[option.key] <= round_off(option.high)
            elif isinstance(option, Choice):
                assert values[option.key] in option.choices
    again = space.suggest(optuna.trial.FixedTrial(space.parameters(space.shipped)))  # type: ignore[arg-type]
    assert again == space.shipped  # a third is not 0.333


def test_two_methods_share_no_parameter() -> None:
    names = [name for space in (SPACES["tent"], SPACES["eta"]) for name in space.parameters(space.shipped)]
    assert len(names) == len(set(names)) + 1  # "method"
