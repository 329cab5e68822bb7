"""A worker beside the stream: weights change hands whole and between frames, its own errors and its end are noticed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from online_uda.adaptation.method import StepReport
from online_uda.adaptation.pieces import FULL, Effort, Pieces
from online_uda.adaptation.trigger.base import Decision
from online_uda.networks.predictor import TorchPredictor, Wishes
from online_uda.runtime.async_learning import MAILBOX, AsyncLearning, SimulatedAsyncLearning
from online_uda.runtime.buffered import BufferedPredictor
from online_uda.runtime.clock import RealClock, SimulatedClock
from online_uda.runtime.cost_model import CostModel, Stopwatch
from online_uda.runtime.costs import StageCosts
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

    predictor._front, predictor._back = Reader(predictor._front.network), Reader(predictor._back.network)  # type: ignore[assignment]
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
    for _ in range(300):
        predictor.predict(torch.zeros(1, 3, 4, 4))
    stop.set()
    worker.join()
    assert {len(values) for values in seen} == {1}
    assert len({next(iter(values)) for values in seen}) > 1


def worker_of(method: Any) -> AsyncLearning:
    clock = RealClock(CPU)
    return AsyncLearning(method, Stopwatch(clock, model_of(KNOWN)), clock, 0.1, threads=1, device=CPU)


def until(holds: Callable[[], bool]) -> None:
    """Waits for another thread; fails in the end rather than hanging."""
    for _ in range(6000):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError("the worker did not get there")


def test_worker_watches_learns_and_comes_to_rest() -> None:
    method = Scripted(LEARN, LEARN, Decision(learn=False, detected=True))
    worker = worker_of(method)
    worker.hold(True)
    worker.show(5, FRAMES, SAID)
    until(lambda: worker.settled)
    assert method.journal == [], "held: watched, not learned from"
    worker.hold(False)
    worker.show(5, FRAMES, SAID)
    done: list[Any] = []

    def learned() -> bool:
        done.extend(worker.collect())
        return bool(done)

    until(learned)
    assert (done[0].frame, done[0].effort, method.journal) == (5, FULL, ["a", "b", "c"])
    worker.show(6, FRAMES, SAID)
    until(lambda: worker.settled)
    assert worker.detections() == [6]
    worker.close()
    assert not worker._worker.is_alive()


def test_an_error_of_the_worker_reaches_the_stream() -> None:
    class Broken(Scripted):
        def learn(self, frames: Tensor, decision: Decision, effort: Effort | None = FULL) -> Pieces[StepReport]:
            yield "a"
            raise ZeroDivisionError

    worker = worker_of(Broken(LEARN))
    worker.show(0, FRAMES, SAID)
    until(lambda: not worker._worker.is_alive())
    with pytest.raises(ZeroDivisionError):
        worker.show(1, FRAMES, SAID)
    with pytest.raises(ZeroDivisionError):
        worker.close()


def test_closing_before_the_first_frame_is_fine() -> None:
    worker_of(Scripted(LEARN)).close()


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
