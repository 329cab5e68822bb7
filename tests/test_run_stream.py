"""Runs of streams by the command line: without labels, with real timestamps, resumed, refused in one line."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from online_uda.cli import main
from online_uda.runtime.snapshot import snapshots
from tests.run_kit import Kit, assert_same, frames_of, method_state, summary_of, write_kit
from tests.video_kit import TsCamera, write_video

METHOD = "tent"


@pytest.fixture
def kit(tmp_path: Path, make_folder: Callable[..., Path]) -> Kit:
    return write_kit(tmp_path, make_folder)


def words(kit: Kit, stream: object, out: str = "run", *extra: str) -> list[str]:
    return [
        "--stream", str(stream), "--network", str(kit.network), "--classes", "camvid11", "--method", METHOD,
        "--out", str(kit.root / out), "--device", "cpu", "--threads", "1", "run.tensorboard=false", "run.report=false",
        "run.precision=fp32", *extra,
    ]  # fmt: skip


def test_a_video_is_learned_from_without_scores(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    times = [0.0, 0.1, 0.35, 0.4, 0.9]
    video = write_video(kit.root / "drive.mp4", 5, times=times)
    assert main(words(kit, video)) == 0
    rows, summary = frames_of(kit.root / "run"), summary_of(kit.root / "run")
    np.testing.assert_allclose([row["timestamp_s"] for row in rows], times, atol=1e-3)
    assert {row["domain"] for row in rows} == {"drive"}
    assert all(row["updated"] and row["miou"] is None and row["agreement"] is not None for row in rows)
    assert (summary["frames"], summary["updates"], summary["hmean"], summary["interrupted"]) == (5, 5, None, False)
    assert summary["stream"] == {"where": str(video), "kind": "file", "live": False}
    out = capsys.readouterr().out
    assert "Without labels there is no score; 5 updates on 5 frames" in out
    assert "false alarms" not in out, "what has changed in truth is not known"


def test_resumed_as_if_never_stopped(kit: Kit) -> None:
    video = write_video(kit.root / "drive.mp4", 8)
    assert main(words(kit, video, "whole")) == 0
    assert main(words(kit, video, "parts", "run.snapshot_every=3")) == 0
    for snapshot in snapshots(kit.root / "parts" / "snapshots")[1:]:
        snapshot.unlink()
    assert main(["--resume", str(kit.root / "parts")]) == 0
    assert frames_of(kit.root / "parts") == frames_of(kit.root / "whole")
    assert_same(method_state(kit.root / "parts"), method_state(kit.root / "whole"))


def test_a_folder_keeps_its_labels(kit: Kit) -> None:
    assert main(words(kit, kit.root / "day")) == 0
    assert summary_of(kit.root / "run")["hmean"] is not None
    assert main(words(kit, kit.root / "day" / "images" / "frame_*.png", "images", "--frames", "3")) == 0
    assert (summary_of(kit.root / "images")["hmean"], summary_of(kit.root / "images")["frames"]) == (None, 3)


def cut_when_under_way(camera: TsCamera, frames: Path) -> None:
    while not frames.exists() or frames.read_text().count("\n") < 5:
        time.sleep(0.02)
    camera.cut()


def test_a_cut_camera_is_waited_for(kit: Kit) -> None:
    camera = TsCamera(fps=20)
    try:
        cut = threading.Thread(target=cut_when_under_way, args=(camera, kit.root / "run" / "frames.jsonl"))
        cut.start()
        assert main(words(kit, camera.url, "run", "--frames", "40", "run.stream_timeout=2")) == 0
        cut.join()
    finally:
        camera.stop()
    rows, summary = frames_of(kit.root / "run"), summary_of(kit.root / "run")
    assert summary["stream"]["live"] is True
    assert summary["stream"]["outages"] == summary["stream"]["reconnects"] == 1
    lost = [row for row in rows if row["fault"]]
    assert [("stream was lost" in row["fault"], row["updated"]) for row in lost] == [(True, False)]
    assert summary["updates"] == len(rows) - len(lost), "every picture is learned from, a loss never"
    assert np.diff([row["timestamp_s"] for row in rows if not row["fault"]]).min() > 0


@pytest.mark.parametrize(
    ("stream", "says"),
    [
        ("none.mp4", "none.mp4: no such file or folder"),
        ("98", "no such device: /dev/video98"),
        ("tcp://127.0.0.1:9", "tcp://127.0.0.1:9: cannot be reached"),
        ("text.mp4", "cannot be read as a video"),
        ("ftp://host/x", "cannot read ftp://"),
    ],
)
def test_refused_in_one_line(
    kit: Kit, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stream: str, says: str
) -> None:
    monkeypatch.chdir(kit.root)
    Path("text.mp4").write_text("no video")
    assert main(words(kit, stream)) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.startswith("network: ")]
    assert (len(lines), captured.out, (kit.root / "run").exists()) == (1, "", False), captured.err
    assert says in lines[0]


def test_stream_or_schedule(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    for schedule in ("cs2rain", "quick"):
        assert main([*words(kit, kit.root / "day"), "--schedule", schedule]) == 2
        assert "--stream and --schedule exclude each other" in capsys.readouterr().err
    (kit.root / "two.yaml").write_text("visits:\n  - {domain: a, stream: '0'}\n  - {domain: b, folder: day}\n")
    assert main(["--schedule", str(kit.root / "two.yaml")]) == 2
    assert "a stream stands alone" in capsys.readouterr().err


@pytest.mark.parametrize(("learn", "budget_ms", "late"), [("interleaved", "0.1", True), ("async", "99999", False)])
def test_a_camera_at_a_rate_is_learned_from_in_the_slack(kit: Kit, learn: str, budget_ms: str, late: bool) -> None:
    camera = TsCamera(fps=50)
    try:
        flags = ["--fps", "8", "--budget-ms", budget_ms, "--learn", learn, "--frames", "12"]
        assert main(words(kit, camera.url, "run", *flags)) == 0
    finally:
        camera.stop()
    rows, summary = frames_of(kit.root / "run"), summary_of(kit.root / "run")
    assert len(rows) == 12
    assert {row["late"] for row in rows} == {late}
    assert summary["updates"] > 0
    assert all(row["agreement"] is not None and row["confidence"] is not None for row in rows)
    on_time = summary["on_time"]
    assert (on_time["fps"], on_time["learn"], on_time["late"]) == (8.0, learn, 12 if late else 0)
    assert summary["stream"]["received"] > 12, "pictures between two ticks are left alone"
    assert summary["streaming_miou"] is None


def test_a_file_at_a_rate_has_deadlines_on_any_clock(kit: Kit) -> None:
    video = write_video(kit.root / "drive.mp4", 6)
    costs = kit.root / "costs.json"
    costs.write_text('{"stages_ms": {"predict": 400, "detect": 1, "step": 50}}')
    assert main(words(kit, video, "run", "--fps", "5", "--clock", str(costs))) == 0
    summary = summary_of(kit.root / "run")
    assert summary["frames"] == 6
    assert summary["dropped"] > 0


def test_a_camera_has_the_time_of_the_wall(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    costs = kit.root / "costs.json"
    costs.write_text('{"stages_ms": {"predict": 40, "detect": 1, "step": 50}}')
    camera = TsCamera()
    try:
        assert main(words(kit, camera.url, "run", "--fps", "5", "--clock", str(costs))) == 2
    finally:
        camera.stop()
    assert "--clock makes up the time of recorded frames; a live stream has the wall's" in capsys.readouterr().err
    assert not (kit.root / "run").exists()
