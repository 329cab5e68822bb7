"""Steering a run: paused it learns nothing, reset it is the source network again, a snapshot comes when asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from online_uda.config import RunConfig
from online_uda.inputs import open_inputs
from online_uda.reports.record import FrameRecord
from online_uda.resolve import resolve
from online_uda.run import start
from online_uda.runtime.controls import Controls
from online_uda.runtime.runner import Runner
from online_uda.runtime.snapshot import snapshots
from tests.run_kit import Kit, frames_of, summary_of, write_kit


@pytest.fixture
def kit(tmp_path: Path, make_folder: Callable[..., Path]) -> Kit:
    return write_kit(tmp_path, make_folder)


def runner_of(kit: Kit, **options: object) -> Runner:
    config = RunConfig(
        schedule=str(kit.schedule), network=str(kit.network), source=str(kit.source), method="tent", device="cpu",
        threads=1, precision="fp32", tensorboard=False, report=False, serve="0", **options,
    )  # type: ignore[arg-type]  # fmt: skip
    folder = kit.root / "run"
    return start(open_inputs(resolve(config, ["anchor.pull=0"]), folder), folder, console=False)


def play(runner: Runner, wishes: dict[int, str]) -> list[dict[str, object]]:
    """Runs with wishes that come just before a frame."""
    take = runner._take

    def asking(item: object) -> FrameRecord:
        wish = wishes.get(item.index)  # type: ignore[attr-defined]
        if wish is not None:
            assert runner.controls is not None
            runner.controls.ask(wish)  # type: ignore[arg-type]
        return take(item)  # type: ignore[arg-type]

    runner._take = asking  # type: ignore[method-assign, assignment]
    runner.run()
    return frames_of(runner.folder.path)


def test_paused_nothing_is_learned(kit: Kit) -> None:
    rows = play(runner_of(kit), {3: "pause", 8: "resume"})
    assert [row["updated"] for row in rows] == [True] * 3 + [False] * 5 + [True] * 6
    assert [(row["frame"], row["guard"][0]["action"]) for row in rows if row["guard"]] == [(3, "pause"), (8, "resume")]
    agreement = [row["agreement"] for row in rows]
    assert agreement[4] != 100.0, "the weights stay what they were"
    assert summary_of(kit.root / "run")["guards"]["causes"] == {"user": 2}


def test_reset_is_the_source_network(kit: Kit) -> None:
    runner = runner_of(kit)
    source = {name: tensor.clone() for name, tensor in runner.method.deployed.state_dict().items()}
    rows = play(runner, {6: "reset", 7: "pause"})
    assert rows[5]["agreement"] != 100.0
    assert rows[6]["agreement"] == 100.0
    play_on = [row["agreement"] for row in rows[7:]]
    assert play_on[0] != 100.0, "what was learned from frame 6 after the reset"
    runner.method.load_state_dict(runner._steering._start)  # type: ignore[union-attr]
    for name, tensor in runner.method.deployed.state_dict().items():
        assert torch.equal(tensor, source[name])


def test_a_snapshot_when_asked_for(kit: Kit) -> None:
    play(runner_of(kit), {4: "snapshot"})
    assert [path.name.split(".")[0] for path in snapshots(kit.root / "run" / "snapshots")] == [
        "frame-00000005", "frame-00000014",
    ]  # fmt: skip


@pytest.mark.parametrize("learn", ["interleaved", "async"])
def test_wishes_wait_for_a_step_in_flight(kit: Kit, learn: str) -> None:
    runner = runner_of(kit, fps=8.0, learn=learn)
    rows = play(runner, {2: "reset", 6: "pause"})
    actions = [event["action"] for row in rows for event in row["guard"] if event["cause"] == "user"]
    assert sorted(actions) == ["pause", "reset"]
    paused = next(row["frame"] for row in rows for event in row["guard"] if event["action"] == "pause")
    after = [row for row in rows if row["frame"] > paused]
    assert after
    assert sum(bool(row["updated"]) for row in after) <= 1, "the step in flight ends, no frame that waited begins one"


def test_asked_twice_is_asked_once() -> None:
    controls = Controls()
    for wish in ("reset", "pause", "reset"):
        controls.ask(wish)  # type: ignore[arg-type]
    assert controls.take() == ["reset", "pause"]
    assert controls.take() == []
