"""A file's sound in the video of the overlay: the same packets at the same times, or a line that says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from online_uda.reports.record import FrameImages, FrameRecord
from online_uda.reports.video import VideoSink
from streams.classes import CAMVID_11
from tests.run_kit import Kit, write_kit
from tests.streams.live.test_video_files import feed_stream
from tests.video_kit import write_video

UNEVEN = [0.5 + 0.1 * i + (0.03 if i % 3 else 0.0) for i in range(40)]
"""A first picture half a second in, and a rate that varies."""


def packets(path: Path, first_s: float = 0.0) -> list[tuple[float, bytes]]:
    """Time after ``first_s`` and bytes of every packet of sound."""
    with av.open(str(path)) as container:
        found = [packet for packet in container.demux(audio=0) if packet.pts is not None]
        return [(float(packet.pts * packet.time_base) - first_s, bytes(packet)) for packet in found]


def pictures_s(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.time) for frame in container.decode(video=0)]


def overlay(source: Path, out: Path, start: int = 0, resume_frame: int | None = None) -> Path:
    with feed_stream(source) as stream, VideoSink(out, CAMVID_11, resume_frame, source) as sink:
        for item in stream.iterate(start):
            assert item.frame is not None, item.fault
            ids = np.zeros(item.frame.image.shape[:2], np.uint8)
            images = FrameImages(item.frame.image, ids, ids)
            sink.write(FrameRecord(item.index, "x", 0, item.frame.timestamp_s, images=images))
        sink.finish({})
    return sink.path


def close_to(found: list[tuple[float, bytes]], wanted: list[tuple[float, bytes]]) -> None:
    assert [data for _, data in found] == [data for _, data in wanted]
    np.testing.assert_allclose([at for at, _ in found], [at for at, _ in wanted], atol=1e-3)


def test_sound_and_pictures_keep_their_times(tmp_path: Path) -> None:
    source = write_video(tmp_path / "in.mp4", 40, times=UNEVEN, sound="aac")
    out = overlay(source, tmp_path / "out.mp4")
    first_s, last_s = pictures_s(source)[0], pictures_s(source)[-1]
    np.testing.assert_allclose(pictures_s(out), np.array(pictures_s(source)) - first_s, atol=1e-4)
    heard = [packet for packet in packets(source, first_s) if 0.0 <= packet[0] < last_s - first_s - 1e-6]
    assert len(heard) > 20
    close_to(packets(out), heard)


def test_a_continued_video_has_the_rest_of_the_sound(tmp_path: Path) -> None:
    source = write_video(tmp_path / "in.mp4", 40, sound="aac")
    whole = overlay(source, tmp_path / "out.mp4")
    rest = overlay(source, tmp_path / "out.mp4", start=25, resume_frame=25)
    assert rest != whole
    close_to(packets(rest), [packet for packet in packets(whole) if packet[0] >= 2.5])


def test_what_mp4_does_not_hold_is_left_out_with_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_video(tmp_path / "in.mkv", 10, sound="pcm_u8")
    out = overlay(source, tmp_path / "out.mp4")
    assert f"the sound of {source} is not in the video: MP4 does not hold pcm_u8" in capsys.readouterr().err
    with av.open(str(out)) as container:
        assert not container.streams.audio
        assert len(list(container.decode(video=0))) == 10


def test_a_silent_file_and_a_sound_that_ends_early(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with av.open(str(overlay(write_video(tmp_path / "in.mp4", 10), tmp_path / "out.mp4"))) as container:
        assert not container.streams.audio
    source = write_video(tmp_path / "short.mkv", 40, sound="aac", sound_s=1.0)
    out = overlay(source, tmp_path / "short.mp4")
    assert len(pictures_s(out)) == 40
    assert packets(out)[-1][0] < 1.2
    assert capsys.readouterr().err == ""


def test_a_run_of_a_file_keeps_its_sound(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    kit: Kit = write_kit(tmp_path, make_folder)
    source, out = write_video(tmp_path / "in.mp4", 12, sound="aac"), tmp_path / "out.mp4"
    words = ["--stream", str(source), "--classes", "camvid11", "--save-video", str(out)]
    at = kit.arguments("frozen").index("--schedule")
    rest = kit.arguments("frozen")
    del rest[at : at + 2]
    from online_uda.cli import main

    assert main([*words, *rest]) == 0
    assert packets(out)
