"""The objective by hand, and the scorebook that keeps what was paid for."""

from __future__ import annotations

from pathlib import Path

import pytest

from online_uda.tuning.objective import Score, VisitGain
from online_uda.tuning.scorebook import Scorebook

VISITS = [VisitGain("search-0", "clear", 60.0, 60.0), VisitGain("search-0", "rain40", 30.0, 20.0)]


def test_value_is_gain_in_harmonic_mean_less_the_largest_fall() -> None:
    score = Score.of(VISITS, harm=1.0)
    assert score.hmean == pytest.approx(40.0)
    assert score.hmean_frozen == pytest.approx(30.0)
    assert score.value == pytest.approx(10.0)  # nothing was harmed
    harmed = [*VISITS, VisitGain("search-0", "fog80", 28.0, 30.0)]
    assert Score.of(harmed, 0.0).value - Score.of(harmed, 1.5).value == pytest.approx(3.0)
    with pytest.raises(ValueError, match="needs visits"):
        Score.of([], 1.0)


def test_scores_are_found_again_and_a_line_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    book = Scorebook(tmp_path / "scores.jsonl", 1.0)
    book.note("search", "tent", {"anchor.pull": 0.1}, Score.of(VISITS, 1.0))
    with (tmp_path / "scores.jsonl").open("a") as file:
        file.write('{"key": "half')
    again = Scorebook(tmp_path / "scores.jsonl", 1.0)
    assert again.find("search", "tent", {"anchor.pull": 0.1}) == Score.of(VISITS, 1.0)
    assert again.find("held_out", "tent", {"anchor.pull": 0.1}) is None
    assert again.find("search", "tent", {"anchor.pull": 0.2}) is None
