"""A worker beside the stream on a simulated clock: what is done by when, and what it misses."""

from __future__ import annotations

from typing import Any

from online_uda.adaptation.trigger.base import Decision
from online_uda.runtime.clock import SimulatedClock
from online_uda.runtime.cost_model import Stopwatch
from online_uda.runtime.costs import StageCosts
from online_uda.runtime.simulated_async import SimulatedAsyncLearning
from online_uda.runtime.worker import MAILBOX
from tests.runtime.test_learning_modes import FRAMES, KNOWN, LEARN, SAID, Scripted, model_of


def simulated(method: Any, costs: dict[str, Any]) -> tuple[SimulatedAsyncLearning, SimulatedClock]:
    clock = SimulatedClock(StageCosts(costs))
    return SimulatedAsyncLearning(method, Stopwatch(clock, model_of(KNOWN)), clock, 0.1), clock


def test_simulated_worker_finishes_pieces_when_their_time_has_come() -> None:
    method = Scripted(LEARN)
    mode, clock = simulated(method, {"predict": 40, "detect": 5, "step.a": 10, "step.b": 30, "step.c": 20})
    assert mode.predict_stage == "predict"
    clock.wait_until(0.040)
    mode.show(0, FRAMES, SAID)
    mode.use_slack(0.060)  # 5 of watching, 10 of a: at 55; b ends at 85
    assert method.journal == ["a"]
    clock.wait_until(0.080)
    assert mode.predict_stage == "predict.overlapped"
    assert method.journal == ["a"]
    clock.wait_until(0.100)
    assert mode.predict_stage == "predict.overlapped"
    assert method.journal == ["a", "b"]
    assert mode.collect() == []
    mode.use_slack(0.106)
    (step,) = mode.collect()
    assert (step.frame, step.cost_ms) == (0, 60.0)
    assert clock.now_s() == 0.100, "the stream's own time is not touched"


def test_a_worker_that_is_behind_misses_the_oldest_frames() -> None:
    method = Scripted(Decision(learn=False, detected=True))
    mode, _ = simulated(method, {"predict": 1, "detect": 5, "step": 1})
    for index in range(MAILBOX + 2):
        mode.show(index, FRAMES, SAID)
    assert not mode.settled
    mode.use_slack(1.0)
    assert mode.settled
    assert mode.detections() == list(range(2, MAILBOX + 2))
