"""Clock, device, threads, precision, random generators and interrupts."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from online_uda.errors import UserError
from online_uda.evaluation.latency import Lap
from online_uda.runtime import device as devices
from online_uda.runtime.clock import RealClock
from online_uda.runtime.device import autocast, choose_device, choose_precision, use_threads, works_beside
from online_uda.runtime.interrupts import GracefulStop
from online_uda.runtime.rng import rng_state, seed_everything, set_rng_state

CPU = torch.device("cpu")


def test_real_clock_times_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 11.0, 11.25])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    clock = RealClock(CPU)
    assert clock.now_s() == 10.0
    with clock.measure("predict") as lap:
        pass
    assert lap.latency_ms == 250.0


def test_real_clock_waits_for_cuda_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    with RealClock(torch.device("cuda", 1)).measure("predict"):
        assert waited == [torch.device("cuda", 1)]
    assert waited == [torch.device("cuda", 1)] * 2


@pytest.mark.parametrize(
    ("wanted", "count", "expected"),
    [("auto", 0, "cpu"), ("auto", 2, "cuda:0"), ("cpu", 2, "cpu"), ("cuda", 2, "cuda:0"), ("cuda:1", 2, "cuda:1")],
)
def test_devices(monkeypatch: pytest.MonkeyPatch, wanted: str, count: int, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert str(choose_device(wanted)) == expected


def test_absent_devices_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"--device cuda:2: this machine has cuda:0 to cuda:1"):
        choose_device("cuda:2")


def test_threads_leave_a_core_to_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    torch.set_num_threads(8)
    assert use_threads(None) == torch.get_num_threads() == 3
    torch.set_num_threads(2)  # a limit from outside is kept
    assert use_threads(None) == 2
    assert use_threads(5) == torch.get_num_threads() == 5
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert use_threads(None) == 1


def test_the_frozen_network_works_beside_where_a_core_is_free_and_frames_are_worth_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu, large = torch.device("cpu"), (256, 512)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert works_beside(None, 1, large, cpu)
    assert not works_beside(None, 2, large, cpu)
    assert not works_beside(None, 1, (64, 128), cpu)
    assert not works_beside(None, 1, large, torch.device("cuda", 0))
    assert not works_beside(False, 1, large, cpu)
    assert works_beside(True, 2, (64, 128), cpu)


class ScriptedClock:
    """Answers measurements from a list and notes whether autocast was on."""

    def __init__(self, latencies_ms: list[float]) -> None:
        self.latencies_ms, self.reduced = latencies_ms, []  # type: ignore[var-annotated]

    def now_s(self) -> float:
        return 0.0

    @contextmanager
    def measure(self, stage: str) -> Iterator[Lap]:
        lap = Lap()
        self.reduced.append(torch.is_autocast_enabled("cpu"))
        yield lap
        lap.latency_ms = self.latencies_ms.pop(0)


class Labeller(nn.Module):
    """Stands in for a network: notes the frames it is shown."""

    shapes: tuple[torch.Size, ...] = ()

    def forward(self, frames: torch.Tensor) -> Labeller:
        self.shapes = (*self.shapes, frames.shape)
        return self

    def labels(self) -> None:
        return None


@pytest.mark.parametrize(
    ("latencies", "expected"),
    [
        ([90, 90, 50, 20, 60, 70, 70, 30, 50, 30, 55, 30], "bf16"),  # 50 against 20
        ([90, 90, 50, 45, 60, 70, 70, 48, 50, 49, 55, 49], "fp32"),  # faster, but not by a quarter
        ([90, 500], "fp32"),  # given up after one lap
    ],
)
def test_precision_is_measured_in_turns(latencies: list[float], expected: str) -> None:
    clock, network = ScriptedClock(list(map(float, latencies))), Labeller()
    assert choose_precision("auto", network, (48, 64), CPU, clock) == expected  # type: ignore[arg-type]
    assert clock.latencies_ms == []
    assert clock.reduced == [False, True] * (len(latencies) // 2)
    assert set(network.shapes) == {(1, 3, 48, 64)}


@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
def test_precision_that_is_asked_for_is_only_warmed_up(wanted: str) -> None:
    clock = ScriptedClock([5.0])
    assert choose_precision(wanted, Labeller(), (48, 64), CPU, clock) == wanted  # type: ignore[arg-type]
    assert clock.reduced == [wanted == "bf16"]
    assert devices.FASTER > 1


def test_autocast_lowers_only_when_asked() -> None:
    layer, x = nn.Linear(2, 2), torch.ones(1, 2)
    with autocast(CPU, "bf16"):
        assert layer(x).dtype == torch.bfloat16
    with autocast(CPU, "fp32"):
        assert layer(x).dtype == torch.float32


def draws() -> tuple[float, ...]:
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(1).item()


def test_generators_are_saved_and_restored(tmp_path: object) -> None:
    seed_everything(4)
    draws()  # an odd number of gaussians: half a pair is part of the state
    state = rng_state()
    after = draws()
    set_rng_state(state)
    assert draws() == after
    seed_everything(4)
    first = draws()
    seed_everything(4)
    assert draws() == first
    seed_everything(5)
    assert all(a != b for a, b in zip(draws(), first, strict=True))


def test_generator_state_survives_a_safe_file(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "rng.pt")
    torch.save(rng_state(), path)
    after = draws()
    set_rng_state(torch.load(path, weights_only=True))
    assert draws() == after


def test_first_interrupt_is_noted_and_the_second_raised(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with GracefulStop() as stop:
        assert not stop.requested
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        assert "press Ctrl-C again" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_leave_signals_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with GracefulStop() as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
