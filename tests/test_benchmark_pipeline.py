"""The pipeline benchmark plays what it says and writes its tables."""

from __future__ import annotations

from pathlib import Path

from benchmarks.pipeline import TARGETS, as_markdown, play, stream_cpu_s
from streams.schedule import load_schedule


def test_a_stream_is_played_to_its_end_and_reported(tmp_path: Path) -> None:
    file = tmp_path / "town.yaml"
    file.write_text("size: [32, 64]\nvisits:\n  - {domain: clear, town: true, frames: 14}\n")
    figures = play(load_schedule(file), 0)
    assert figures["frames"] == 5  # all but the first, after which the workers (none) are up
    assert figures["frames_per_s"] > 0
    assert stream_cpu_s() > 0
    found = {
        "command": "x", "machine": "y", "load": [0.0, 0.0], "network_ms": 1.0,
        "streams": {next(iter(TARGETS)): {"0": {"alone": figures, "with_network": figures}}},
        "renderers_1024x512": {case: {"p50": 1.0, "p95": 2.0, "cpu": 1.0} for case in ("fog: 150", "snow: 5")},
    }  # fmt: skip
    table = as_markdown(found)
    assert "| fog: 150 | 1.0 | 2.0 | 1.0 | ≤ 60 |" in table
    assert "| snow: 5 | 1.0 | 2.0 | 1.0 |  |" in table
