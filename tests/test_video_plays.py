"""What ``--save-video`` writes: it plays in a browser, and of ten minutes of camera no frame is lost or moved."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from online_uda.reports.record import FrameImages, FrameRecord
from online_uda.reports.video import VideoSink
from streams.classes import CAMVID_11
from tests.browser import chromium, opened, until
from tests.streams.live.test_video_files import feed_stream
from tests.video_kit import number_of, write_video


def overlay_of(source: Path, out: Path) -> list[int]:
    """Plays a video through a stream into an overlay video; the numbers that its pictures showed."""
    numbers = []
    with feed_stream(source) as stream, VideoSink(out, CAMVID_11) as sink:
        for item in stream:
            assert item.frame is not None, item.fault
            numbers.append(number_of(item.frame.image))
            ids = np.zeros(item.frame.image.shape[:2], np.uint8)
            images = FrameImages(item.frame.image, ids, ids)
            sink.write(FrameRecord(item.index, "x", 0, item.frame.timestamp_s, images=images))
        sink.finish({})
    return numbers


def times_of(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(packet.pts * packet.time_base) for packet in container.demux(video=0) if packet.pts is not None]


def test_in_a_browser(tmp_path: Path) -> None:
    overlay_of(write_video(tmp_path / "in.mp4", 40), tmp_path / "out.mp4")
    (tmp_path / "page.html").write_text(
        '<link rel="icon" href="data:,"><video src="out.mp4" muted preload="auto"></video>'
    )
    with chromium() as browser:
        page, faults = opened(browser, f"file://{tmp_path}/page.html", 800)
        until(page, "document.querySelector('video').readyState >= 2 || document.querySelector('video').error !== null")
        assert page.evaluate("document.querySelector('video').error") is None
        size = page.evaluate("(v => [v.videoWidth, v.videoHeight])(document.querySelector('video'))")
        assert size == [128, 92]
        page.evaluate("document.querySelector('video').play()")
        until(page, "document.querySelector('video').currentTime > 0.3")
        assert faults == []


@pytest.mark.slow
def test_ten_minutes_at_thirty_frames_a_second(tmp_path: Path) -> None:
    frames = 600 * 30
    jitter = np.random.default_rng(0).uniform(-0.01, 0.01, frames)
    times = (np.arange(frames) / 30 + jitter - jitter[0]).clip(0)
    source = write_video(tmp_path / "in.mp4", frames, size=(32, 48), fps=30.0, times=list(times))
    numbers = overlay_of(source, tmp_path / "out.mp4")
    assert numbers == [index % 4096 for index in range(frames)]
    written = times_of(tmp_path / "out.mp4")
    assert len(written) == frames
    np.testing.assert_allclose(written, times_of(source), atol=float(Fraction(2, 90_000)))
