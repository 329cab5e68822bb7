"""The scorebook: visits, running scores, boundaries, faults, and its state."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest
import torch

from online_uda.errors import UserError
from online_uda.evaluation.confusion import mean_iou
from online_uda.evaluation.prequential import MAX_FAULT_EXAMPLES, PrequentialEvaluator
from streams.frame import ClassSet, Truth

CLASSES = ClassSet("toy3", ("road", "car", "sky"), ((1, 1, 1), (2, 2, 2), (3, 3, 3)))


def test_visit_scores_equal_the_offline_computation(frames):
    evaluator = PrequentialEvaluator(CLASSES)
    stacks = {}
    for index, truth, adapted, frozen in frames():
        score = evaluator.update(index, truth, adapted, frozen)
        stack = stacks.setdefault(truth.visit, [])
        stack.append((truth.label, adapted, frozen))
        labels, *predictions = (np.concatenate([entry[i] for entry in stack]) for i in range(3))
        expected = []
        for predicted in predictions:
            ious = [
                np.sum((labels == c) & (predicted == c)) / np.sum(((labels == c) | (predicted == c)) & (labels != 255))
                for c in range(3)
            ]
            expected.append(100 * np.mean(ious))
        assert (score.visit_miou, score.visit_miou_frozen) == pytest.approx(expected, abs=1e-9)
        assert score.agreement == pytest.approx(100 * np.mean(adapted == frozen))
    assert [(v.domain, v.visit, v.start, v.frames) for v in evaluator.visits] == [
        ("clear", 0, 0, 8), ("rain", 1, 8, 8), ("clear", 2, 16, 8),
    ]  # fmt: skip
    assert evaluator.boundaries == [8, 16]


def test_harm_counts_follow_the_frame_scores(frames):
    evaluator = PrequentialEvaluator(CLASSES)
    pairs = []
    for index, truth, adapted, frozen in frames():
        score = evaluator.update(index, truth, frozen, adapted)  # swapped: the "adapted" one is the worse
        pairs.append((score.miou, score.miou_frozen))
    assert sum(v.harmed for v in evaluator.visits) == sum(a < f - 1 for a, f in pairs) > 10
    assert sum(v.below for v in evaluator.visits) == sum(a < f for a, f in pairs)


def test_frozen_method_passes_one_array_for_both(frames):
    evaluator = PrequentialEvaluator(CLASSES)
    for index, truth, adapted, _ in frames():
        score = evaluator.update(index, truth, adapted, adapted)
        assert score.miou == score.miou_frozen
        assert score.agreement == 100.0
    assert all(np.array_equal(v.confusion, v.confusion_frozen) for v in evaluator.visits)
    assert all(mean_iou(v.confusion) > 0 for v in evaluator.visits)


def test_visits_without_labels_score_none_but_still_compare_with_frozen():
    evaluator = PrequentialEvaluator(CLASSES)
    shown = np.zeros((2, 2), np.uint8)
    other = np.array([[0, 0], [0, 1]], np.uint8)
    score = evaluator.update(0, Truth("camera", 0, None), shown, other)
    assert (score.miou, score.visit_miou, score.visit_miou_frozen, score.agreement) == (None, None, None, 75.0)
    assert evaluator.update(1, Truth("camera", 0, None), shown).agreement is None
    blank = np.full((2, 2), 255, np.uint8)
    assert evaluator.update(2, Truth("blank", 1, blank), shown, shown).miou is None
    assert [v.miou for v in evaluator.visits] == [None, None]
    assert [v.agreement for v in evaluator.visits] == [75.0, 100.0]
    assert len(evaluator.history) == 0


def test_faults_updates_and_detections_are_kept_per_visit():
    evaluator = PrequentialEvaluator(CLASSES)
    label = np.zeros((2, 2), np.uint8)
    evaluator.update(0, Truth("clear", 0, label), label, label)
    evaluator.note_update()
    evaluator.note_fault(1, Truth("rain", 1, None), "not an image")
    evaluator.update(2, Truth("rain", 1, label), label, label)
    evaluator.note_update(steps=3)
    evaluator.note_detection(2)
    assert [(v.frames, v.scored, v.faults, v.updates) for v in evaluator.visits] == [(1, 1, 0, 1), (2, 1, 1, 3)]
    assert (evaluator.frames, evaluator.updates) == (3, 4)
    assert (evaluator.boundaries, evaluator.detections) == ([1], [2])
    for index in range(3, 60):
        evaluator.note_fault(index, Truth("rain", 1, None), f"bad {index}")
    assert evaluator.faults.count == 58
    assert evaluator.faults.examples[:2] == [(1, "not an image"), (3, "bad 3")]
    assert len(evaluator.faults.examples) == MAX_FAULT_EXAMPLES


def test_two_folders_of_one_domain_are_no_boundary():
    evaluator = PrequentialEvaluator(CLASSES)
    label = np.zeros((2, 2), np.uint8)
    for index, (domain, visit) in enumerate([("day", 0), ("day", 1), ("dusk", 2)]):
        evaluator.update(index, Truth(domain, visit, label), label, label)
    assert len(evaluator.visits) == 3
    assert evaluator.boundaries == [2]


def test_refused_frames_leave_the_score_untouched():
    evaluator = PrequentialEvaluator(CLASSES)
    label = np.zeros((2, 2), np.uint8)
    evaluator.update(0, Truth("clear", 1, label), label, label)
    before = str(evaluator.state_dict())
    for error, match, call in (
        (UserError, r"label ids \[9\]", (1, Truth("clear", 1, label + np.uint8(9)), label, label)),
        (ValueError, "frozen network's prediction", (1, Truth("clear", 1, label), label)),
        (ValueError, r"visit 0 \(rain\) after visit 1", (1, Truth("rain", 0, label), label, label)),
        (ValueError, r"visit 1 \(fog\) after visit 1 \(clear\)", (1, Truth("fog", 1, label), label, label)),
    ):
        with pytest.raises(error, match=match):
            evaluator.update(*call)
    assert str(evaluator.state_dict()) == before


def test_state_survives_a_weights_only_file_bit_for_bit(frames):
    whole, first = PrequentialEvaluator(CLASSES), PrequentialEvaluator(CLASSES)
    for index, truth, adapted, frozen in frames():
        whole.update(index, truth, adapted, frozen)
        if index < 13:
            first.update(index, truth, adapted, frozen)
    first.note_fault(13, Truth("rain", 1, None), "torn file")
    first.note_guard(13, {"action": "rollback", "cause": "canary", "detail": "too low"})
    first.note_detection(11)
    saved = io.BytesIO()
    torch.save(first.state_dict(), saved)
    saved.seek(0)
    state = torch.load(saved, weights_only=True)
    resumed = PrequentialEvaluator(CLASSES)
    resumed.load_state_dict(state)
    assert (resumed.faults.count, resumed.faults.examples) == (1, [(13, "torn file")])
    assert (resumed.detections, resumed.boundaries) == ([11], [8])
    for index, truth, adapted, frozen in frames():
        if index >= 13:
            resumed.update(index, truth, adapted, frozen)
    for left, right in zip(whole.visits, resumed.visits, strict=True):
        assert (left.miou, left.miou_frozen, left.agreement) == (right.miou, right.miou_frozen, right.agreement)
        np.testing.assert_array_equal(left.iou(), right.iou())
        np.testing.assert_array_equal(left.iou_frozen(), right.iou_frozen())
    other = PrequentialEvaluator(ClassSet("other", ("a", "b", "c"), CLASSES.palette))
    with pytest.raises(ValueError, match="classes 'toy3', this run has 'other'"):
        other.load_state_dict(state)


@pytest.mark.slow
def test_full_size_frames_need_little_extra_memory():
    """specs/hamlet.md check 15: under 50 MB for 500 predictions of 1024x2048 (fewer frames; nothing may grow)."""
    evaluator = PrequentialEvaluator(CLASSES)
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, (1024, 2048)).astype(np.uint8)
    prediction = rng.integers(0, 3, (1024, 2048)).astype(np.uint8)
    tracemalloc.start()
    for index in range(20):
        evaluator.update(index, Truth("clear", 0, label), prediction, label)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 2**20


def test_guard_events_are_counted_and_the_first_kept(monkeypatch):
    monkeypatch.setattr("online_uda.evaluation.prequential.MAX_GUARD_EVENTS", 2)
    evaluator = PrequentialEvaluator(CLASSES)
    for index, action in enumerate(("skip", "rollback", "rollback")):
        evaluator.note_guard(index, {"action": action, "cause": "canary", "detail": "x"})
    assert evaluator.guards.actions == {"skip": 1, "rollback": 2}
    assert evaluator.guards.causes == {"canary": 3}
    assert [event["frame"] for event in evaluator.guards.events] == [0, 1]
