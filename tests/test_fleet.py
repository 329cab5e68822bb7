"""A list of streams: a run each, at the same time, with files of their own; one that fails leaves the rest alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from online_uda.cli import main
from online_uda.fleet import _own, _words, unique
from tests.run_kit import Kit, summary_of, write_kit
from tests.video_kit import write_video


@pytest.fixture
def kit(tmp_path: Path, make_folder: Callable[..., Path]) -> Kit:
    return write_kit(tmp_path, make_folder)


@pytest.mark.slow
def test_every_line_is_a_run(kit: Kit, capfd: pytest.CaptureFixture[str]) -> None:
    write_video(kit.root / "front.mp4", 4)
    write_video(kit.root / "rear.mp4", 3)
    (kit.root / "broken.mp4").write_text("no video")
    (kit.root / "cameras.txt").write_text("# two that work, one that does not\nfront.mp4\nbroken.mp4\nrear.mp4\n")
    words = [
        "--stream", str(kit.root / "cameras.txt"), "--network", str(kit.network), "--classes", "camvid11",
        "--method", "tent", "--out", str(kit.root / "runs"), "--save-masks", str(kit.root / "masks"), "--device", "cpu",
        "run.tensorboard=false", "run.precision=fp32", "run.report=false",
    ]  # fmt: skip
    assert main(words) == 2
    assert [summary_of(kit.root / "runs" / name)["frames"] for name in ("front", "rear")] == [4, 3]
    assert not (kit.root / "runs" / "broken").exists()
    assert (kit.root / "runs" / "compare.html").is_file()
    assert sorted(path.name for path in (kit.root / "masks").iterdir()) == ["front", "rear"]
    error = capfd.readouterr().err
    assert "[broken] error: " in error
    assert "broken: ended with exit status 2" in error


def test_faulty_lists_are_one_line(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    listed = kit.root / "cameras.txt"
    for content, says in (
        ("", "lists no stream"),
        ("none.mp4\n", "cameras.txt:1: "),
        ("cameras.txt\n", "a list in a list"),
    ):
        listed.write_text(content)
        assert main(["--stream", str(listed), "--out", str(kit.root / "runs")]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert says in lines[0]
        assert not (kit.root / "runs").exists()


def test_what_streams_must_not_share() -> None:
    options = {"save_video": "out/drive.mp4", "save_masks": "masks", "serve": "0.0.0.0:8080", "show": True}
    own = _own(options, "rear", 2)
    assert own == {
        "save_video": Path("out/drive-rear.mp4"), "save_masks": Path("masks/rear"), "serve": "0.0.0.0:8082",
    }  # fmt: skip
    assert _words({**options, **own, "budget_ms": "5"}, ["a=1"]) == [
        "--save-video=out/drive-rear.mp4", "--save-masks=masks/rear", "--serve=0.0.0.0:8082", "--show",
        "--budget-ms=5", "a=1",
    ]  # fmt: skip
    assert unique(["a", "a", "a-2", "a"]) == ["a", "a-2", "a-2-2", "a-3"]
