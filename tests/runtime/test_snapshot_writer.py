"""Snapshots beside the stream: one at a time, of the state as it was, and a full disk costs one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from online_uda.runtime import snapshot_writer
from online_uda.runtime.snapshot import RunState, latest_state
from online_uda.runtime.snapshot_writer import SnapshotWriter
from tests.run_kit import FRAMES, Kit, summary_of, write_kit

STATE = RunState(4, 8, "config", "network", 1.0, {}, {"scores": [1, 2]}, {}, {}, {})


def test_it_returns_before_the_file_is_there_and_keeps_the_state_of_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, write = threading.Event(), snapshot_writer.write_snapshot
    threads = []

    def slow(folder: Path, state: RunState) -> Path:
        threads.append(threading.current_thread().name)
        assert go_on.wait(10.0)
        return write(folder, state)

    monkeypatch.setattr(snapshot_writer, "write_snapshot", slow)
    writer, scores = SnapshotWriter(tmp_path, beside=True), [1, 2]
    assert writer.write(replace(STATE, evaluator={"scores": scores}))
    scores.append(3)
    assert latest_state(tmp_path) is None
    go_on.set()
    assert writer.close()
    state = latest_state(tmp_path)
    assert state is not None
    assert (state.evaluator, threads) == ({"scores": [1, 2]}, ["snapshot_0"])


@pytest.mark.parametrize("beside", [False, True])
def test_a_full_disk_costs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], beside: bool
) -> None:
    write, failing = snapshot_writer.write_snapshot, [True]

    def once(folder: Path, state: RunState) -> Path:
        if failing.pop() if failing else False:
            raise OSError(28, "No space left on device")
        return write(folder, state)

    monkeypatch.setattr(snapshot_writer, "write_snapshot", once)
    writer = SnapshotWriter(tmp_path, beside=beside)
    assert writer.write(STATE) is beside  # not known yet
    assert writer.wait() is not beside
    assert writer.write(replace(STATE, next_frame=8))
    assert writer.close()
    assert writer.failures == 1
    assert "no snapshot at frame 4: [Errno 28] No space left on device; the run goes on" in capsys.readouterr().err
    state = latest_state(tmp_path)
    assert state is not None
    assert state.next_frame == 8


def test_a_run_with_deadlines_writes_beside_and_one_that_waits_does_not(
    tmp_path: Path, make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kit: Kit = write_kit(tmp_path, make_folder)
    write, threads = snapshot_writer.write_snapshot, []

    def noted(folder: Path, state: Any) -> Path:
        threads.append(threading.current_thread().name)
        return write(folder, state)

    monkeypatch.setattr(snapshot_writer, "write_snapshot", noted)
    kit.run("run.snapshot_every=4", out="recorded", fps=2)
    assert set(threads) == {"snapshot_0"}
    assert not any(thread.name == "snapshot_0" for thread in threading.enumerate())
    assert summary_of(kit.root / "recorded")["snapshot_failures"] == 0
    state = latest_state(kit.root / "recorded" / "snapshots")
    assert state is not None
    assert state.next_frame == FRAMES
    threads.clear()
    kit.run("run.snapshot_every=4", out="waits")
    assert set(threads) == {threading.main_thread().name}
