"""The stage bandit against tables worked out by hand (specs/hamlet.md 2.4, 4.2; section 9, check 7)."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch

from online_uda.adaptation.scope_select import ScopeSelector, best_choice, speed_weights
from online_uda.errors import UserError


def test_check_7_weights() -> None:
    expected = [0.1543, 0.2199, 0.2580, 0.3678]
    assert speed_weights([4.21, 4.83, 5.11, 5.73], 1.75) == pytest.approx(expected, abs=1e-4)
    assert ScopeSelector().weights == pytest.approx(expected, abs=1e-4)


def test_check_7_first_choice_and_equal_losses() -> None:
    selector = ScopeSelector()
    assert selector.select() == 1
    for _ in range(20):
        selector.update(0.7)
        assert selector.select() == 1
        assert selector.scores == (0.0, 0.0, 0.0, 0.0)


# Losses, and the scores and next choice worked out on paper, with four equal weights of 1/4 and a rate of 1/2.
TABLE = [
    (1.0, (0.0, 0.0, 0.0, 0.0), 1),  # first step: no expectation yet
    (0.8, (0.025, 0.0, 0.0, 0.0), 1),  # expected 1.0, gain 0.2
    (0.9, (-0.025, 0.0, 0.0, 0.0), 2),  # expected 0.6, gain -0.3: the zeros win, lowest first
    (0.5, (0.05, 0.0, 0.0, 0.0), 1),  # expected 1.0, gain 0.5, credited to the step before, which used 1
    (1.5, (0.025, -0.175, 0.0, 0.0), 1),  # expected 0.1, gain -1.4, blamed on 2
    (4.5, (-0.2375, -0.0875, 0.0, 0.0), 3),  # expected 2.5, gain -2.0, blamed on 1
]


def test_check_7_reference_table() -> None:
    selector = ScopeSelector(speeds_hz=[5.0] * 4, rate=0.5)
    for loss, scores, choice in TABLE:
        selector.update(loss)
        assert selector.scores == pytest.approx(scores, abs=1e-12)
        assert selector.select() == choice


def test_check_7_default_weights_scale_the_gain() -> None:
    selector = ScopeSelector()
    selector.update(1.0)
    selector.update(0.0)
    assert selector.scores[0] == pytest.approx(0.1 * 0.1543, abs=1e-5)
    fast = ScopeSelector(speeds_hz=[9.0, 1.0], temperature=1.0)
    fast.update(1.0)
    fast.update(0.0)
    assert fast.scores[0] == pytest.approx(0.1 * 0.99966, abs=1e-5)
    assert len(fast.scores) == 2
    warm = ScopeSelector(speeds_hz=[9.0, 1.0], temperature=1e6)
    assert warm.weights == pytest.approx([0.5, 0.5], abs=1e-5)


def test_ties_take_the_lowest_number() -> None:
    assert best_choice([-1.0, 0.0, 0.0]) == 2
    assert best_choice([0.0, 0.0, 0.1]) == 3


def test_fixed_policy_never_moves() -> None:
    selector = ScopeSelector("fixed", fixed_stage=3)
    for loss, _, _ in TABLE:
        assert selector.select() == 3
        selector.update(loss)
    assert selector.select() == 3


def test_non_finite_losses_are_left_out() -> None:
    plain, holey = ScopeSelector(), ScopeSelector()
    for loss, _, _ in TABLE:
        plain.update(loss)
        holey.update(float("nan"))
        holey.update(loss)
        holey.update(float("inf"))
    assert holey.state_dict() == plain.state_dict()


@pytest.mark.parametrize("cut", range(1, len(TABLE)))
def test_interrupted_run_continues_bit_for_bit(cut: int) -> None:
    whole, first, second = (ScopeSelector(speeds_hz=[4.0, 5.0, 6.0], rate=0.3) for _ in range(3))
    for loss, _, _ in TABLE:
        whole.update(loss)
    for loss, _, _ in TABLE[:cut]:
        first.update(loss)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.select() == first.select()
    for loss, _, _ in TABLE[cut:]:
        second.update(loss)
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    "bad",
    [
        {"policy": "random"},
        {"speeds_hz": []},
        {"speeds_hz": [1.0, 0.0]},
        {"temperature": 0.0},
        {"rate": 1.5},
        {"fixed_stage": 5},
    ],
)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        ScopeSelector(**bad)


def test_state_of_another_network_is_refused() -> None:
    with pytest.raises(UserError, match="4 stages"):
        ScopeSelector(speeds_hz=[1.0, 2.0]).load_state_dict(ScopeSelector().state_dict())
