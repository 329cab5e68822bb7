"""The live page's benchmark: viewers count what a page sends, and a difference is held against chance."""

from __future__ import annotations

import threading
import time

import numpy as np

from benchmarks._page_viewers import Viewer, health
from benchmarks.live_page import as_markdown, figures
from online_uda.live.server import LiveSink
from online_uda.runtime.controls import Controls
from streams.classes import CITYSCAPES_19
from tests.live.test_live_page import record_of


def test_a_viewer_counts_the_pictures_of_a_page() -> None:
    stop = threading.Event()
    with LiveSink("0", CITYSCAPES_19, Controls(), "x") as sink:

        def play() -> None:
            frame = 0
            while not stop.wait(0.02):
                sink.write(record_of(frame))
                frame += 1

        player = threading.Thread(target=play)
        player.start()
        try:
            with Viewer(sink._port) as viewer:
                ends_s = time.monotonic() + 20
                while len(viewer.moments_s) < 4 and time.monotonic() < ends_s:
                    time.sleep(0.02)
            assert viewer.first_picture_s is not None
            assert viewer.first_picture_s > 0
            assert len(viewer.moments_s) >= 4
            assert (viewer.pictures_per_s() or 0) > 0
            said = health(sink._port)
            assert said is not None
            assert said["status"] == "ok"
        finally:
            stop.set()
            player.join()
    assert health(sink._port) is None


def test_a_difference_is_held_against_chance() -> None:
    generator = np.random.default_rng(0)

    def found(slower_ms: float) -> dict[str, list[object]]:
        def parts(more: float) -> list[object]:
            return [(generator.gamma(9.0, 5.0, 200) + more).tolist() for _ in range(8)]

        return {
            "without": parts(0.0), "with": parts(slower_ms), "first_picture_s": [0.2, 1.5], "pictures_per_s": [12, 9.5],
        }  # fmt: skip

    for slower_ms, seen in ((0.0, False), (30.0, True)):
        result = figures(found(slower_ms))
        row = result["p50"]
        low, high = row["by_chance_ms"]
        assert (not low <= row["difference_ms"] <= high) == seen
        assert row["difference_ms"] == row["with_ms"] - row["without_ms"]
    assert (result["first_picture_s"], result["pictures_per_s"]) == (1.5, 9.5)
    assert result["frames"] == {"without": 1600, "with": 1600}
    report = {
        "command": "x", "machine": "y", "load": [0, 0], "method": "frozen", "backend": "torch", "pairs": 8,
        "viewers": 3, "figures": result,
    }  # fmt: skip
    assert "| pictures a second | ≥ 10 | 9.5 |" in as_markdown(report)
