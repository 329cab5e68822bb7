"""Runs on the HPARAMS page: their settings, their metrics, and what the page makes of several."""

from __future__ import annotations

from pathlib import Path

import pytest

from online_uda.config import RunConfig
from online_uda.reports.hparams import flat, metrics_of, settings_of, write_session
from online_uda.reports.tensorboard import TensorBoardSink
from online_uda.resolve import resolve
from tests.hparams_kit import columns, session_of


def plan(method: str, *overrides: str) -> dict:
    return resolve(RunConfig(schedule="quick", method=method, seed=3), overrides).as_dict()


def test_settings_are_the_filled_slots_of_the_method() -> None:
    settings = settings_of(plan("tent", "optimizer.learning_rate=0.25"), "tent")
    assert settings["method"] == "tent"
    assert (settings["schedule"], settings["network"], settings["seed"]) == ("quick", "segformer_b0_town", 3)
    assert settings["optimizer.learning_rate"] == 0.25
    assert not [key for key in settings if key.startswith(("replay", "description"))]
    assert "replay.sampling" in settings_of(plan("hamlet"), "hamlet")


def test_flat_keeps_numbers_and_makes_the_rest_text() -> None:
    tree = {"a": {"b": 1, "c": 0.5, "d": None}, "e": [1, 2], "f": True, "g": "x"}
    assert flat(tree) == {"a.b": 1, "a.c": 0.5, "e": "[1, 2]", "f": "true", "g": "x"}


def test_a_session_is_read_back_and_written_again_in_its_place(tmp_path: Path) -> None:
    for rate in (0.1, 0.2):
        write_session(tmp_path / "one", {"method": "tent", "lr": rate}, {"hmean": 50.0, "gain": -1.5})
    assert session_of(tmp_path / "one") == ({"method": "tent", "lr": 0.2}, {"hmean": 50.0, "gain": -1.5})
    assert len(list((tmp_path / "one").iterdir())) == 1


def test_the_page_has_the_settings_of_all_runs_and_no_column_of_a_chart(
    tmp_path: Path, toy_classes, record, toy_summary
) -> None:
    for name, overrides in (("tent", ()), ("hamlet", ("replay.frames=8",))):
        settings = settings_of(plan(name, *overrides), name)
        with TensorBoardSink(tmp_path / name, toy_classes, settings=settings) as sink:
            for frame in range(12):
                sink.write(record(frame))
            sink.finish(toy_summary)
    settings, metrics = columns(tmp_path)
    assert settings["method"]
    assert not settings["seed"]
    assert "replay.frames" in settings
    assert {group for group, _ in metrics} == {""}
    assert {tag for _, tag in metrics} == {"hmean", "gain", "worst_visit", "worst_visit_gain", "agreement", "updates"}
    _, scores = session_of(tmp_path / "tent" / "hparams")
    assert scores == pytest.approx(metrics_of(toy_summary))
    assert scores["worst_visit"] == pytest.approx(60.0)
    assert scores["hmean"] == pytest.approx(toy_summary["hmean"])
    assert scores["gain"] == pytest.approx(toy_summary["hmean"] - toy_summary["hmean_frozen"])


def test_without_labels_there_is_agreement_and_no_score(toy_summary) -> None:
    nothing = {**toy_summary, "hmean": None, "hmean_delta": None, "worst": None,
               "harm": {**toy_summary["harm"], "worst_visit_gain": None}}  # fmt: skip
    assert set(metrics_of(nothing)) == {"agreement", "updates"}
