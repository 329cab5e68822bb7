"""Costs that are given or recorded: looked up from the special to the general, played in order, read and written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from online_uda.adaptation.pieces import FULL, Effort
from online_uda.errors import USER_ERRORS, UserError
from online_uda.runtime.clock import RealClock, SimulatedClock
from online_uda.runtime.cost_model import WINDOW, CostModel, Stopwatch, choose_effort, step_stage
from online_uda.runtime.costs import KEPT, CostRecord, StageCosts


def test_a_stage_costs_what_the_most_special_name_above_it_says() -> None:
    costs = StageCosts({"predict": 40, "step": 10, "step.replay.backward": [7.0, 9.0], "step.update": 5})
    assert costs.take_ms("predict") == 40
    assert costs.take_ms("predict.overlapped") == 40
    assert costs.take_ms("step.entropy.forward.1") == 10
    assert [costs.take_ms(f"step.replay.backward.{number}") for number in (4, 3, 2)] == [7, 9, 7]
    assert costs.take_ms("step.update@0.50") == 2.5
    with pytest.raises(UserError, match=r"costs: stages_ms has no cost of detect \(detect\); add one in milliseconds"):
        costs.take_ms("detect")


def test_a_measured_share_is_not_scaled_again() -> None:
    costs = StageCosts({"step.update": 8, "step.update@0.50": 6})
    assert (costs.take_ms("step.update@0.50"), costs.take_ms("step.update@0.25")) == (6, 2)


def test_a_record_comes_back_in_order_and_bounded(tmp_path: Path) -> None:
    record = CostRecord({"method": "x"})
    for number in range(KEPT + 3):
        record.note("predict", float(number))
    record.note("step.update", 1.25)
    record.write(tmp_path / "costs.json")
    costs = StageCosts.read(tmp_path / "costs.json")
    assert [costs.take_ms("predict") for _ in range(KEPT + 1)] == [*map(float, range(3, KEPT + 3)), 3.0]
    assert costs.take_ms("step.update") == 1.25


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stages_ms: {predict: -1}", "predict"),
        ("stages_ms: {predict: []}", "predict"),
        ("stages_ms: {predict: fast}", "predict"),
        ("stages_ms: {}", "stages_ms"),
        ("predict: 40", "predict"),
        ("[1, 2]", "costs.yaml"),
    ],
)
def test_a_faulty_file_is_named_with_the_key(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "costs.yaml"
    path.write_text(text)
    with pytest.raises(USER_ERRORS) as caught:
        StageCosts.read(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_simulated_clock_moves_by_costs_alone_and_continues_where_it_was_saved() -> None:
    def clock_of() -> SimulatedClock:
        return SimulatedClock(StageCosts({"predict": [10.0, 20.0, 30.0]}))

    def lap(clock: SimulatedClock) -> float:
        with clock.measure("predict") as measured:
            assert measured.latency_ms == 0.0
        return measured.latency_ms

    clock = clock_of()
    assert (lap(clock), clock.now_s()) == (10.0, 0.01)
    clock.wait_until(0.5)
    clock.wait_until(0.1)
    assert clock.now_s() == 0.5
    with clock.stopped():
        pass
    other = clock_of()
    other.load_state_dict(clock.state_dict())
    assert (lap(other), lap(clock), other.now_s() == clock.now_s()) == (20.0, 20.0, True)
    clock.restart()
    assert (lap(clock), clock.now_s()) == (10.0, 0.01)
    with pytest.raises(UserError, match="changed since the run was saved"):
        SimulatedClock(StageCosts({"other": 1})).load_state_dict(other.state_dict())


def test_real_clock_stands_still_while_stopped_and_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("time.sleep", sleep)
    clock = RealClock(torch.device("cpu"))
    start = clock.now_s()
    with clock.stopped():
        now[0] += 7.0
        assert clock.now_s() == start
    assert clock.now_s() == start
    clock.wait_until(start + 2.0)
    clock.wait_until(start + 1.0)
    assert (slept, clock.now_s()) == ([2.0], start + 2.0)


def test_cost_model_knows_a_likely_and_a_safe_cost_of_the_newest_laps() -> None:
    model = CostModel()
    assert (model.likely_ms("predict"), model.safe_ms("predict")) == (0.0, 0.0)
    for ms in (500.0, *[10.0] * (WINDOW - 3), 12.0, 30.0):
        model.note("predict", ms)
    assert (model.likely_ms("predict"), model.safe_ms("predict")) == (10.0, 500.0)
    model.doubt("predict")
    assert model.safe_ms("predict") == 30.0
    for _ in range(WINDOW):
        model.note("predict", 11.0)
    assert model.safe_ms("predict") == 11.0
    other = CostModel()
    other.load_state_dict(model.state_dict())
    assert other.safe_ms("predict") == 11.0
    one = CostModel()
    one.note("x", 3.0)
    one.doubt("x")
    assert one.safe_ms("x") == 3.0, "the last sample stays"


def step_model() -> CostModel:
    model = CostModel()
    for name, ms in (("begin", 1.0), ("a.forward.1", 40.0), ("a.backward.1", 100.0), ("a.backward.2", 60.0)):
        model.note(step_stage(name, FULL), ms)
    return model


@pytest.mark.parametrize(
    ("slack_ms", "patience", "expected"),
    [
        (101.0, 8, Effort()),
        (99.0, 8, Effort(0.5)),  # the largest piece does not fit
        (101.0, 1, Effort(0.5)),  # the whole does not: 201 ms
        (50.0, 8, Effort(0.5)),
        (31.0, 8, Effort(0.5, 2)),  # without the first stage's backward piece
        (29.0, 8, None),
    ],
)
def test_a_step_is_shortened_until_it_fits(slack_ms: float, patience: int, expected: Effort | None) -> None:
    efforts = [Effort(), Effort(0.5), Effort(0.5, 2)]
    assert choose_effort(step_model(), efforts, slack_ms, patience) == expected


def test_a_piece_of_few_steps_counts_by_how_many_it_is_part_of() -> None:
    model = CostModel()
    for number in range(16):
        for name, ms in (("begin", 10.0), ("update", 30.0), *((("guard.canary.source", 80.0),) * (number == 15))):
            model.note(step_stage(name, FULL), ms)
    assert model.step_ms(FULL) == 10.0 + 30.0 + 80.0 / 16
    assert choose_effort(model, [FULL], 50.0, 1) == FULL, "whether the canary fits is seen when it is asked"
    other = CostModel()
    other.load_state_dict(model.state_dict())
    assert other.step_ms(FULL) == model.step_ms(FULL)


def test_what_guards_look_at_is_no_smaller_after_a_shorter_step() -> None:
    assert step_stage("guard.canary.source", Effort(0.5)) == "step.guard.canary.source"
    assert step_stage("update", Effort(0.5)) == "step.update@0.50"


def test_stopwatch_teaches_the_model_and_the_record(tmp_path: Path) -> None:
    record, model = CostRecord({}), CostModel()
    watch = Stopwatch(SimulatedClock(StageCosts({"detect": [3.0, 5.0]})), model, record)
    with watch.measure("detect") as lap:
        pass
    with pytest.raises(ZeroDivisionError), watch.measure("detect"):
        raise ZeroDivisionError
    assert lap.latency_ms == 3.0
    assert model.safe_ms("detect") == 3.0
    record.write(tmp_path / "costs.json")
    assert StageCosts.read(tmp_path / "costs.json").take_ms("detect") == 3.0
