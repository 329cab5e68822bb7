"""A stream that does not wait, on simulated clocks: deadlines, drops, learning in the slack, resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from online_uda.cli import main
from tests.run_kit import FRAMES, Kit, assert_same, frames_of, method_state, summary_of, write_kit
from tests.test_run_resume import at_frame, kill

LEARN = (
    "trigger.kind=always",
    "trigger.every=1",
    "replay.frames=6",
    "guards=null",
    "memory=null",
    "anchor.ensemble=null",
    "alignment=null",
)
PIECES = 28
"""Pieces of a step of `default`: absorb, begin, three of the update, the draw, eleven of each of two objectives."""


@pytest.fixture
def kit(tmp_path: Path, make_folder: Callable[..., Path]) -> Kit:
    return write_kit(tmp_path, make_folder)


def costs(kit: Kit, **stages_ms: object) -> str:
    path = kit.root / f"costs-{len(list(kit.root.glob('costs-*')))}.json"
    path.write_text(json.dumps({"stages_ms": stages_ms}))
    return str(path)


def test_a_camera_that_outruns_prediction_drops_the_oldest_and_stale_masks_are_scored(kit: Kit) -> None:
    """155 ms a mask at 10 frames a second, played by hand."""
    folder = kit.run(method="frozen", fps=10, clock=costs(kit, predict=155, detect=0, step=0))
    rows, summary = frames_of(folder), summary_of(folder)
    assert [row["frame"] for row in rows if row["dropped"]] == [2, 5, 8, 11]
    assert [row["mask_of"] for row in rows] == [None, 0, 0, 1, 3, 3, 4, 6, 6, 7, 9, 9, 10, 12]
    assert all(row["late"] is not row["dropped"] for row in rows)
    assert summary["dropped"] == 4
    assert summary["deadline_miss_rate"] == 1.0
    assert (summary["on_time"]["late"], summary["on_time"]["dropped_ratio"]) == (10, 4 / FRAMES)
    assert {row["agreement"] for row in rows} == {100.0}
    timed = frames_of(folder, timed=True)
    assert [row["frame_ms"] for row in timed[:5]] == pytest.approx([155, 210, None, 165, 220])


def test_with_time_enough_scores_are_those_of_a_stream_that_waits(kit: Kit) -> None:
    waiting = kit.run(*LEARN, method="default", out="waiting")
    timed = kit.run(
        *LEARN, method="default", out="timed", fps=1, learn="sync", clock=costs(kit, predict=40, detect=1, step=5)
    )
    keys = ("miou", "miou_frozen", "agreement", "losses", "updated", "scope", "lr")
    for one, other in zip(frames_of(waiting), frames_of(timed), strict=True):
        assert {key: one[key] for key in keys} == {key: other[key] for key in keys}
    assert_same(method_state(waiting), method_state(timed))
    summary = summary_of(timed)
    assert summary["streaming_miou"] == summary["overall_miou"] == summary_of(waiting)["overall_miou"]
    assert (summary["deadline_miss_rate"], summary["dropped"], summary["staleness"]) == (0.0, 0, 0.0)
    assert (summary["published"], summary["adapted_ratio"]) == (FRAMES, 1.0)
    assert "hand at its deadline" in summary["scoring"]
    assert {summary_of(waiting)[key] for key in ("deadline_miss_rate", "streaming_miou", "published", "on_time")} == {
        None
    }


def test_interleaved_learning_never_makes_a_frame_late_and_sync_does(kit: Kit) -> None:
    file = costs(kit, predict=40, detect=3, step=13)
    folders = {
        how: kit.run(*LEARN, method="default", out=how, fps=10, learn=how, clock=file)
        for how in ("interleaved", "sync")
    }
    calm, burst = (frames_of(folders[how], timed=True) for how in ("interleaved", "sync"))
    assert [row["frame_ms"] for row in calm] == pytest.approx([40.0] * FRAMES)
    assert max(row["frame_ms"] or 0 for row in burst) > 200
    summary = summary_of(folders["interleaved"])
    # 100 - 40 - 3 - 1 ms hold four pieces: the seventh frame's slack ends the first step.
    learned = [row["frame"] for row in calm if row["updated"]]
    assert learned == [-(-PIECES // 4) - 1, -(-2 * PIECES // 4) - 1]
    assert (summary["deadline_miss_rate"], summary["dropped"], summary["published"]) == (0.0, 0, 2)
    assert summary["staleness"] == (6 + 7) / 2  # the second step is of the frame at hand when the first one ended
    assert summary_of(folders["sync"])["dropped"] > 0


def test_async_learning_costs_frames_what_the_overlap_costs_and_no_more(kit: Kit) -> None:
    file = costs(kit, predict=40, detect=3, step=13, **{"predict.overlapped": 50})
    folder = kit.run(*LEARN, method="default", fps=10, learn="async", clock=file)
    rows, summary = frames_of(folder, timed=True), summary_of(folder)
    assert [row["frame_ms"] for row in rows] == pytest.approx([40.0, *[50.0] * (FRAMES - 1)])
    assert summary["on_time"]["overlap_slowdown"] == 1.25
    assert (summary["deadline_miss_rate"], summary["dropped"]) == (0.0, 0)
    # A step and its publication: 29 pieces of 13 ms and, every 100 ms, 3 ms of watching.
    learned = [row["frame"] for row in rows if row["updated"]]
    assert learned == [4, 8, 12]
    assert summary["published"] == len(learned)


def test_a_worker_thread_learns_beside_a_real_stream(kit: Kit) -> None:
    """How far it gets depends on the machine; that frames and updates are booked once does not."""
    folder = kit.run(*LEARN, method="default", fps=4, learn="async")
    rows, summary = frames_of(folder), summary_of(folder)
    assert (summary["frames"], summary["on_time"]["learn"]) == (FRAMES, "async")
    assert summary["dropped"] == sum(row["dropped"] for row in rows)
    assert summary["on_time"]["late"] == sum(row["late"] for row in rows)
    assert (summary["published"] > 0) == any(row["updated"] for row in rows)
    assert (folder / "costs.json").is_file()


@pytest.mark.parametrize(
    ("stages", "shortened", "skipped"),
    [
        ({"step": 14, "step.entropy.backward": 80}, True, False),
        ({"step": 70}, True, False),
        ({"step": 300, "step.absorb": 1}, False, True),
    ],
)
def test_a_step_that_does_not_fit_is_shortened_or_skipped(
    kit: Kit, stages: dict[str, float], shortened: bool, skipped: bool
) -> None:
    folder = kit.run(*LEARN, method="default", fps=10, clock=costs(kit, predict=40, detect=3, **stages))
    summary = summary_of(folder)
    assert summary["deadline_miss_rate"] == 0.0
    assert (summary["on_time"]["shortened"] > 0) is shortened
    assert (summary["on_time"]["skipped"] > 0) is skipped


def test_costs_of_a_run_are_recorded_and_any_rate_is_played_from_them_the_same_every_time(kit: Kit) -> None:
    recorded = kit.run(*LEARN, method="default", out="real", fps=2, frames=2)
    file = recorded / "costs.json"
    stages = json.loads(file.read_text())["stages_ms"]
    assert {
        "predict",
        "detect",
        "detect.rest",
        "step.absorb",
        "step.update.follow",
        "step.replay.backward.4@0.50",
    } <= stages.keys()
    folders = [
        kit.run(*LEARN, method="default", out=f"played-{n}", fps=rate, clock=file)
        for n, rate in enumerate((20, 20, 100_00))
    ]
    one, again, faster = (frames_of(folder, timed=True) for folder in folders)
    assert one == again
    assert one[3]["predict_ms"] in stages["predict"]
    assert summary_of(folders[2])["dropped"] > summary_of(folders[0])["dropped"]
    assert faster != one


@pytest.mark.parametrize("learn", ["interleaved", "async"])
def test_killed_and_resumed_on_a_simulated_clock(kit: Kit, monkeypatch: pytest.MonkeyPatch, learn: str) -> None:
    """A snapshot waits until no step is in flight; what was played after it is played again."""
    flags = {
        "fps": 10,
        "learn": learn,
        "clock": costs(kit, predict=[40.0, 45.0, 120.0, 41.0], detect=3, step=[4.0, 5.0, 6.0]),
    }
    extra = (*LEARN, "run.snapshot_every=4")
    whole = kit.run(*extra, method="default", out="whole", **flags)
    with monkeypatch.context() as patch:
        at_frame(patch, 11, kill)
        assert main([*kit.arguments("default", "parts", **flags), *extra]) == 130
    parts = kit.root / "parts"
    assert main(["--resume", str(parts)]) == 0
    assert frames_of(parts, timed=True) == frames_of(whole, timed=True)
    assert summary_of(parts) == summary_of(whole)
    assert_same(method_state(parts), method_state(whole))
    assert summary_of(whole)["published"] >= 2
    assert summary_of(whole)["deadline_miss_rate"] > 0.0


def test_a_budget_alone_is_a_rate_and_a_shorter_budget_misses(kit: Kit) -> None:
    file = costs(kit, predict=40, detect=1, step=1)
    alone = summary_of(kit.run(method="frozen", out="alone", **{"budget-ms": 50}, clock=file))
    assert (alone["on_time"]["fps"], alone["on_time"]["budget_ms"], alone["deadline_miss_rate"]) == (20.0, 50.0, 0.0)
    short = summary_of(kit.run(method="frozen", out="short", fps=20, **{"budget-ms": 30}, clock=file))
    assert (short["deadline_miss_rate"], short["dropped"]) == (1.0, 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fps", "0"], "--fps: "),
        (["--fps", "ten"], "--fps: "),
        (["--fps", "inf"], "--fps: "),
        (["--budget-ms", "-5"], "--budget-ms: "),
        (["--learn", "async"], "--learn: needs a rate of frames; add --fps F"),
        (["--clock", "x.json"], "--clock: needs a rate of frames; add --fps F"),
        (["--fps", "5", "--learn", "later"], "--learn: "),
        (["--fps", "5", "--clock", "nowhere.json"], "nowhere.json"),
    ],
)
def test_bad_values_are_one_clear_line(
    kit: Kit, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main([*kit.arguments(), *words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert said in lines[0]
    assert not (kit.root / "run").exists()


def test_a_cost_that_the_file_lacks_is_named_before_the_run(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    file = costs(kit, predict=40, detect=3)
    assert main([*kit.arguments(), "--fps", "5", "--clock", file]) == 2
    assert f"{file}: stages_ms has no cost of step (step.absorb)" in capsys.readouterr().err
    assert not (kit.root / "run" / "summary.json").exists()
