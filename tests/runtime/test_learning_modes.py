"""Learning in the slack on a scripted method: what fits, what is refused, what is given up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from online_uda.adaptation.method import StepReport
from online_uda.adaptation.pieces import FULL, Effort, Pieces
from online_uda.adaptation.trigger.base import Decision
from online_uda.networks.segmenter import Segmentation
from online_uda.runtime.clock import SimulatedClock
from online_uda.runtime.cost_model import CostModel, Stopwatch
from online_uda.runtime.costs import StageCosts
from online_uda.runtime.learning_modes import TIRED, InterleavedLearning

FRAMES = torch.zeros(1, 3, 4, 4)
SAID = Segmentation(torch.zeros(1, 2, 1, 1), (), (4, 4), (4, 4))


class Scripted:
    """Three pieces a step; answers to `watch` from a list, the last one stays."""

    name = "scripted"
    efforts: Sequence[Effort] = (FULL, Effort(0.5))

    def __init__(self, *decisions: Decision) -> None:
        self.decisions = list(decisions)
        self.journal: list[str] = []

    def watch(self, frames: Tensor, prediction: Segmentation) -> Decision:
        return self.decisions.pop(0) if len(self.decisions) > 1 else self.decisions[0]

    def note_cost(self, ms: float) -> None:
        self.cost_ms = ms

    def rests(self, decision: Decision) -> bool:
        return decision.relax

    def resting(self, frames: int = 1) -> Pieces[bool]:
        yield "rest"
        self.journal.append(f"rest {frames}")
        yield "rest.publish"
        self.journal.append("publish")
        return True

    def learn(self, frames: Tensor, decision: Decision, effort: Effort | None = FULL) -> Pieces[StepReport]:
        for piece in "abc" if effort is not None else "a":
            yield piece
            self.journal.append(piece)
        return StepReport(updated=effort is not None, scope="all" if effort else None)


def model_of(known: dict[str, float]) -> CostModel:
    model = CostModel()
    for stage, ms in known.items():
        model.note(stage, ms)
    return model


def mode_of(method: Any, known: dict[str, float], costs: dict[str, Any], period_s: float = 0.1) -> Any:
    """Interleaved learning that expects ``known`` and meets ``costs``."""
    clock = SimulatedClock(StageCosts(costs))
    return InterleavedLearning(method, Stopwatch(clock, model_of(known)), clock, period_s), clock


KNOWN = {"predict": 40.0, "detect": 0.0, "step.a": 10.0, "step.b": 30.0, "step.c": 10.0}
LEARN = Decision(learn=True)


def test_pieces_run_while_they_fit_and_wait_for_the_next_frame_when_not() -> None:
    method = Scripted(LEARN)
    mode, clock = mode_of(method, KNOWN, KNOWN)
    mode.show(0, FRAMES, SAID)
    mode.use_slack(0.042)  # 10 and 30 fit, with the margin
    assert method.journal == ["a", "b"]
    assert not mode.settled
    mode.use_slack(0.045)
    assert method.journal == ["a", "b"], "4 ms are too short for the last"
    mode.use_slack(0.1)
    assert method.journal[:4] == ["a", "b", "c"]
    assert mode.settled
    (step,) = mode.collect()
    assert (step.frame, step.cost_ms, step.effort, step.report.scope) == (0, 50.0, FULL, "all")
    assert mode.collect() == []
    assert clock.now_s() <= 0.1


def test_the_newest_wanted_frame_is_next_and_holding_lets_no_step_begin() -> None:
    method = Scripted(LEARN)
    mode, _ = mode_of(method, KNOWN, KNOWN)
    for index in (3, 4):
        mode.show(index, FRAMES, SAID)
    mode.hold(True)
    mode.use_slack(10.0)
    assert mode.settled
    mode.hold(False)
    mode.use_slack(10.0)
    assert mode.collect() == [], "a snapshot would not know of a waiting frame"
    for index in (5, 6):
        mode.show(index, FRAMES, SAID)
    mode.use_slack(10.0)
    assert [step.frame for step in mode.collect()] == [6]


def test_coming_home_gives_the_step_up_and_a_pause_does_not() -> None:
    pause, home = Decision(learn=False), Decision(learn=False, relax=True)
    for decision, left in ((pause, False), (home, True)):
        method = Scripted(LEARN, decision)
        mode, _ = mode_of(method, KNOWN, KNOWN)
        mode.show(0, FRAMES, SAID)
        mode.use_slack(0.012)
        mode.show(1, FRAMES, SAID)
        assert mode.given_up == int(left)
        assert method.journal == ["a"], "the way home waits for slack like any other work"
        mode.use_slack(10.0)
        assert mode.settled
        assert method.journal == (["a", "rest 1", "publish"] if left else ["a", "b", "c"])
        assert len(mode.collect()) == int(not left)


def test_the_way_home_waits_for_slack_and_is_made_up_for_in_one_go() -> None:
    home = Decision(learn=False, relax=True)
    method, known = Scripted(home), {**KNOWN, "detect.rest": 20.0, "detect.rest.publish": 30.0}
    mode, clock = mode_of(method, known, known)
    for index in range(2):
        mode.show(index, FRAMES, SAID)
        mode.use_slack(0.015)
        assert method.journal == []
        assert clock.now_s() == 0.0, "no frame is late for it"
        assert not mode.settled, "a snapshot would not know what is owed"
    mode.show(2, FRAMES, SAID)
    mode.use_slack(0.025)
    assert method.journal == ["rest 3"]
    mode.hold(True)
    mode.use_slack(0.1)
    assert method.journal == ["rest 3", "publish"]
    assert mode.settled


def test_weights_go_home_in_the_end_where_there_is_never_slack() -> None:
    method, known = Scripted(Decision(learn=False, relax=True)), {**KNOWN, "detect.rest": 20.0}
    mode, clock = mode_of(method, known, {**known, "detect.rest.publish": 5.0})
    for index in range(TIRED):
        assert method.journal == []
        mode.show(index, FRAMES, SAID)
        mode.use_slack(clock.now_s() + 0.01)
    assert method.journal == [f"rest {TIRED}"]
    assert mode.given_up == 0


def test_a_piece_that_has_become_too_long_ends_its_step() -> None:
    method = Scripted(LEARN)
    mode, _ = mode_of(method, KNOWN, {**KNOWN, "step.b": 500.0})
    mode.show(0, FRAMES, SAID)
    mode.use_slack(0.1)  # b overruns once: nobody could know
    mode.use_slack(10.0)
    assert len(mode.collect()) == 1
    model = mode._watch.model
    model._samples["step.b"].clear()
    model.note("step.b", 300.0)
    mode._effort = lambda: FULL  # as if the costs had changed after the plan was made
    mode._learner._plan = mode._effort
    mode.show(1, FRAMES, SAID)
    for frame in range(TIRED + 1):
        start = mode._clock.now_s()
        assert mode.given_up == 0, frame
        mode.use_slack(start + 0.1)
    assert mode.given_up == 1
    assert mode.settled


def test_one_bad_lap_does_not_block_a_piece_for_good() -> None:
    method = Scripted(LEARN)
    mode, _ = mode_of(method, KNOWN, KNOWN)
    mode._watch.model.note("step.a", 900.0)
    mode._learner._plan = lambda: FULL
    mode.show(0, FRAMES, SAID)
    mode.use_slack(0.1)
    assert method.journal == []
    mode.use_slack(0.2)
    assert method.journal == ["a", "b", "c"]


@pytest.mark.parametrize(("detect_ms", "watched"), [(4.0, True), (6.0, False)])
def test_a_frame_is_watched_only_where_the_next_one_need_not_wait(detect_ms: float, watched: bool) -> None:
    costs = {**KNOWN, "predict": 95.0, "detect": detect_ms}
    mode, clock = mode_of(Scripted(Decision(learn=False, detected=True)), costs, costs)
    clock.wait_until(0.095)
    assert (mode.show(0, FRAMES, SAID, 0.1) is not None) is watched
    assert mode.figures() == {"unwatched": int(not watched)}
    assert mode.detections() == [0] * watched
    assert clock.now_s() <= 0.1
    other, _ = mode_of(Scripted(LEARN), costs, costs)
    other.load_state_dict(mode.state_dict())
    assert other.figures() == mode.figures()
