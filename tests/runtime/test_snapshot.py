"""Snapshots: whole or absent, checked, few, and readable without running code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from online_uda.errors import UserError
from online_uda.runtime import snapshot
from online_uda.runtime.snapshot import (
    RunState,
    latest_state,
    read_snapshot,
    snapshots,
    weights_digest,
    write_snapshot,
)
from tests.run_kit import assert_same


def state_at(frame: int, **changes: Any) -> RunState:
    values: dict[str, Any] = {
        "next_frame": frame, "total_frames": 99, "config_digest": "c", "network_digest": "n", "wall_s": 1.5,
        "method": {"w": torch.arange(6.0).view(2, 3) + frame, "none": None, "steps": [1, 2.5, "x"]},
        "evaluator": {"m": torch.zeros(2, 2, dtype=torch.int64)}, "pace": {}, "latency": {},
        "rng": {"torch": torch.get_rng_state()},
    }  # fmt: skip
    return RunState(**{**values, **changes})


def test_round_trip_is_bit_exact(tmp_path: Path) -> None:
    state = state_at(7)
    path = write_snapshot(tmp_path / "snapshots", state)
    again = read_snapshot(path)
    for name in RunState.__slots__:  # type: ignore[attr-defined]
        assert_same(getattr(again, name), getattr(state, name), name)
    assert torch.load(path, weights_only=True)["next_frame"] == 7
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_only_the_newest_stay_in_order_of_frames(tmp_path: Path) -> None:
    for frame in (5, 100_000_001, 10, 99):
        write_snapshot(tmp_path, state_at(frame))
    assert [read_snapshot(path).next_frame for path in snapshots(tmp_path)] == [99, 100_000_001]
    state = latest_state(tmp_path)
    assert state is not None
    assert state.next_frame == 100_000_001


def test_a_resumed_run_that_is_behind_keeps_its_own(tmp_path: Path) -> None:
    """After a damaged newest snapshot a run writes earlier frames again; the new file is never swept away."""
    for frame in (50, 60):
        write_snapshot(tmp_path, state_at(frame))
    path = write_snapshot(tmp_path, state_at(10))
    assert path.exists()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_damage_is_found(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_snapshot(tmp_path, state_at(3))
    newest = write_snapshot(tmp_path, state_at(6))
    content = bytearray(newest.read_bytes())
    if damage == "flip":
        content[len(content) // 3] ^= 4
    newest.write_bytes({"flip": content, "cut": content[:-1], "empty": b""}[damage])
    with pytest.raises(UserError, match="damaged"):
        read_snapshot(newest)
    state = latest_state(tmp_path)
    assert state is not None
    assert state.next_frame == 3
    assert str(newest) in capsys.readouterr().err
    snapshots(tmp_path)[0].write_bytes(b"")
    with pytest.raises(UserError, match="no snapshot can be read"):
        latest_state(tmp_path)


def test_no_snapshot_is_no_error(tmp_path: Path) -> None:
    assert latest_state(tmp_path / "none") is None


def test_another_schema_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "SNAPSHOT_SCHEMA", "online_uda.snapshot/0")
    path = write_snapshot(tmp_path, state_at(1))
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"not a snapshot of schema online_uda\.snapshot/2"):
        read_snapshot(path)


def test_a_write_that_fails_leaves_the_old_and_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_snapshot(tmp_path, state_at(1))
    before = snapshots(tmp_path)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_snapshot(tmp_path, state_at(2))
    assert list(tmp_path.iterdir()) == before


def test_what_a_killed_write_left_is_swept_up(tmp_path: Path) -> None:
    (tmp_path / ".partial-abc").write_bytes(b"half")
    path = write_snapshot(tmp_path, state_at(1))
    assert list(tmp_path.iterdir()) == [path]


def test_weights_digest_sees_every_value_name_and_shape() -> None:
    def network(**layers: torch.nn.Module) -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.ModuleDict({name: layer.requires_grad_(False) for name, layer in layers.items()})

    one = network(a=torch.nn.Linear(2, 3), b=torch.nn.BatchNorm2d(3))
    digest = weights_digest(one)
    assert weights_digest(one) == digest
    one["a"].weight[0, 0] += 1e-7  # type: ignore[index, operator]
    changed = weights_digest(one)
    assert changed != digest
    one["b"].num_batches_tracked += 1  # type: ignore[index, operator]
    assert len({digest, changed, weights_digest(one)}) == 3
