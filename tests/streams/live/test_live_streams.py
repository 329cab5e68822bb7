"""Live streams: the newest picture alone, losses told, reconnected, and no picture twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from streams.errors import StreamError
from streams.live.newest import Arrival, NewestPicture
from streams.live.picture import Broken, FeedLost, Picture
from tests.streams.live.test_video_files import feed_stream
from tests.video_kit import TsCamera, number_of

QUICK = (0.05, 0.1)


@pytest.fixture
def camera() -> Iterator[TsCamera]:
    camera = TsCamera()
    yield camera
    camera.stop()


def test_drop_oldest(camera: TsCamera) -> None:
    with feed_stream(camera.url, frames=8, back_off_s=QUICK) as stream:
        assert stream.is_live
        items = []
        for item in stream:
            items.append(item)
            received = stream.figures()["received"]
            while stream.figures()["received"] < received + 3:
                time.sleep(0.005)
    numbers = [number_of(item.frame.image) for item in items if item.frame]
    assert len(numbers) == 8
    assert np.diff(numbers).min() >= 3, "what came in the meantime is dropped"
    assert [item.index for item in items] == list(range(8))
    assert np.diff([item.frame.timestamp_s for item in items if item.frame]).min() > 0
    counts = stream.figures()
    assert counts["received"] >= counts["dropped"] + 8
    assert counts["dropped"] > 0
    assert counts["outages"] == 0


def cut_and_count(camera: TsCamera, cuts: int) -> None:
    seen: list[int] = []
    times: list[float] = []
    faults: list[str] = []
    waiting = False
    with feed_stream(camera.url, back_off_s=QUICK, timeout_s=1.0) as stream:
        for item in stream:
            if item.frame is None:
                faults.append(item.fault or "")
                waiting = False
                continue
            seen.append(number_of(item.frame.image))
            times.append(item.frame.timestamp_s)
            if len(faults) == cuts and len(seen) > 4 * cuts:
                break
            if not waiting and len(faults) < cuts and len(seen) % 4 == 0:
                camera.cut()
                waiting = True
        counts = stream.figures()
    assert len(faults) == cuts
    assert all("the stream was lost" in fault for fault in faults)
    assert (counts["outages"], counts["reconnects"]) == (cuts, cuts)
    assert seen == sorted(set(seen)), "no picture comes twice"
    assert np.diff(times).min() > 0
    assert counts["outage_s"] > 0


def test_cut_three_times(camera: TsCamera) -> None:
    cut_and_count(camera, 3)


@pytest.mark.slow
def test_cut_twenty_times(camera: TsCamera) -> None:
    threads = threading.active_count()
    cut_and_count(camera, 20)
    time.sleep(0.2)
    assert threading.active_count() <= threads, "no thread is left behind"


def test_stop_ends_a_wait_for_a_lost_stream(camera: TsCamera) -> None:
    with feed_stream(camera.url, back_off_s=(60.0,)) as stream:
        items = stream.iterate()
        assert next(items).frame is not None
        camera.stop()
        while next(items).fault is None:
            pass
        threading.Timer(0.3, stream.stop).start()
        assert list(items) == []
    camera.start()


class Scripted:
    """A source of given entries that is then lost."""

    def __init__(self, *entries: Picture | Broken) -> None:
        self._entries = entries
        self.closed = False

    def entries(self) -> Iterator[Picture | Broken]:
        yield from self._entries
        raise FeedLost("cable")

    def close(self) -> None:
        self.closed = True


def picture(value: int, at_s: float = 0.0) -> Picture:
    return Picture(np.full((4, 4, 3), value, np.uint8), at_s)


def test_back_off_repeats_and_frozen_picture_of_a_relay_is_left_out() -> None:
    first, second = Scripted(picture(1), picture(2, 0.1)), Scripted(picture(2), picture(3, 0.1))
    answers = iter([StreamError("gone"), StreamError("gone"), second])
    last = threading.Event()

    def reopen() -> Scripted:
        answer = next(answers, None)
        if answer is None:
            last.set()
            raise StreamError("over")
        if isinstance(answer, StreamError):
            raise answer
        return answer

    newest = NewestPicture(first, reopen, (0.01, 0.02))
    assert last.wait(5)
    entries = []
    while (entry := newest.take(0.01)) is not None:
        entries.append(entry)
    newest.close()
    assert [type(entry) for entry in entries] == [Broken, Arrival, Broken]
    assert isinstance(entries[1], Arrival)
    assert entries[1].image[0, 0, 0] == 3
    counts = newest.counts
    assert (counts.received, counts.dropped, counts.repeated, counts.outages) == (3, 2, 1, 2)
    assert (counts.reconnects, counts.attempts >= 4, first.closed, second.closed) == (1, True, True, True)


def test_timestamps_that_are_made_up_do_not_lead_away_from_the_clock() -> None:
    entries = [picture(value, at_s) for value, at_s in enumerate((0.0, 0.5, 100.0, 100.5, -50.0, 900.0))]
    times: list[float] = []

    class Slow(Scripted):
        def entries(self) -> Iterator[Picture | Broken]:
            for entry in entries:
                yield entry
                taken.wait(5)
                taken.clear()
            raise FeedLost("cable")

    taken = threading.Event()
    newest = NewestPicture(Slow(), Slow, (60.0,))
    while len(times) < len(entries):
        arrival = newest.take(5)
        assert isinstance(arrival, Arrival)
        times.append(arrival.at_s)
        taken.set()
    newest.close()
    assert np.diff(times).min() > 0
    assert times[1] - times[0] == pytest.approx(0.5)
    assert max(times) < 50


def test_a_fault_of_our_own_is_raised_to_the_taker() -> None:
    class Faulty(Scripted):
        def entries(self) -> Iterator[Picture | Broken]:
            raise ZeroDivisionError

    newest = NewestPicture(Faulty(), Faulty, (0.01,))
    with pytest.raises(ZeroDivisionError):
        [newest.take(0.05) for _ in range(100)]


def test_camera_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    from streams.live import camera as module

    class Capture:
        def __init__(self, number: int) -> None:
            self.left = 3

        def isOpened(self) -> bool:
            return True

        def set(self, key: int, value: float) -> bool:
            return True

        def get(self, key: int) -> float:
            return 25.0

        def read(self) -> tuple[bool, np.ndarray | None]:
            self.left -= 1
            return (
                (True, np.dstack([np.full((4, 4), v, np.uint8) for v in (10, 20, 30)]))
                if self.left >= 0
                else (False, None)
            )

        def release(self) -> None:
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    monkeypatch.setattr(module.Path, "exists", lambda self: True)
    device = module.CameraDevice(0)
    entries = device.entries()
    first = next(entries)
    assert isinstance(first, Picture)
    assert first.image[0, 0].tolist() == [30, 20, 10], "RGB, not OpenCV's BGR"
    assert device.period_s == 0.04
    next(entries), next(entries)
    with pytest.raises(FeedLost, match="camera 0"):
        next(entries)
