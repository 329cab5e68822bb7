"""A run stopped anywhere and continued gives the numbers of an uninterrupted one, bit for bit on the CPU."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from online_uda.cli import main
from online_uda.runtime.runner import Runner
from online_uda.runtime.snapshot import snapshots
from streams.frame import StreamItem
from tests.run_kit import FRAMES, Kit, assert_same, frames_of, method_state, summary_of, write_kit

HAMLET = (
    "trigger.window=2", "trigger.base_frames=4", "trigger.max_frames=8", "trigger.up=0.001", "trigger.down=-0.001",
    "replay.frames=4",
)  # fmt: skip
IN_THE_RAIN = 7


@pytest.fixture
def kit(tmp_path: Path, make_folder: Callable[..., Path]) -> Kit:
    return write_kit(tmp_path, make_folder)


def at_frame(monkeypatch: pytest.MonkeyPatch, index: int, act: Callable[[], None]) -> None:
    """Calls `act` while frame `index` is being worked on, once."""
    take = Runner._take
    done: list[int] = []

    def wrapped(self: Runner, item: StreamItem) -> object:
        if item.index == index and not done:
            done.append(index)
            act()
        return take(self, item)

    monkeypatch.setattr(Runner, "_take", wrapped)


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def kill() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("method", "overrides"),
    [("frozen", ()), ("tent", ()), ("hamlet", HAMLET), ("default", ("replay.frames=6",))],
)
def test_interrupted_in_the_rain_and_resumed(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, method: str, overrides: tuple[str, ...]
) -> None:
    for path in (kit.source / "images").iterdir():
        # A stream far from its source: the detector of `default` lets it learn, before the stop and after it.
        with Image.open(path) as image:
            dark = image.point(lambda value: value // 4)
        dark.save(path)
    whole = kit.run(*overrides, method=method, out="whole")
    with monkeypatch.context() as patch:
        at_frame(patch, IN_THE_RAIN, interrupt)
        assert main([*kit.arguments(method, "parts"), *overrides]) == 130
    parts = kit.root / "parts"
    assert len(frames_of(parts)) == IN_THE_RAIN + 1  # the frame in hand was finished
    stopped = summary_of(parts)
    assert (stopped["interrupted"], stopped["frames"], stopped["frames_planned"]) == (True, IN_THE_RAIN + 1, FRAMES)
    assert main(["--resume", str(parts)]) == 0
    assert frames_of(parts) == frames_of(whole)
    assert summary_of(parts) == summary_of(whole)
    assert_same(method_state(parts), method_state(whole))
    if method != "frozen":
        learned = [row["frame"] for row in frames_of(whole) if row["updated"]]
        assert learned[0] < IN_THE_RAIN < learned[-1]
        assert summary_of(whole)["harm"] is not None


def test_killed_between_snapshots_and_resumed(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = kit.run(out="whole")
    with monkeypatch.context() as patch:
        at_frame(patch, IN_THE_RAIN + 1, kill)
        assert main([*kit.arguments(out="parts"), "run.snapshot_every=3"]) == 130
    parts = kit.root / "parts"
    assert [path.name.split(".")[0] for path in snapshots(parts / "snapshots")] == ["frame-00000003", "frame-00000006"]
    assert len(frames_of(parts)) == IN_THE_RAIN + 1
    assert not (parts / "summary.json").exists()
    assert main(["--resume", str(parts)]) == 0
    assert frames_of(parts) == frames_of(whole)
    assert summary_of(parts) == summary_of(whole)
    assert_same(method_state(parts), method_state(whole))


def test_killed_before_the_first_snapshot_starts_again(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = kit.run(out="whole", frames=2)
    with monkeypatch.context() as patch:
        at_frame(patch, 1, kill)
        assert main(kit.arguments(out="parts", frames=2)) == 130
    assert main(["--resume", str(kit.root / "parts")]) == 0
    assert frames_of(kit.root / "parts") == frames_of(whole)


def test_a_damaged_snapshot_is_named_and_the_one_before_taken(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = kit.run(out="whole")
    with monkeypatch.context() as patch:
        at_frame(patch, IN_THE_RAIN, kill)
        assert main([*kit.arguments(out="parts"), "run.snapshot_every=3"]) == 130
    newest = snapshots(kit.root / "parts" / "snapshots")[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    assert main(["--resume", str(kit.root / "parts")]) == 0
    assert f"{newest}: damaged" in capsys.readouterr().err
    assert frames_of(kit.root / "parts") == frames_of(whole)


def test_a_finished_run_resumes_to_its_table(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    folder = kit.run(frames=2)
    before, table = summary_of(folder), capsys.readouterr().out
    assert main(["--resume", str(folder)]) == 0
    assert summary_of(folder) == before
    assert "harmonic mean" in table
    assert "harmonic mean" in capsys.readouterr().out
    assert (folder / "environment-2.json").is_file()


def test_the_same_command_line_again_resumes(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        at_frame(patch, 2, interrupt)
        assert main([*kit.arguments(seed=3), "anchor.pull=0.1"]) == 130
    again = kit.arguments(seed=3)
    del again[again.index("--out") : again.index("--out") + 2]
    assert main([*again, "anchor.pull=0.1", "--resume", str(kit.root / "run")]) == 0
    assert summary_of(kit.root / "run")["interrupted"] is False


def test_a_second_interrupt_stops_at_once(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def twice() -> None:
        interrupt()
        interrupt()

    at_frame(monkeypatch, 3, twice)
    assert main(kit.arguments()) == 130
    assert len(frames_of(kit.root / "run")) == 3  # the frame in hand was not
    assert "stopped at once" in capsys.readouterr().err
    assert not (kit.root / "run" / "summary.json").exists()
