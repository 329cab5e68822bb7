"""kill -9 in the middle of a run: what is left can be resumed to the numbers of a run that nobody disturbed."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch

from benchmarks.kill_resume import play, result, same, trial
from benchmarks.tiny_run import command, write_inputs
from online_uda.errors import UserError
from online_uda.reports.run_folder import RunFolder
from online_uda.runtime import snapshot


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    write_inputs(tmp_path, frames=2)
    assert play(command(tmp_path, "whole", method="tent"), tmp_path / "log") == 0
    return tmp_path


def test_killed_while_a_snapshot_is_written(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third snapshot stops half-way, as by kill -9; the run continues from the second."""
    save, calls = torch.save, []

    def dies(content: object, file: object) -> None:
        calls.append(1)
        save(content, file)
        if len(calls) == 3:
            os.kill(os.getpid(), 9)

    with monkeypatch.context() as patch:
        patch.setattr(snapshot.torch, "save", dies)
        assert play(command(whole, "parts", method="tent"), whole / "log") == -9
    folder = whole / "parts" / "snapshots"
    assert len(list(folder.glob(".partial-*"))) == 1
    assert [path.name[:14] for path in snapshot.snapshots(folder)] == ["frame-00000001", "frame-00000002"]
    assert play(["--resume", str(whole / "parts")], whole / "log") == 0
    assert same(result(whole / "parts"), result(whole / "whole"))
    assert not list(folder.glob(".partial-*"))


def test_killed_at_random_moments(whole: Path) -> None:
    took = trial(whole, "parts", result(whole / "whole"), takes_s=(0.3, 1.0), moments=random.Random(3), method="tent")
    assert took["identical"], took


def test_the_comparison_sees_a_difference(whole: Path) -> None:
    one, other = result(whole / "whole"), result(whole / "whole")
    assert same(one, other)
    next(iter(other["method"]["student"].values())).view(-1)[0] += 1e-3
    assert not same(one, other)


def test_a_folder_left_before_its_configuration_stood_can_be_used(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".config.yaml.x1").write_text("half")
    RunFolder.create(folder)
    assert list(folder.iterdir()) == []
    (folder / "config.yaml").write_text("a: 1")
    (folder / ".summary.json.x2").write_text("half")
    RunFolder.reopen(folder)
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]
    with pytest.raises(UserError, match="not empty"):
        RunFolder.create(folder)
