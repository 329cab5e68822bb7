"""The summary as a contract: keys, types, JSON, and that its figures come from the scorebook."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from online_uda.evaluation.latency import LatencyMeter
from online_uda.evaluation.prequential import PrequentialEvaluator
from online_uda.evaluation.summary import build_summary, json_safe
from streams.frame import ClassSet, Truth

CLASSES = ClassSet("toy3", ("road", "car", "sky"), ((1, 1, 1), (2, 2, 2), (3, 3, 3)))
NAMES = {"schedule": "toy", "method": "tent", "network": "tiny", "seed": 3}


def scored_run(frames, per_visit=12):
    evaluator, latency = PrequentialEvaluator(CLASSES), LatencyMeter()
    for index, truth, adapted, frozen in frames(per_visit):
        evaluator.update(index, truth, adapted, frozen)
        latency.record("predict", 10.0 + index)
        if index % 3 == 0:
            evaluator.note_update()
    evaluator.note_detection(per_visit + 2)
    evaluator.note_detection(2 * per_visit - 1)
    return evaluator, latency


def test_summary_holds_what_the_contract_names(frames):
    evaluator, latency = scored_run(frames)
    summary = json.loads(json.dumps(build_summary(evaluator, latency, **NAMES), allow_nan=False))
    assert summary["schema"] == "online_uda.summary/1"
    assert {key: summary[key] for key in NAMES} == NAMES
    assert summary["frames"] == 36
    scores = [visit.miou for visit in evaluator.visits]
    assert summary["hmean"] == pytest.approx(3 / sum(1 / score for score in scores))
    assert summary["hmean"] > summary["hmean_frozen"]
    assert [(v["domain"], v["visit"], v["frames"], v["updates"]) for v in summary["visits"]] == [
        ("clear", 0, 12, 4), ("rain", 1, 12, 4), ("clear", 2, 12, 4),
    ]  # fmt: skip
    assert [v["miou"] for v in summary["visits"]] == pytest.approx(scores)
    assert summary["boundaries"] == [12, 24]
    assert summary["detections"] == [14, 23]
    assert summary["detection"]["delays"] == [2, None]
    assert summary["detection"]["false_alarms"] == [23]
    assert summary["latency_ms"]["predict"]["p50"] == 27.5
    assert summary["latency_ms"]["adapt"]["p99"] is None
    assert summary["last_minus_first"]["domain"] == "clear"
    assert [row["boundary"] for row in summary["recovery"]] == [12, 24]
    assert summary["recovery"][0]["window"] == 2
    assert summary["harm"]["max_drawdown"] == 0.0
    assert set(summary["per_class"]) == set(CLASSES.names)
    assert summary["peak_memory_mb"] > 10
    assert "harmonic mean" in summary["hmean_rule"]


def test_window_changes_the_recovery_windows(frames):
    evaluator, latency = scored_run(frames, per_visit=30)
    windows = [build_summary(evaluator, latency, **NAMES, window=w)["recovery"][0]["window"] for w in (2, 50)]
    assert windows == [2, 5]


def test_merged_history_reports_recovery_in_frames():
    evaluator = PrequentialEvaluator(CLASSES, history_bytes=8 * (5 * 3 + 3) * 24)
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, (20, 20)).astype(np.uint8)
    bad = np.where(rng.random(label.shape) < 0.6, (label + 1) % 3, label).astype(np.uint8)
    for index in range(120):
        late = 60 <= index < 100
        evaluator.update(
            index, Truth("rain" if index >= 60 else "clear", index >= 60, label), bad if late else label, bad
        )
    assert evaluator.history.stride == 8
    recovery = build_summary(evaluator, LatencyMeter(), **NAMES)["recovery"]
    assert [row["frames"] for row in recovery] == [40]


def test_an_empty_or_unlabelled_run_has_a_summary_too():
    run = PrequentialEvaluator(CLASSES)
    summary = build_summary(run, LatencyMeter(), **NAMES)
    assert (summary["frames"], summary["hmean"], summary["visits"]) == (0, None, [])
    shown = np.zeros((2, 2), np.uint8)
    run.update(0, Truth("camera", 0, None), shown, shown)
    run.note_fault(1, Truth("other", 1, None), "torn file")
    summary = build_summary(run, LatencyMeter(), **NAMES)
    assert [(v["miou"], v["agreement"]) for v in summary["visits"]] == [(None, 100.0), (None, None)]
    assert summary["recovery"][0]["frames"] is None
    assert (summary["faults"], summary["fault_examples"]) == (1, [{"frame": 1, "reason": "torn file"}])


def test_extra_entries_are_added_but_replace_nothing(frames):
    evaluator, latency = scored_run(frames)
    assert build_summary(evaluator, latency, **NAMES, extra={"interrupted": True})["interrupted"] is True
    with pytest.raises(ValueError, match="replace summary keys: frames, hmean"):
        build_summary(evaluator, latency, **NAMES, extra={"hmean": 99.0, "frames": 1})


def test_json_safe_copies_what_json_cannot_hold():
    @dataclass
    class Row:
        score: float

    value = {"a": np.float32("nan"), 1: (np.int64(3), float("inf")), "p": Path("x/y"), "n": np.array([1.5, np.nan])}
    assert json_safe({**value, "row": Row(float("nan"))}) == {
        "a": None, "1": [3, None], "p": "x/y", "n": [1.5, None], "row": {"score": None},
    }  # fmt: skip
    with pytest.raises(TypeError, match="cannot write a object as JSON"):
        json_safe(object())


def test_peak_memory_includes_memory_given_back():
    code = (
        "from online_uda.evaluation.memory import peak_memory_mb as peak; before = peak();"
        "block = bytes(1) * (100 * 2**20); del block; print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(100, abs=10)
