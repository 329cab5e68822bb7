"""A worker beside the stream: it learns, comes to rest, and its own errors and its end are noticed."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from online_uda.adaptation.guards.event import GuardEvent
from online_uda.adaptation.method import StepReport
from online_uda.adaptation.pieces import FULL, Effort, Pieces
from online_uda.adaptation.trigger.base import Decision
from online_uda.networks.predictor import PredictorFactory, Wishes
from online_uda.networks.segmenter import Segmentation
from online_uda.runtime.async_learning import MOST_HUNG, AsyncLearning
from online_uda.runtime.clock import RealClock
from online_uda.runtime.cost_model import Stopwatch
from online_uda.runtime.replaceable import Replaceable
from tests.runtime.test_learning_modes import FRAMES, KNOWN, LEARN, SAID, Scripted, model_of

CPU = torch.device("cpu")


class Publishing(Scripted):
    """`Scripted` with a state: how many steps it has learned."""

    guarded = True
    learned = 0

    def blueprint(self) -> Callable[[], Publishing]:
        return lambda: type(self)(LEARN)

    def use_predictor(self, factory: PredictorFactory) -> None:
        self.predictor = factory(torch.nn.Identity(), Wishes())  # type: ignore[arg-type]

    def learn(self, frames: Tensor, decision: Decision, effort: Effort | None = FULL) -> Pieces[StepReport]:
        report = yield from super().learn(frames, decision, effort)
        self.learned += 1
        self.predictor.publish(torch.nn.Identity())  # type: ignore[arg-type]
        return report

    def pause(self, paused: bool) -> None:
        self.paused = paused

    def use_first_stage(self, first_stage: Callable[[Tensor], Tensor]) -> None:
        self.first_stage = first_stage

    def take_events(self) -> list[GuardEvent]:
        return []

    def state_dict(self) -> dict[str, Any]:
        return {"learned": self.learned}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.learned = state["learned"]


class Silent:
    name = "silent"

    def __init__(self, *_: Any) -> None:
        """As a factory."""

    def publish(self, network: Any) -> None:
        """To nobody."""


def beside(method: Any, hung_s: float = 60.0) -> AsyncLearning:
    clock, replaceable = RealClock(CPU), Replaceable(method)
    replaceable.use_predictor(Silent)  # type: ignore[arg-type]
    watch = Stopwatch(clock, model_of(KNOWN))
    return AsyncLearning(replaceable, watch, clock, 0.1, threads=1, device=CPU, hung_s=hung_s)


def until(holds: Callable[[], object]) -> None:
    """Waits for another thread; fails in the end rather than hanging."""
    for _ in range(6000):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError("the worker did not get there")


def deeds(mode: AsyncLearning) -> list[tuple[str, str]]:
    return [(event.action, event.cause) for event in mode._method.take_events()]


def test_worker_watches_learns_and_comes_to_rest() -> None:
    method = Publishing(LEARN, LEARN, Decision(learn=False, detected=True))
    mode = beside(method)
    mode.hold(True)
    mode.show(5, FRAMES, SAID)
    until(lambda: mode.settled)
    assert method.journal == [], "held: watched, not learned from"
    mode.hold(False)
    mode.show(5, FRAMES, SAID)
    done: list[Any] = []

    def learned() -> bool:
        done.extend(mode.collect())
        return bool(done)

    until(learned)
    assert (done[0].frame, done[0].effort, method.journal) == (5, FULL, ["a", "b", "c"])
    mode.show(6, FRAMES, SAID)
    until(lambda: mode.settled)
    assert mode.detections() == [6]
    worker = mode._worker
    mode.close()
    assert worker is not None
    assert not worker.alive
    assert (mode.figures()["workers_died"], mode.figures()["workers_hung"]) == (0, 0)


def test_closing_before_the_first_frame_is_fine() -> None:
    beside(Publishing(LEARN)).close()


class Faulty(Publishing):
    """The third step of the first one of its kind goes wrong; its successors are plain."""

    def __init__(self, fault: Callable[[], None]) -> None:
        super().__init__(LEARN)
        self.fault = fault

    def blueprint(self) -> Callable[[], Publishing]:
        return lambda: Publishing(LEARN)

    def learn(self, frames: Tensor, decision: Decision, effort: Effort | None = FULL) -> Pieces[StepReport]:
        if self.learned == 2:
            yield "a"
            self.learned = 99  # a weight that is half changed
            self.fault()
            self.learned = 100
        return (yield from super().learn(frames, decision, effort))


def play_until_lost(mode: AsyncLearning) -> int:
    """Shows frames until a worker was left behind; the number of the last one."""
    for index in range(5000):
        mode.show(index, FRAMES, SAID)
        if sum(mode.failures.values()):
            return index
        time.sleep(0.005)
    raise AssertionError("nothing went wrong")


def raise_out_of_memory() -> None:
    raise MemoryError


def divide_by_zero() -> None:
    1 / 0  # noqa: B018


@pytest.mark.parametrize(
    ("fault", "said"),
    [(divide_by_zero, "ZeroDivisionError: division"), (raise_out_of_memory, "MemoryError"), (sys.exit, "SystemExit")],
)
def test_a_dead_worker_is_replaced_from_the_last_published_state(fault: Callable[[], None], said: str) -> None:
    method = Faulty(fault)
    mode = beside(method)
    mode._method.use_first_stage(torch.relu)
    mode._method.pause(True)
    index = play_until_lost(mode)
    (event,) = mode._method.take_events()
    assert (event.action, event.cause) == ("restart", "worker died")
    assert said in event.detail
    assert "test_async_learning.py:" in event.detail
    until(lambda: mode._method.current is not method)
    assert method.learned == 99
    current: Any = mode._method.current
    assert (current.first_stage, current.paused) == (torch.relu, True)
    mode.hold(True)
    until(lambda: mode.settled)
    successor = mode._method.current
    assert successor.state_dict()["learned"] >= 2, "the half-done step is forgotten, the two before it are not"
    assert successor.state_dict()["learned"] < 99
    mode.hold(False)
    before = successor.state_dict()["learned"]
    mode.show(index + 1, FRAMES, SAID)
    until(lambda: successor.state_dict()["learned"] > before)
    steps = mode.collect()
    assert [step.frame for step in steps] == sorted({step.frame for step in steps})
    assert mode.given_up == 1
    mode.close()
    assert (mode.figures()["workers_died"], deeds(mode)) == (1, [])


def test_a_hung_worker_is_left_behind_and_changes_nothing_when_it_wakes_up() -> None:
    release = threading.Event()
    method = Faulty(lambda: release.wait() and None)
    mode = beside(method, hung_s=1.0)
    play_until_lost(mode)
    assert deeds(mode) == [("restart", "worker hung")]
    (zombie,) = mode._left_behind
    until(lambda: mode._method.current is not method)
    mode.hold(True)
    until(lambda: mode.settled)
    before = mode._method.state_dict()
    assert 2 <= before["learned"] < 99
    release.set()
    until(lambda: not zombie.alive)
    assert method.learned == 100, "it went on with what it had"
    assert mode._method.state_dict() == before
    assert mode._method._kept == before
    mode.close()
    assert mode.figures()["workers_hung"] == 1


def test_the_state_of_a_run_that_ends_with_a_hung_worker_is_the_last_published_one() -> None:
    release = threading.Event()
    method = Faulty(lambda: release.wait() and None)
    mode = beside(method, hung_s=0.5)
    for index in range(5000):
        mode.show(index, FRAMES, SAID)
        if method.learned == 99:
            break
        time.sleep(0.002)
    mode.close()
    assert mode._method.state_dict() == {"learned": 2}
    assert mode.figures()["workers_hung"] == 1
    release.set()


def test_workers_that_die_at_once_are_started_less_and_less_often() -> None:
    class Hopeless(Publishing):
        def learn(self, frames: Tensor, decision: Decision, effort: Effort | None = FULL) -> Pieces[StepReport]:
            raise ZeroDivisionError
            yield

        def blueprint(self) -> Callable[[], Publishing]:
            return lambda: Hopeless(LEARN)

    mode = beside(Hopeless(LEARN))
    lost: list[int] = []
    for index in range(40):
        until(lambda: mode._worker is None or not mode._worker.alive or mode._worker.settled)
        before = sum(mode.failures.values())
        mode.show(index, FRAMES, SAID)
        lost += [index] * (sum(mode.failures.values()) - before)
        if mode._worker is not None:
            worker = mode._worker
            until(lambda worker=worker: not worker.alive)
    # A worker that is started at a frame is found dead at the next one: pauses of 0, 1, 3, 7, 15 frames.
    assert lost == [1, 2, 4, 8, 16, 32]
    assert len(mode._left_behind) == 0
    mode.close()


def test_no_more_than_a_few_threads_may_hang() -> None:
    release = threading.Event()

    class Stuck(Publishing):
        def watch(self, frames: Tensor, prediction: Segmentation) -> Decision:
            release.wait()
            return LEARN

        def blueprint(self) -> Callable[[], Publishing]:
            return lambda: Stuck(LEARN)

    mode = beside(Stuck(LEARN), hung_s=0.05)
    mode._watch.model._samples["detect"].append(0.0)

    def enough() -> bool:
        mode.show(0, FRAMES, SAID)
        return mode.failures["worker hung"] == MOST_HUNG

    until(enough)
    for index in range(200):
        mode.show(index, FRAMES, SAID)
    assert mode._worker is None
    assert mode.settled
    release.set()
    until(lambda: not any(worker.alive for worker in mode._left_behind))
    until(lambda: mode.show(0, FRAMES, SAID) or mode._worker is not None)
    mode.close()
