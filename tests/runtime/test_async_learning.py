"""A worker beside the stream: weights change hands whole and between frames, its own errors and its end are noticed."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from online_uda.adaptation.guards.event import GuardEvent
from online_uda.adaptation.method import StepReport
from online_uda.adaptation.pieces import FULL, Effort, Pieces
from online_uda.adaptation.trigger.base import Decision
from online_uda.networks.predictor import PredictorFactory, TorchPredictor, Wishes
from online_uda.networks.segmenter import Segmentation
from online_uda.runtime.async_learning import MOST_HUNG, AsyncLearning
from online_uda.runtime.buffered import BufferedPredictor
from online_uda.runtime.clock import RealClock, SimulatedClock
from online_uda.runtime.cost_model import CostModel, Stopwatch
from online_uda.runtime.costs import StageCosts
from online_uda.runtime.replaceable import Replaceable
from online_uda.runtime.simulated_async import SimulatedAsyncLearning
from online_uda.runtime.worker import MAILBOX
from tests.adaptation.recipe_kit import stream, untrained
from tests.runtime.test_learning_modes import FRAMES, KNOWN, LEARN, SAID, Scripted

CPU = torch.device("cpu")


def model_of(known: dict[str, float]) -> CostModel:
    model = CostModel()
    for stage, ms in known.items():
        model.note(stage, ms)
    return model


def test_buffers_change_places_between_frames_and_not_before() -> None:
    network = untrained("batchnorm").eval()
    frames = next(stream(1))
    predictor = BufferedPredictor(network, Wishes(watched=("head.norm",)), nullcontext)
    plain = TorchPredictor(network, nullcontext)
    before = plain.predict(frames)[0].logits
    said, moments = predictor.predict(frames)
    assert torch.equal(said.logits, before)
    assert (said.size, said.padded, len(moments)) == ((64, 128), (64, 128), 1)
    with torch.no_grad():
        network.head.classifier.bias.add_(1.0)
        network.head.norm.running_mean.add_(0.5)
    after = plain.predict(frames)[0].logits
    assert torch.equal(predictor.predict(frames)[0].logits, before), "not published yet"
    predictor.publish(network)
    assert torch.equal(predictor.predict(frames)[0].logits, after)
    assert not torch.equal(before, after)
    with predictor._copying:  # a publication is under way: the old weights go on answering, without a wait
        predictor._fresh = True
        assert torch.equal(predictor.predict(frames)[0].logits, after)


def test_no_frame_is_answered_with_weights_of_two_publications() -> None:
    """Every weight of a publication has one value; a mixture would show."""
    network = torch.nn.Sequential(*[torch.nn.Linear(1, 1) for _ in range(40)])
    network.divisor = 4  # type: ignore[assignment]
    network.register_buffer("mean", torch.zeros(1))
    # Before the copies are made: the worker may hold the lock at the first prediction, which then answers with these.
    for parameter in network.parameters():
        parameter.data.fill_(0.0)
    predictor = BufferedPredictor(network, Wishes(), nullcontext)  # type: ignore[arg-type]
    seen: list[set[float]] = []

    class Reader(torch.nn.Module):
        def __init__(self, held: torch.nn.Module) -> None:
            super().__init__()
            self.network = held

        def forward(self, frames: Tensor) -> tuple[Tensor]:
            values = set()
            for parameter in self.network.parameters():
                values.add(float(parameter.flatten()[0]))
                time.sleep(0)
            seen.append(values)
            return (frames,)

    for buffer in (predictor._front, predictor._back):
        buffer.network = Reader(buffer.network.network)  # type: ignore[assignment]
    stop = threading.Event()

    def publish() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            for parameter in network.parameters():
                parameter.data.fill_(number)
            predictor.publish(network)  # type: ignore[arg-type]

    worker = threading.Thread(target=publish)
    worker.start()
    for _ in range(100):
        predictor.predict(torch.zeros(1, 3, 4, 4))
    stop.set()
    worker.join()
    assert {len(values) for values in seen} == {1}
    assert len({next(iter(values)) for values in seen}) > 1


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
