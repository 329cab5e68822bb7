"""A run under faults of its surroundings: signals, a full disk, clocks that jump."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from online_uda.cli import main
from online_uda.reports.jsonl import JsonlSink
from online_uda.reports.run_folder import RunFolder
from online_uda.runtime import clock as clocks
from online_uda.runtime import snapshot_writer
from online_uda.runtime.clock import RealClock
from online_uda.runtime.interrupts import GracefulStop
from online_uda.runtime.runner import Runner
from online_uda.runtime.snapshot import snapshots
from streams.frame import StreamItem
from tests.run_kit import FRAMES, Kit, frames_of, summary_of, write_kit

FULL = OSError(28, "No space left on device")


@pytest.fixture
def kit(tmp_path: Path, make_folder: Callable[..., Path]) -> Kit:
    return write_kit(tmp_path, make_folder)


def at_frame(monkeypatch: pytest.MonkeyPatch, index: int, act: Callable[[], None]) -> None:
    take = Runner._take

    def wrapped(self: Runner, item: StreamItem) -> object:
        if item.index == index:
            act()
        return take(self, item)

    monkeypatch.setattr(Runner, "_take", wrapped)


def test_sigterm_finishes_the_frame_saves_and_exits_with_0(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = kit.run(out="whole", frames=3)

    def terminate() -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # a supervisor that repeats itself

    with monkeypatch.context() as patch:
        at_frame(patch, 4, terminate)
        assert main(kit.arguments(out="parts", frames=3)) == 0
    parts = kit.root / "parts"
    assert len(frames_of(parts)) == 5
    assert summary_of(parts)["interrupted"] is True
    assert "terminated; stopping after this frame" in capsys.readouterr().err
    assert main(["--resume", str(parts)]) == 0
    assert frames_of(parts) == frames_of(whole)
    assert summary_of(parts) == summary_of(whole)


def test_ctrl_c_after_sigterm_stops_at_once_and_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with GracefulStop() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert (stop.requested, stop.terminated) == (True, True)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    with GracefulStop() as stop:
        signal.raise_signal(signal.SIGINT)
        assert (stop.requested, stop.terminated) == (True, False)


def test_a_full_disk_costs_a_snapshot_and_not_the_run(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = kit.run("run.snapshot_every=4", out="whole")
    write, calls = snapshot_writer.write_snapshot, []

    def sometimes(folder: Path, state: Any) -> Path:
        calls.append(state.next_frame)
        if len(calls) == 2:
            raise FULL
        return write(folder, state)

    monkeypatch.setattr(snapshot_writer, "write_snapshot", sometimes)
    folder = kit.run("run.snapshot_every=4")
    assert calls == [4, 8, 12, FRAMES]
    assert [path.name.split(".")[0] for path in snapshots(folder / "snapshots")] == ["frame-00000012", "frame-00000014"]
    assert "no snapshot at frame 8: [Errno 28] No space left on device; the run goes on" in capsys.readouterr().err
    summary = summary_of(folder)
    assert summary.pop("snapshot_failures") == 1
    assert summary == {key: value for key, value in summary_of(whole).items() if key != "snapshot_failures"}


def test_a_report_that_meets_a_full_disk_is_switched_off(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = JsonlSink.write

    def sometimes(self: JsonlSink, record: Any) -> None:
        if record.frame >= 3:
            raise FULL
        write(self, record)

    monkeypatch.setattr(JsonlSink, "write", sometimes)
    folder = kit.run()
    assert len(frames_of(folder)) == 3
    summary = summary_of(folder)
    assert summary["frames"] == FRAMES
    assert [failure["frame"] for failure in summary["sink_failures"]] == [3]
    assert capsys.readouterr().err.count("the jsonl report failed") == 1


def test_a_report_that_cannot_be_put_on_the_disk_is_switched_off(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: JsonlSink) -> None:
        raise FULL

    monkeypatch.setattr(JsonlSink, "sync", full)
    summary = summary_of(kit.run("run.snapshot_every=5"))
    assert [failure["doing"] for failure in summary["sink_failures"]] == ["sync"]
    assert summary["interrupted"] is False


def test_a_summary_that_cannot_be_written_is_one_clear_line(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: RunFolder, summary: Any) -> None:
        raise FULL

    monkeypatch.setattr(RunFolder, "write_summary", full)
    assert main(kit.arguments(frames=1)) == 2
    printed = capsys.readouterr()
    assert "harmonic mean" in printed.out
    assert "summary.json cannot be written: No space left on device" in printed.err
    assert "Traceback" not in printed.err


def test_a_clock_that_jumps_back_costs_no_frame(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]

    def jumps() -> float:
        now[0] += 0.001 if now[0] < 1000.02 else -3600.0
        return now[0]

    real = time.perf_counter
    monkeypatch.setattr(clocks.time, "perf_counter", jumps)
    timer = RealClock(torch.device("cpu"))
    laps = []
    for _ in range(60):
        with timer.measure("predict") as lap:
            pass
        laps.append(lap.latency_ms)
    assert min(laps) == 0.0
    assert max(laps) > 0.0
    folder = kit.run(frames=2)
    assert summary_of(folder)["frames"] == 6
    assert summary_of(folder, timed=True)["wall_s"] >= 0.0
    monkeypatch.setattr(clocks.time, "perf_counter", real)
