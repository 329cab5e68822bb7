"""Overlay video, masks and window: what they show, that they stay whole, and what they refuse."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from online_uda.cli import main
from online_uda.reports.masks import MaskSink
from online_uda.reports.overlay import BAR_PX, Overlay
from online_uda.reports.record import FrameImages, FrameRecord
from online_uda.reports.video import VideoSink
from streams.classes import CITYSCAPES_19
from tests.run_kit import Kit, write_kit

SIZE = (64, 96)


def record_of(frame: int, at_s: float, **changes: object) -> FrameRecord:
    image = np.full((*SIZE, 3), 100, np.uint8)
    frozen, adapted = np.zeros(SIZE, np.uint8), np.full(SIZE, 13, np.uint8)
    values = {"images": FrameImages(image, adapted, frozen), "timestamp_s": at_s, "signal": 0.1 * frame, **changes}
    return FrameRecord(frame, "rain", 0, **values)  # type: ignore[arg-type]


def test_overlay_shows_both_networks_over_the_picture() -> None:
    overlay = Overlay(CITYSCAPES_19.palette, opacity=0.5)
    record = record_of(0, 0.0)
    overlay.note(record)
    picture = overlay.draw(record)
    assert picture.shape == (BAR_PX + SIZE[0], 2 * SIZE[1], 3)
    for column, class_id in ((SIZE[1] // 2, 0), (SIZE[1] + SIZE[1] // 2, 13)):
        expected = 0.5 * np.array(CITYSCAPES_19.palette[class_id]) + 50
        np.testing.assert_allclose(picture[BAR_PX + 20, column], expected, atol=1)


def test_overlay_draws_signal_and_detection() -> None:
    def bar(detected: bool) -> np.ndarray:
        overlay = Overlay(CITYSCAPES_19.palette)
        records = [
            FrameRecord(i, "rain", 0, signal=float(i), detected=detected and i == 2,
                        images=FrameImages(np.zeros((32, 400, 3), np.uint8), np.zeros((32, 400), np.uint8)))
            for i in range(4)
        ]  # fmt: skip
        for record in records:
            overlay.note(record)
        return overlay.draw(records[-1])[:BAR_PX]

    assert (bar(True) != bar(False)).any()


def test_video_keeps_times_and_is_whole_while_it_is_written(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.45, 0.5] + [0.6 + 0.1 * i for i in range(66)]
    with VideoSink(tmp_path / "out.mp4", CITYSCAPES_19) as sink:
        for frame, at_s in enumerate(times):
            sink.write(record_of(frame, at_s))
        sink.write(FrameRecord(70, "rain", 0, fault="lost"))
        sink._queue.put(None)  # as a kill would leave it: the frames so far, and no end
        assert sink._thread is not None
        sink._thread.join()
        shutil.copy(tmp_path / "out.mp4", tmp_path / "killed.mp4")
    with av.open(str(tmp_path / "killed.mp4")) as video:
        assert 30 <= sum(1 for _ in video.decode(video=0)) <= 70
    with av.open(str(tmp_path / "out.mp4")) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        frames = list(video.decode(stream))
    np.testing.assert_allclose([float(frame.pts * frame.time_base) for frame in frames], times, atol=1e-4)
    assert frames[0].to_ndarray(format="rgb24").shape == (BAR_PX + SIZE[0], 2 * SIZE[1], 3)


def test_video_that_cannot_be_encoded_says_so(tmp_path: Path) -> None:
    broken = record_of(0, 0.0)
    object.__setattr__(broken.images, "frozen", np.zeros((2, 2, 2), np.uint8))
    with VideoSink(tmp_path / "out.mp4", CITYSCAPES_19) as sink:
        sink.write(broken)
        with pytest.raises(Exception, match=r"."):
            sink.finish({})


@pytest.mark.parametrize(("ids", "expected"), [("train", 13), ("label", 26), ("colour", 13)])
def test_masks(tmp_path: Path, ids: str, expected: int) -> None:
    with MaskSink(tmp_path / "masks", CITYSCAPES_19, ids) as sink:  # type: ignore[arg-type]
        sink.write(record_of(7, 0.0))
        sink.write(FrameRecord(8, "rain", 0, fault="lost"))
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["00000007.png"]
    with Image.open(tmp_path / "masks" / "00000007.png") as image:
        assert np.unique(np.asarray(image)).tolist() == [expected]
        if ids == "colour":
            assert image.convert("RGB").getpixel((0, 0)) == CITYSCAPES_19.palette[13]


@pytest.fixture
def kit(tmp_path: Path, make_folder: Callable[..., Path]) -> Kit:
    return write_kit(tmp_path, make_folder)


def test_a_run_and_its_continuation_write_both(kit: Kit) -> None:
    video, masks = kit.root / "out.mp4", kit.root / "masks"
    flags = ["--save-video", str(video), "--save-masks", str(masks)]
    run = kit.run(*flags, "run.snapshot_every=5", "--frames=3", method="frozen")
    assert len(list(masks.iterdir())) == 9
    for snapshot in sorted((run / "snapshots").iterdir())[1:]:
        snapshot.unlink()
    (masks / "00000008.png").unlink()
    assert main(["--resume", str(run)]) == 0
    assert len(list(masks.iterdir())) == 9
    counts = []
    for path in (video, kit.root / "out.00000005.mp4"):
        with av.open(str(path)) as container:
            counts.append(sum(1 for _ in container.decode(video=0)))
    assert counts == [9, 4]


def test_refused_in_one_line(kit: Kit, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    (kit.root / "there.mp4").write_bytes(b"")
    for words, says in (
        (["--save-video", str(kit.root / "out.avi")], "videos are written as .mp4"),
        (["--save-video", str(kit.root / "no" / "out.mp4")], "no such folder; make it first"),
        (["--save-video", str(kit.root / "there.mp4")], "exists; remove it"),
        (["--save-masks", str(kit.root / "day")], "is not empty"),
        (["--save-masks", str(kit.root / "there.mp4")], "is a file"),
        (["run.mask_ids=label"], "label files of camvid11 hold train ids"),
        (["run.mask_ids=rgb"], "unknown value 'rgb'"),
        (["--show"], "no display here"),
    ):
        assert main([*kit.arguments(), *words]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        assert says in lines[0]
        assert not (kit.root / "run").exists()
