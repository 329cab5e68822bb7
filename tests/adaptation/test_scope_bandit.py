"""The bandit over modules: pays the cheap choice, follows a change, forgets, resumes."""

from __future__ import annotations

from collections import Counter

import pytest

from online_uda.adaptation.scope_bandit import ModuleBandit
from online_uda.errors import UserError
from tests.adaptation.recipe_kit import HAMLET, make_recipe, play, settings_of, stream, trained
from tests.run_kit import assert_same


def run(bandit: ModuleBandit, drops: list[float], costs_ms: list[float], steps: int, loss: float = 1e6) -> Counter[int]:
    """Steps in which choice n lowers the loss by a share of ``drops[n - 1]`` and costs ``costs_ms[n - 1]``."""
    chosen: Counter[int] = Counter()
    for _ in range(steps):
        choice = bandit.select()
        assert bandit.select() == choice, "asking twice gives the same answer"
        bandit.update(loss)
        bandit.note_cost(costs_ms[choice - 1])
        loss *= 1.0 - drops[choice - 1]
        chosen[choice] += 1
    return chosen


def test_every_choice_is_tried_first_from_the_cheapest_on() -> None:
    bandit, order = ModuleBandit(4, rate=0.1, exploration=1.0), []
    for _ in range(4):
        order.append(bandit.select())
        bandit.update(1.0)
    assert order == [4, 3, 2, 1]


def test_equal_drops_go_to_the_cheapest_and_a_large_drop_is_worth_its_price() -> None:
    assert (
        run(ModuleBandit(3, rate=0.05, exploration=0.5), [0.01] * 3, [90.0, 60.0, 30.0], 200).most_common(1)[0][0] == 3
    )
    worth = run(ModuleBandit(3, rate=0.05, exploration=0.5), [0.05, 0.01, 0.01], [90.0, 60.0, 30.0], 200)
    assert worth.most_common(1)[0][0] == 1
    assert min(worth.values()) > 2, "the others are tried again"


def test_it_follows_a_change_of_what_pays() -> None:
    bandit = ModuleBandit(2, rate=0.05, exploration=0.5)
    assert run(bandit, [0.05, 0.01], [10.0, 10.0], 100).most_common(1)[0][0] == 1
    assert run(bandit, [0.01, 0.05], [10.0, 10.0], 200).most_common(1)[0][0] == 2


def test_without_exploration_the_best_so_far_is_kept() -> None:
    chosen = run(ModuleBandit(2, rate=0.1, exploration=0.0), [0.05, 0.01], [10.0, 10.0], 100)
    assert chosen[2] <= 2


def test_a_loss_that_is_not_finite_says_nothing_and_state_comes_back() -> None:
    one, other = (ModuleBandit(3, rate=0.1, exploration=1.0) for _ in range(2))
    run(one, [0.05, 0.02, 0.01], [30.0, 20.0, 10.0], 20)
    before = one.state_dict()
    one.update(float("nan"))
    assert one.state_dict() == before
    other.load_state_dict(before)
    drops, costs_ms = [0.05, 0.02, 0.01], [30.0, 20.0, 10.0]
    assert run(one, drops, costs_ms, 30) == run(other, drops, costs_ms, 30)
    assert one.state_dict() == other.state_dict()
    with pytest.raises(UserError, match="scope state has 3 modules, the network has 2"):
        ModuleBandit(2, rate=0.1, exploration=1.0).load_state_dict(before)


@pytest.mark.parametrize("bad", [{"choices": 0}, {"rate": 0.0}, {"exploration": -1.0}])
def test_arguments_out_of_range_are_refused(bad: dict[str, float]) -> None:
    values = {"choices": 2, "rate": 0.1, "exploration": 1.0, **bad}
    with pytest.raises(UserError, match="bandit over modules"):
        ModuleBandit(int(values["choices"]), rate=values["rate"], exploration=values["exploration"])


def test_a_recipe_chooses_by_cost_and_goes_on_where_it_was_saved() -> None:
    settings = settings_of(HAMLET, scope={"parameters": "suffix", "select": "measured"})
    one, other = (make_recipe(settings, trained("layernorm")) for _ in range(2))
    frames = list(stream(8))
    scopes = []
    for frame in frames[:5]:
        (report,) = play(one, iter([frame]))
        one.note_cost(10.0)
        scopes.append(report.scope)
    assert scopes[:4] == ["modules 4-4", "modules 3-4", "modules 2-4", "modules 1-4"]
    assert one.state_dict()["selector"]["cost_ms"] == [10.0] * 4
    other.load_state_dict(one.state_dict())
    for frame in frames[5:]:
        for recipe in (one, other):
            play(recipe, iter([frame]))
            recipe.note_cost(12.0)
    assert_same(one.state_dict(), other.state_dict())
