"""Items made ahead in worker processes: the same bytes and faults, bounded, and gone when the stream is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from streams._workers import WorkerGroup, items_ahead
from streams.errors import StreamError
from streams.frame import StreamItem, Truth
from streams.schedule import Schedule, load_schedule
from streams.stream import Stream

FRAMES = 7


@pytest.fixture(scope="module")
def schedule(tmp_path_factory: pytest.TempPathFactory) -> Schedule:
    """Rain and fog over seven noisy pictures, one of them damaged."""
    import cv2

    root = tmp_path_factory.mktemp("workers")
    (root / "day" / "images").mkdir(parents=True)
    for index in range(FRAMES):
        noise = np.random.default_rng(index).integers(0, 255, (48, 96, 3)).astype(np.uint8)
        cv2.imwrite(str(root / "day" / "images" / f"{index}.png"), noise)
    (root / "day" / "images" / "4.png").write_bytes(b"no picture")
    file = root / "play.yaml"
    file.write_text(
        "visits:\n  - {domain: rain, folder: day, weather: {rain: 200}}\n"
        "  - {domain: fog, folder: day, weather: {fog: {from: 500, to: 50}}}\n"
    )
    return load_schedule(file)


def same(a: StreamItem, b: StreamItem) -> bool:
    if a.frame is None or b.frame is None:
        return a.fault == b.fault and a.index == b.index
    return (
        a.index == b.index
        and a.frame.timestamp_s == b.frame.timestamp_s
        and bool((a.frame.image == b.frame.image).all())
    )


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_workers_make_the_same_items_in_order_and_end_with_the_iteration(schedule: Schedule) -> None:
    alone = list(Stream(schedule, seed=3))
    stream = Stream(schedule, seed=3)
    group = WorkerGroup(schedule, {"seed": 3}, 2)
    wait_until(group.ready)
    made_here: list[int] = []

    def make(index: int) -> StreamItem:
        made_here.append(index)
        return stream[index]

    together = list(items_ahead(group, make, 2, len(stream), 3))
    assert made_here == []
    assert len(together) == 2 * FRAMES - 2
    assert all(same(a, b) for a, b in zip(alone[2:], together, strict=True))
    assert all(process.poll() is not None for process in group._processes)


def test_a_stream_with_workers_is_the_stream_and_close_ends_them(schedule: Schedule) -> None:
    alone = list(Stream(schedule, seed=1))
    with Stream(schedule, seed=1, prefetch=2, workers=1) as stream:
        items = stream.iterate(1)
        assert same(next(items), alone[1])
        processes = stream._groups[0]._processes
        assert [process.poll() for process in processes] == [None]
        assert all(same(a, b) for a, b in zip(alone[2:], items, strict=True))
        stream.iterate()
        left = stream._groups[-1]._processes
    assert all(process.poll() is not None for process in [*processes, *left])


def test_a_dead_worker_costs_no_frame(schedule: Schedule, caplog: pytest.LogCaptureFixture) -> None:
    stream, alone = Stream(schedule), list(Stream(schedule))
    group = WorkerGroup(schedule, {}, 1)
    wait_until(group.ready)
    items = items_ahead(group, lambda index: stream[index], 0, len(stream), 2)
    got = [next(items)]
    group._processes[0].kill()
    got += list(items)
    assert all(same(a, b) for a, b in zip(alone, got, strict=True))
    assert [record.message for record in caplog.records] == [
        "a worker process of the stream ended; frames are made in the run's own process from here on"
    ]


class CountingGroup:
    """Stands for workers that are ready at once and never answer."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.closed = False

    def ready(self) -> bool:
        return True

    def ask(self, index: int) -> None:
        self.asked.append(index)

    def take(self, index: int) -> None:
        return None

    def close(self) -> None:
        self.closed = True


def test_no_more_is_asked_for_than_the_bound_and_faults_come_from_here() -> None:
    def make(index: int) -> StreamItem:
        if index == 5:
            raise StreamError("frame_5.png: label id 77")
        return StreamItem(index, None, Truth("d", 0, None), "none")

    group = CountingGroup()
    items = items_ahead(group, make, 0, 20, 3)  # type: ignore[arg-type]
    for index in range(5):
        assert next(items).index == index
        assert len(group.asked) == index + 3
    with pytest.raises(StreamError, match="label id 77"):
        next(items)
    assert group.closed


def test_workers_end_when_the_process_that_asked_for_them_is_killed(schedule: Schedule, tmp_path: Path) -> None:
    import pickle

    (tmp_path / "schedule").write_bytes(pickle.dumps(schedule))
    program = (
        "import pickle, sys, time\nfrom streams._workers import WorkerGroup\n"
        f"group = WorkerGroup(pickle.load(open({str(tmp_path / 'schedule')!r}, 'rb')), {{}}, 1)\n"
        "print(group._processes[0].pid, flush=True)\ntime.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    os.kill(worker, 0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()

    def gone() -> bool:
        try:
            return Path(f"/proc/{worker}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except OSError:
            return True

    wait_until(gone)


def test_a_negative_number_of_workers_is_refused(schedule: Schedule) -> None:
    with pytest.raises(StreamError, match="workers must be 0 or more, got 0, 0 and -1"):
        Stream(schedule, workers=-1)
