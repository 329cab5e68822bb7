"""Video files: every picture, at its own time, upright; damaged ones end in words, not in made-up pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from streams.errors import StreamError
from streams.live.container import Container
from streams.live.feed import parse_feed
from streams.live.picture import Broken, Picture
from streams.live.stream import FeedStream
from streams.schedule import Schedule
from tests.video_kit import number_of, write_video


def feed_stream(where: object, **options: object) -> FeedStream:
    schedule = Schedule.model_validate({"name": "x", "visits": ({"domain": "x", "stream": str(where)},)})
    return FeedStream(schedule, **options)  # type: ignore[arg-type]


def test_every_picture_in_order_at_its_time(tmp_path: Path) -> None:
    steps = np.random.default_rng(0).uniform(0.01, 0.3, 30)
    times = np.cumsum(steps) - steps[0]
    path = write_video(tmp_path / "vfr.mp4", 30, times=list(times))
    with feed_stream(path) as stream:
        items = list(stream)
    assert [number_of(item.frame.image) for item in items if item.frame] == list(range(30))
    np.testing.assert_allclose([item.frame.timestamp_s for item in items if item.frame], times, atol=1e-3)
    assert [item.index for item in items] == list(range(30))
    assert {item.truth.label is None for item in items} == {True}


def test_from_the_middle_and_up_to_a_cap(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 12)
    with feed_stream(path, frames=9) as stream:
        assert [number_of(item.frame.image) for item in stream.iterate(5) if item.frame] == [5, 6, 7, 8]
        assert stream.length is None


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_upright_as_opencv_says(tmp_path: Path, rotation: int) -> None:
    path = write_video(tmp_path / "turned.mp4", 3, rotation=rotation)
    reference = cv2.VideoCapture(str(path))
    there, image = reference.read()
    reference.release()
    assert there
    with feed_stream(path) as stream:
        frame = next(iter(stream)).frame
    assert frame is not None
    assert frame.image.shape == image.shape == ((64, 48, 3) if rotation % 180 else (48, 64, 3))
    assert np.abs(frame.image.astype(int) - image[..., ::-1]).mean() < 3


def test_brought_to_a_size(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 2, size=(96, 128))
    with feed_stream(path, size=(48, 64)) as stream:
        assert [item.frame.image.shape for item in stream if item.frame] == [(48, 64, 3)] * 2


def test_truncated_in_the_middle(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", 40, options={"movflags": "faststart"})
    content = whole.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(content[: int(len(content) * 0.6)])
    with feed_stream(cut) as stream:
        items = list(stream)
    good = [number_of(item.frame.image) for item in items if item.frame]
    assert good == list(range(len(good)))
    assert 15 < len(good) < 30
    assert items[-1].fault is not None
    assert "cut off" in items[-1].fault
    assert "of 40 pictures" in items[-1].fault


def test_damaged_pictures_are_faults(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.ts", 40)
    content = bytearray(whole.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(3000)
    whole.write_bytes(content)
    entries = list(Container(parse_feed(str(whole)), 1.0).entries())
    good = [entry for entry in entries if isinstance(entry, Picture)]
    assert 20 < len(good) < 40
    assert any(isinstance(entry, Broken) for entry in entries)
    whole_ones = [number_of(entry.image) for entry in good]
    assert whole_ones == sorted(whole_ones)


def test_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    import wave

    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(1600))
    moov_last = write_video(tmp_path / "whole.mp4", 20).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(moov_last[: len(moov_last) // 2])
    for name, says in (
        ("text.mp4", "cannot be read as a video"),
        ("sound.wav", "has no video track (audio in it)"),
        ("cut.mp4", "cut off"),
    ):
        with pytest.raises(StreamError) as error:
            feed_stream(tmp_path / name)
        assert says in str(error.value)
        assert "\n" not in str(error.value)
    for address in ("tcp://127.0.0.1:9", "http://127.0.0.1:9/x.mp4", "rtsp://me:secret@127.0.0.1:9/x"):
        with pytest.raises(StreamError, match="cannot be reached") as error:
            feed_stream(address)
        assert "secret" not in str(error.value)


def test_no_such_device() -> None:
    with pytest.raises(StreamError, match="no such device: /dev/video99"):
        feed_stream("99")


def test_images_of_a_pattern(tmp_path: Path, labelled_folder: Path) -> None:
    (labelled_folder / "images" / "frame_3.png").write_bytes(b"broken")
    with feed_stream(labelled_folder / "images" / "*.png") as stream:
        items = list(stream)
        assert stream.length == 6
    assert [item.index for item in items if item.fault] == [2]
    assert [item.frame.timestamp_s for item in items if item.frame] == [0.0, 0.1, 0.3, 0.4, 0.5]
