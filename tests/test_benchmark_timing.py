"""Timing in turns: every candidate once a round, warm-up left out, ratios inside a round; tables that grow."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import _timing
from benchmarks.kept_rows import kept


def test_candidates_take_turns_and_ratios_are_taken_inside_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    now, order = [0.0], []

    def work(name: str, seconds: list[float]) -> Callable[[], object]:
        left = iter(seconds)

        def run() -> None:
            order.append(name)
            now[0] += next(left)

        return run

    monkeypatch.setattr(_timing.time, "perf_counter", lambda: now[0])
    candidates = {"slow": work("slow", [9.0, 2.0, 20.0, 4.0]), "fast": work("fast", [9.0, 1.0, 5.0, 2.0])}
    timed = _timing.in_turns(candidates, 3, lambda: None, warm_up=1)
    assert order == ["slow", "fast"] * 4
    assert timed["slow"]["rounds_ms"] == [2000.0, 20000.0, 4000.0]
    assert (timed["fast"]["min_ms"], timed["fast"]["p50_ms"]) == (1000.0, 2000.0)
    assert _timing.times_faster(timed["slow"], timed["fast"]) == 2.0  # of 2, 4 and 2


def test_resident_memory_is_that_of_a_process_with_python_in_it() -> None:
    assert 5.0 < _timing.resident_mb() < 1e5


def test_rows_that_are_not_measured_again_stay(tmp_path: Path) -> None:
    rows = [{"network": n, "scope": s} for n in ("a", "b") for s in ("norm", "all")]
    (tmp_path / "x.json").write_text(json.dumps({"rows": rows}))
    assert kept(tmp_path / "x.json", {"network": ["a"], "scope": ["all", "bias"]}) == [rows[0], *rows[2:]]
    assert kept(tmp_path / "x.json", {"network": ["a", "c"]}) == rows[2:]
    assert kept(tmp_path / "y.json", {"network": ["a"]}) == []
