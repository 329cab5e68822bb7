"""The way back: second visits against first ones, and where a recovery is counted from."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.way_back import main, way_back


def summary() -> dict[str, Any]:
    scores = [("clear", 60.0, 60.0), ("rain", 50.0, 40.0), ("clear", 59.5, 60.0), ("rain", 52.0, 39.0)]
    settled = {1: (9, 2), 2: (7, 0), 3: (7, 4)}
    return {
        "seed": 3,
        "visits": [
            {"domain": domain, "visit": i, "start": 20 * i, "miou": miou, "miou_frozen": frozen}
            for i, (domain, miou, frozen) in enumerate(scores)
        ],
        "recovery": [{"visit": i, "frames": own, "frames_frozen": of} for i, (own, of) in settled.items()],
        "boundaries": [20, 40, 60],
        "detection": {"delays": [2, None, 5]},
    }


def test_a_recovery_counts_from_where_the_change_was_found() -> None:
    clear, rain = way_back(summary())
    assert (clear["domain"], clear["change"], clear["change_frozen"]) == ("clear", -0.5, 0.0)
    assert (clear["delay"], clear["recovery"]) == (None, 7)  # never found: from the change on
    assert (rain["first"], rain["second"], rain["change"], rain["change_frozen"]) == (50.0, 52.0, 2.0, -1.0)
    assert (rain["delay"], rain["recovery"], rain["recovery_frozen"]) == (5, 2, 4)


def test_the_page_says_what_of_the_targets_is_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(summary()))
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path / "summary.json"), "--out", str(tmp_path / "page")])
    main()
    text = (tmp_path / "page.md").read_text()
    assert text in capsys.readouterr().out
    assert "| 3 | clear | 60.0 | 59.5 | -0.5 | +0.0 | not found | 7 | 0 |" in text
    assert "Recovered within 3 frames: 1 of 2 visits. Not below the first visit: 1 of 2; of the others 0 fell" in text
    assert "Found: 1 of 2 changes" in text
    assert json.loads((tmp_path / "page.json").read_text())["runs"][0]["seed"] == 3
