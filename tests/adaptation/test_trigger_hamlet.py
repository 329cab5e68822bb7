"""The detector and the budget against the golden vectors of specs/hamlet.md, section 4, and checks 1-5 of section 9."""

from __future__ import annotations

import io
import itertools
import statistics
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch

from online_uda.adaptation.trigger.hamlet import (
    BudgetRule,
    DomainChange,
    FramePlan,
    TrainingBudget,
    WindowDetector,
    set_learning_rate,
)
from online_uda.errors import UserError

STAIRCASE = (0.8, 1.1, 1.4, 1.7, 2.0, 2.55, 2.0, 1.7, 1.4, 1.1, 0.8)


def through_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def run(signals: Iterable[float]) -> tuple[list[tuple[int, DomainChange, TrainingBudget]], list[FramePlan]]:
    """Fires as (frame, change, a budget right after the change), and the plan of every frame."""
    detector, budget = WindowDetector(), TrainingBudget()
    fires, plans = [], []
    for frame, signal in enumerate(signals):
        plans.append(budget.next_frame())
        change = detector.update(signal)
        if change is not None:
            budget.on_change(change)
            after = TrainingBudget()
            after.load_state_dict(budget.state_dict())
            fires.append((frame, change, after))
    return fires, plans


@pytest.mark.parametrize(
    ("signals", "expected"),
    [
        (
            [0.8] * 300 + [1.3] * 3000 + [0.8] * 300,
            [(375, 1.3, 1630, 2.785714e-5, 0.571429), (3376, 0.8, 407, 1.5e-5, 0.5)],
        ),
        ([0.8] * 40 + [1.3] * 400, [(150, 1.3, 869, 2.785714e-5, 0.571429)]),
    ],
)
def test_check_1_golden_steps(signals: list[float], expected: list[tuple[int, float, int, float, float]]) -> None:
    fires, _ = run(signals)
    assert [(frame, budget.budget) for frame, _, budget in fires] == [(row[0], row[2]) for row in expected]
    for (_, change, budget), (_, value, _, lr, mix_ratio) in zip(fires, expected, strict=True):
        assert change.value == pytest.approx(value, abs=1e-9)
        assert budget.initial_lr == pytest.approx(lr, abs=1e-11)
        assert budget.mix_ratio == pytest.approx(mix_ratio, abs=1e-6)


def test_check_1_change_inside_the_anchor_window_blurs_the_anchor() -> None:
    fires, _ = run([0.8] * 40 + [1.3] * 400)
    assert fires[0][1].anchor == pytest.approx((40 * 0.8 + 35 * 1.3) / 75, abs=1e-9)


def test_check_1_golden_drift_adds_left_over_budgets() -> None:
    fires, _ = run(0.8 + 0.0005 * t for t in range(3700))
    assert [frame for frame, _, _ in fires] == [600, 1201, 1802, 2403, 3004, 3605]
    assert [budget.budget for _, _, budget in fires][:3] == [857, 1113, 1369]


def test_check_1_and_4_golden_staircase() -> None:
    fires, plans = run(itertools.chain.from_iterable([z] * 8925 for z in STAIRCASE))
    assert [frame for frame, _, _ in fires] == [9000 + 8926 * k for k in range(10)]
    assert [round(change.value, 9) for _, change, _ in fires] == list(STAIRCASE[1:])
    assert [budget.budget for _, _, budget in fires] == [978, 978, 978, 978, 1793, 1063, 496, 412, 328, 244]
    trained = [frame for frame, plan in enumerate(plans) if plan.train]
    assert len(plans) == 98175
    assert len(trained) == 8248
    assert trained[0] == 9001
    assert all(plan.lr == 0.0 and plan.mix_ratio == 0.5 for plan in plans[:9001])


def decision_frames(detector: WindowDetector, frames: int) -> list[int]:
    """Frames on which the mean of a window changed hands, seen from the saved state."""
    decisions, before = [], detector.state_dict()
    for frame in range(frames):
        detector.update(0.8 + 1e-6 * frame)
        after = detector.state_dict()
        if (after["anchor"], after["last_value"]) != (before["anchor"], before["last_value"]):
            decisions.append(frame)
        before = after
    return decisions


def test_decisions_on_a_constant_stream() -> None:
    assert decision_frames(WindowDetector(), 301) == [74, 75, 150, 225, 300]
    assert decision_frames(WindowDetector(clear_anchor_window=True), 301) == [74, 149, 224, 299]


def test_check_2_no_false_alarm_in_noise() -> None:
    detector = WindowDetector()
    noise = np.random.default_rng(0).normal(0.8, 0.15, 100_000)
    assert sum(detector.update(signal) is not None for signal in noise) == 0
    assert len(detector.state_dict()["signals"]) <= 75


@pytest.mark.parametrize(("step", "median", "largest"), [(0.3, 95, 153), (0.5, 70, 114)])
def test_check_3_detection_delay(step: float, median: int, largest: int) -> None:
    rng = np.random.default_rng(0)
    delays = []
    for _ in range(400):
        start = int(rng.integers(300, 600))
        signals = rng.normal(0.8, 0.15, start + 400)
        signals[start:] += step
        detector = WindowDetector()
        fire = next(frame for frame, signal in enumerate(signals) if detector.update(signal) is not None)
        delays.append(fire - start)
    assert statistics.median(delays) == pytest.approx(median, abs=4)
    assert max(delays) == pytest.approx(largest, abs=15)
    assert min(delays) > 0


def test_check_4_budget_never_exceeds_its_cap() -> None:
    budget = TrainingBudget()
    for _ in range(5):
        budget.on_change(DomainChange(value=2.55, anchor=0.8))
        assert budget.budget == 4450 == budget.rule.max_frames
    short = TrainingBudget(BudgetRule(max_frames=20))
    short.on_change(DomainChange(value=2.55, anchor=0.8))
    assert sum(short.next_frame().train for _ in range(100)) == 20


@pytest.mark.parametrize(("value", "lr"), [(0.2, 1.5e-5), (0.8, 1.5e-5), (1.675, 3.75e-5), (2.55, 6e-5), (9.0, 6e-5)])
def test_check_5_learning_rate(value: float, lr: float) -> None:
    budget = TrainingBudget()
    budget.on_change(DomainChange(value=value, anchor=value - 0.5))
    size = budget.budget
    plans = [budget.next_frame() for _ in range(size + 3)]
    assert [plan.lr for plan in plans] == pytest.approx([lr * (1 - i / size) for i in range(size)] + [0.0] * 3)
    assert plans[size - 1].train
    assert plans[size - 1].lr <= lr / size * (1 + 1e-9)
    assert not plans[size].train


def test_check_5_head_multiplier_survives_a_change() -> None:
    groups: list[dict[str, Any]] = [{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)], "lr_scale": 10.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    for lr in (1.5e-5, 6e-5):
        set_learning_rate(optimizer, lr)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([lr, 10 * lr])


def test_rule_values_reach_the_budget() -> None:
    change = DomainChange(value=0.5, anchor=1.0)
    rule = BudgetRule(
        near_value=0.0, far_value=1.0, jump_unit=0.1, base_frames=10, return_factor=(0.2, 0.6), lr=(1.0, 3.0),
        mix_ratio=(0.2, 0.4),
    )  # fmt: skip
    assert rule.frames_for(change) == 20
    assert rule.frames_for(change, left_over=7) == 27
    assert rule.frames_for(DomainChange(value=0.5, anchor=0.0)) == 50
    assert rule.initial_lr(0.5) == pytest.approx(2.0)
    assert rule.mix_ratio_for(0.5) == pytest.approx(0.3)
    assert TrainingBudget(rule).next_frame().mix_ratio == pytest.approx(0.2)


def test_thresholds_are_exclusive_and_signed() -> None:
    def fires(up: float, down: float, after: float) -> int | None:
        detector = WindowDetector(window=4, up=up, down=down, clear_anchor_window=True)
        changes = [detector.update(signal) for signal in [1.0] * 4 + [after] * 4]
        return changes[-1].direction if changes[-1] is not None else None

    assert fires(0.5, -0.5, 1.5) is None
    assert fires(0.25, -0.5, 1.5) == 1
    assert fires(0.25, -0.25, 0.5) == -1
    assert fires(0.25, -0.75, 0.5) is None


def test_domain_id_counts_directions() -> None:
    detector = WindowDetector(window=5)
    for signal in [1.0] * 20 + [2.0] * 20 + [3.0] * 20 + [1.0] * 20:
        detector.update(signal)
    assert detector.domain_id == 1


def test_non_finite_signals_are_left_out() -> None:
    plain, holey = WindowDetector(window=5), WindowDetector(window=5)
    for signal in [1.0] * 7 + [2.0] * 12:
        holey.update(float("nan"))
        holey.update(float("inf"))
        assert holey.update(signal) == plain.update(signal)
    assert holey.state_dict() == plain.state_dict()


@pytest.mark.parametrize("cut", [1, 74, 75, 76, 340, 376, 451])
def test_interrupted_run_continues_bit_for_bit(cut: int) -> None:
    signals = np.random.default_rng(1).normal(0.8, 0.15, 900)
    signals[300:] += 0.5

    def advance(detector: WindowDetector, budget: TrainingBudget, part: np.ndarray) -> list[Any]:
        log: list[Any] = []
        for signal in part:
            log.append(budget.next_frame())
            change = detector.update(signal)
            if change is not None:
                budget.on_change(change)
            log.append(change)
        return log

    whole = advance(WindowDetector(), TrainingBudget(), signals)
    assert sum(isinstance(entry, DomainChange) for entry in whole) == 1
    detector, budget = WindowDetector(), TrainingBudget()
    head = advance(detector, budget, signals[:cut])
    states = through_file({"detector": detector.state_dict(), "budget": budget.state_dict()})
    detector, budget = WindowDetector(), TrainingBudget()
    detector.load_state_dict(states["detector"])
    budget.load_state_dict(states["budget"])
    assert head + advance(detector, budget, signals[cut:]) == whole


def test_state_of_a_larger_window_is_refused() -> None:
    large = WindowDetector(window=50)
    for _ in range(30):
        large.update(1.0)
    with pytest.raises(UserError, match="30 signals"):
        WindowDetector(window=20).load_state_dict(large.state_dict())


@pytest.mark.parametrize("bad", [{"window": 0}, {"up": 0.0}, {"down": 0.1}])
def test_bad_detector_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        WindowDetector(**bad)


@pytest.mark.parametrize(
    "bad", [{"far_value": 0.1}, {"jump_unit": 0.0}, {"base_frames": -1}, {"mix_ratio": (0.5, 1.5)}]
)
def test_bad_budget_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        BudgetRule(**bad)
