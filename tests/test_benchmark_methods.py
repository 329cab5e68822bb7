"""The method table: what a cell holds, that it is played once, and what the rows make of several."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import _method_cells
from benchmarks._method_cells import Cell, play_cell, round_gains, round_slope
from benchmarks._method_pages import measured, with_row, write_pages
from benchmarks._method_table import markdown, plot
from benchmarks.methods import arguments, cells_of, read_all, rows_of, write_sessions
from online_uda.config import named_methods
from tests.hparams_kit import session_of
from tests.run_kit import FRAMES, Kit, write_kit


@pytest.fixture
def cell(tmp_path: Path, make_folder: Callable[..., Path]) -> Cell:
    kit: Kit = write_kit(tmp_path, make_folder)
    return Cell(str(kit.schedule), str(kit.network), "tent", 0, str(kit.source), None, None, 1, (), 1, ())


def test_a_cell_is_played_once_and_another_is_another(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = play_cell(replace(cell, on_time=(5.0, 500.0)), tmp_path)
    assert first["frames"] == FRAMES
    assert first["updates"] == FRAMES
    assert first["hmean"] != first["hmean_frozen"]
    assert 0.0 < first["predict_ms"] < first["frame_ms"]
    assert first["timed"]["5"]["adapted_ratio"] > first["timed"]["500"]["adapted_ratio"]
    assert first["timed"]["5"]["deadline_miss_rate"] <= first["timed"]["500"]["deadline_miss_rate"]
    assert first["slope"] is None
    monkeypatch.setattr(_method_cells, "_play", lambda *_: pytest.fail("played again"))
    assert play_cell(replace(cell, on_time=(5.0, 500.0)), tmp_path) == json.loads(json.dumps(first))
    places = {
        other.path(tmp_path)
        for other in (
            cell, replace(cell, seed=1), replace(cell, method="eta"), replace(cell, frames=2), replace(cell, rounds=2),
            replace(cell, overrides=("anchor.pull=0.3",)), replace(cell, size="64x96"),
        )
    }  # fmt: skip
    assert len(places) == 7


def test_rounds_repeat_the_schedule_and_have_a_slope(cell: Cell, tmp_path: Path) -> None:
    twice = play_cell(replace(cell, rounds=2, frames=2), tmp_path)
    assert [visit["domain"] for visit in twice["visits"]] == ["day", "rain100", "dusk"] * 2
    assert isinstance(twice["slope"], float)
    assert twice["return_gap"] is not None


def test_the_slope_is_that_of_the_gain_over_rounds() -> None:
    def visits(*gains: float) -> list[dict[str, object]]:
        return [{"domain": "ab"[i % 2], "miou": 50.0 + gain, "miou_frozen": 50.0} for i, gain in enumerate(gains)]

    assert round_slope(visits(0, 0, 1, 1, 2, 2)) == pytest.approx(10.0)
    assert round_slope(visits(3, 3, 3, 3)) == pytest.approx(0.0)
    assert round_slope(visits(1, 2, 3)) is None  # no whole rounds
    assert round_gains(visits(0, 0, 1, 1, -2, -2)) == pytest.approx([0, 1, -2])


def test_rows_are_medians_over_seeds_and_the_worst_of_any(cell: Cell, tmp_path: Path) -> None:
    cells = [replace(cell, seed=seed, frames=2, on_time=(5.0,)) for seed in (0, 1)]
    assert read_all(cells, tmp_path)[1] == [f"{cell.schedule} network tent seed {seed}: not played" for seed in (0, 1)]
    results = [play_cell(one, tmp_path) for one in cells]
    write_sessions(cells, tmp_path, tmp_path / "sessions")
    pages = [session_of(tmp_path / "sessions" / one.path(tmp_path).stem) for one in cells]
    assert [page[0]["seed"] for page in pages] == [0, 1]
    assert pages[0][0]["method"] == "tent"
    assert pages[0][1]["hmean"] == pytest.approx(results[0]["hmean"])
    assert pages[0][1]["gain"] == pytest.approx(results[0]["hmean"] - results[0]["hmean_frozen"], abs=1e-4)
    (row,) = rows_of(results)
    assert row["hmean"] == pytest.approx(sum(one["hmean"] for one in results) / 2)
    assert row["worst_visit_gain"] == min(one["worst_visit_gain"] for one in results)
    assert row["seeds"] == [0, 1]
    content = {
        "rows": [row, {**row, "method": "other", "gain": 1e3}], "command": "python -m benchmarks.methods x",
        "environment": {"cpu": "c", "cores": 2, "created": "now"}, "load_average": 1.0, "failed": ["x y z: broken"],
    }  # fmt: skip
    assert row["last_round"] is None
    assert "last round" not in markdown(content, "methods")
    content["rows"][1] |= {"slope": -1.0, "last_round": -7.25, "last_half": -3.0}  # type: ignore[index]
    text = markdown(content, "methods")
    assert "| -7.2 | -3.0 | -1.0 |" in text
    assert text.index("| other |") < text.index("| tent |")  # best first
    assert "- failed: x y z: broken" in text
    plot(content["rows"], tmp_path / "plot.png")  # type: ignore[arg-type]
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_every_combination_is_a_cell() -> None:
    options = arguments(["quick", "cs2rain", "anchor.pull=0.1", "--methods", "tent", "eta", "--seeds", "0", "1", "2",
                         "--on-time"])  # fmt: skip
    cells = cells_of(options)
    assert len(cells) == len(set(cells)) == 12
    assert {cell.overrides for cell in cells} == {("anchor.pull=0.1",)}
    assert cells[0].on_time == (5.0, 10.0, 30.0)
    assert {cell.method for cell in cells_of(arguments(["quick", "--methods", "all"]))} >= {
        "default",
        "cotta",
        "frozen",
    }


def test_a_page_has_its_row_once(tmp_path: Path) -> None:
    row = {"schedule": "quick", "method": "tent", "frames": 24, "size": "32x64", "seeds": [0, 1], "hmean": 41.04,
           "gain": 0.5, "worst_visit_gain": -1.25, "frame_ms": 99.6}  # fmt: skip
    page = "# tent\n\n**Source data.** None.\n\n**Fails.** Often.\n"
    once = with_row(page, row, "methods")
    assert "`quick`, 24 frames at 32x64, seeds 0, 1: harmonic mean 41.0 (+0.5\nover frozen), worst visit -1.2" in once
    assert once.index("**Source data.**") < once.index("**Measured.**") < once.index("**Fails.** Often.")
    again = with_row(once, {**row, "gain": 0.7}, "methods")
    assert again == once.replace("+0.5", "+0.7")
    (tmp_path / "tent.md").write_text(page)
    write_pages([row, {**row, "schedule": "other"}, {**row, "method": "own"}], tmp_path, "methods")
    assert (tmp_path / "tent.md").read_text() == once


def test_pages_have_the_rows_of_the_committed_table() -> None:
    """`python -m benchmarks.methods ... --pages` writes them."""
    docs = Path(__file__).parents[1] / "docs"
    rows = json.loads((docs / "benchmarks" / "methods.json").read_text())["rows"]
    assert rows
    assert {row["method"] for row in rows} <= set(named_methods())
    for row in rows:
        assert measured(row, "methods") in (docs / "methods" / f"{row['method']}.md").read_text()
