"""The stream: order, truth apart from frames, faults counted, the same bytes from any start, threads that end."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from streams._prefetch import Prefetcher
from streams.errors import StreamError
from streams.frame import StreamItem
from streams.schedule import load_schedule
from streams.stream import Stream, VisitPlan

TEXT = """classes: camvid11
fps: 4
visits:
  - {domain: day, folder: day}
  - {domain: day, folder: dusk, frames: 3}
  - {domain: rain100, folder: day, weather: {rain: 100}}
  - {domain: day, folder: dusk}
"""


@pytest.fixture
def path(tmp_path: Path, make_folder: Callable[..., Path]) -> Path:
    make_folder("day", count=5, size=(48, 64))
    make_folder("dusk", count=4, size=(48, 64), seed=1)
    (tmp_path / "s.yaml").write_text(TEXT)
    return tmp_path / "s.yaml"


def same(first: StreamItem, second: StreamItem) -> bool:
    if (first.index, first.fault, first.truth.domain, first.truth.visit) != (
        second.index, second.fault, second.truth.domain, second.truth.visit,
    ):  # fmt: skip
        return False
    if first.frame is None or second.frame is None:
        return first.frame is second.frame
    assert first.truth.label is not None
    assert second.truth.label is not None
    return (
        first.frame.timestamp_s == second.frame.timestamp_s
        and np.array_equal(first.frame.image, second.frame.image)
        and np.array_equal(first.truth.label, second.truth.label)
    )


def images(items: Iterator[StreamItem] | Stream) -> list[np.ndarray]:
    return [item.frame.image for item in items if item.frame is not None]


def test_visits_boundaries_and_clock(path: Path) -> None:
    stream = Stream(load_schedule(path))
    assert stream.visits == (
        VisitPlan("day", 0, 0, 5), VisitPlan("day", 1, 5, 3), VisitPlan("rain100", 2, 8, 5), VisitPlan("day", 3, 13, 4),
    )  # fmt: skip
    assert stream.boundaries == (8, 13)  # frame 5 starts a visit in the domain of the one before
    assert len(stream) == 17
    items = list(stream)
    assert [item.index for item in items] == list(range(17))
    assert [item.truth.visit for item in items] == [0] * 5 + [1] * 3 + [2] * 5 + [3] * 4
    assert [item.frame.timestamp_s for item in items if item.frame] == [index / 4 for index in range(17)]
    assert stream.classes.name == "camvid11"


def test_frames_and_labels_are_those_of_the_files(path: Path) -> None:
    items = list(Stream(load_schedule(path)))
    for index, name in ((0, "day/images/frame_1.png"), (7, "dusk/images/frame_3.png"), (16, "dusk/images/frame_4.png")):
        frame = items[index].frame
        assert frame is not None
        assert np.array_equal(frame.image, np.asarray(Image.open(path.parent / name)))
        label = np.asarray(Image.open(path.parent / name.replace("images", "labels")))
        assert np.array_equal(items[index].truth.label, label)


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_any_start_gives_the_same_bytes(path: Path, prefetch: int) -> None:
    whole = list(Stream(load_schedule(path), seed=5))
    with Stream(load_schedule(path), seed=5, prefetch=prefetch) as stream:
        for start in (0, 4, 5, 10, 16, 17):
            rest = list(stream.iterate(start))
            assert len(rest) == 17 - start
            assert all(same(a, b) for a, b in zip(whole[start:], rest, strict=True))
        assert same(stream[10], whole[10])
        with pytest.raises(StreamError, match="cannot start at frame 18"):
            stream.iterate(18)
        with pytest.raises(IndexError):
            stream[17]


def test_rain_is_drawn_where_the_schedule_says_and_by_the_seed(path: Path) -> None:
    large = ["size=[160, 320]", "visits.2.weather.rain=200"]  # drops are thinner than the pixels of a small frame
    clear = images(Stream(load_schedule(path, [*large, "visits.2.weather={}"])))
    first, again, other = (images(Stream(load_schedule(path, large), seed=seed)) for seed in (0, 0, 1))
    for index in range(17):
        raining = 8 <= index < 13
        assert np.array_equal(clear[index], first[index]) != raining
        assert np.array_equal(first[index], again[index])
        assert np.array_equal(first[index], other[index]) != raining


def test_a_second_visit_meets_other_drops(path: Path) -> None:
    rain = "{domain: rain, folder: day, weather: {rain: 200}}"
    got = images(Stream(load_schedule(path, ["size=[160, 320]", f"visits.0={rain}", f"visits.2={rain}"])))
    assert not np.array_equal(got[0], got[8])


def test_labels_change_no_frame(path: Path) -> None:
    """Truth never reaches what the runtime sees: without label files the frames are the same."""
    labelled = images(Stream(load_schedule(path), seed=3))
    for name in ("day", "dusk"):
        shutil.rmtree(path.parent / name / "labels")
    items = list(Stream(load_schedule(path), seed=3))
    assert all(item.truth.label is None for item in items)
    assert all(np.array_equal(a, b) for a, b in zip(labelled, images(iter(items)), strict=True))


def test_size_resizes_frames_and_keeps_labels(path: Path) -> None:
    for stream in (Stream(load_schedule(path), size=(32, 80)), Stream(load_schedule(path, ["size=[32, 80]"]))):
        item = stream[9]
        assert item.frame is not None
        assert item.frame.image.shape == (32, 80, 3)
        assert item.truth.label is not None
        assert item.truth.label.shape == (48, 64)


def test_frames_caps_each_visit(path: Path) -> None:
    assert [plan.frames for plan in Stream(load_schedule(path), frames=4).visits] == [4, 3, 4, 4]
    assert [plan.frames for plan in Stream(load_schedule(path, ["frames=4"])).visits] == [4, 3, 4, 4]
    assert [plan.frames for plan in Stream(load_schedule(path, ["frames=100"])).visits] == [5, 3, 5, 4]


@pytest.mark.parametrize(
    "options", [{"frames": 0}, {"size": (8, 64)}, {"size": (64, 5000)}, {"seed": -1}, {"prefetch": -2}]
)
def test_arguments_out_of_range(path: Path, options: dict[str, int]) -> None:
    with pytest.raises(StreamError, match=next(iter(options))):
        Stream(load_schedule(path), **options)  # type: ignore[arg-type]


def test_a_damaged_frame_is_a_fault_and_the_rest_goes_on(path: Path) -> None:
    whole = list(Stream(load_schedule(path)))
    day = path.parent / "day" / "images"
    (day / "frame_3.png").write_bytes((day / "frame_3.png").read_bytes()[:-40])
    (day / "frame_4.png").write_text("not an image")
    items = list(Stream(load_schedule(path)))
    assert [item.index for item in items if item.fault] == [2, 3, 10, 11]
    for item in items:
        assert (item.frame is None) == (item.fault is not None)
        assert item.frame is None or item.frame.index == item.index
    assert items[2].truth.label is None
    assert items[2].fault is not None
    assert items[2].fault.startswith("frame_3.png: ")
    assert same(items[1], whole[1])


def test_rain_starts_from_the_first_readable_frame(path: Path) -> None:
    """The weather's statistics come from a readable frame, also when the first of the visit is damaged."""
    (path.parent / "day" / "images" / "frame_1.png").write_bytes(b"")
    whole = list(Stream(load_schedule(path)))
    assert whole[8].fault is not None
    assert all(same(a, b) for a, b in zip(whole[11:], Stream(load_schedule(path)).iterate(11), strict=True))


def test_a_frame_that_changes_size_under_way_is_a_fault(path: Path) -> None:
    stream = Stream(load_schedule(path))
    Image.new("RGB", (20, 20)).save(path.parent / "day" / "images" / "frame_2.png")
    assert [item.index for item in stream if item.fault] == [1, 9]


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_foreign_label_under_way_stops_with_its_name(path: Path, prefetch: int) -> None:
    stream = Stream(load_schedule(path), prefetch=prefetch)
    Image.fromarray(np.full((48, 64), 77, np.uint8)).save(path.parent / "dusk" / "labels" / "frame_2.png")
    items = stream.iterate()
    assert [next(items).index for _ in range(6)] == list(range(6))
    with pytest.raises(StreamError, match=r"dusk/labels/frame_2\.png: label id 77"):
        next(items)
    assert not prefetch_threads()


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "stream-prefetch"]


def test_threads_end_when_the_stream_is_left(path: Path) -> None:
    with Stream(load_schedule(path), prefetch=2) as stream:
        items = stream.iterate()
        next(items)
        assert prefetch_threads()
    assert not prefetch_threads()
    assert list(items) == []
    with pytest.raises(KeyError), Stream(load_schedule(path), prefetch=2) as stream:  # noqa: PT012
        next(iter(stream))
        raise KeyError
    assert not prefetch_threads()


def test_prefetch_stays_within_its_bound_and_keeps_order() -> None:
    made: list[int] = []
    asked = threading.Semaphore(0)

    def count() -> Iterator[int]:
        for value in range(50):
            made.append(value)
            asked.release()
            yield value

    with Prefetcher(count(), 3) as ahead:
        for _ in range(4):  # three in the queue, one in the thread's hand
            asked.acquire(timeout=5)
        assert not asked.acquire(timeout=0.2)
        assert next(ahead) == 0
        assert asked.acquire(timeout=5)
        assert list(ahead) == list(range(1, 50))
    assert made == list(range(50))


def test_prefetch_raises_at_the_place_of_the_fault() -> None:
    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise RuntimeError("third")

    ahead = Prefetcher(broken(), 4)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(RuntimeError, match="third"):
        next(ahead)
    with pytest.raises(StopIteration):
        next(ahead)
    assert not prefetch_threads()
