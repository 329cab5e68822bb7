"""Windowed scores, recovery and drawdown against loops over whole confusion matrices."""

from __future__ import annotations

import numpy as np
import pytest

from online_uda.evaluation.confusion import confusion_matrix, intersection_union, mean_iou
from online_uda.evaluation.history import ScoreHistory
from online_uda.evaluation.windows import ClassCounts, max_drawdown, recovery, window_miou

CLASSES = 3
RNG = np.random.default_rng(3)


def frame(accuracy, size=400):
    label = RNG.integers(0, CLASSES, (1, size)).astype(np.uint8)
    label[0, :10] = 255
    wrong = RNG.random(label.shape) > accuracy
    prediction = np.where(wrong, (label + 1) % CLASSES, label % CLASSES).astype(np.uint8)
    return confusion_matrix(label, prediction, CLASSES)


def counts_of(matrices):
    intersection, union, truth = intersection_union(np.stack(matrices))
    return ClassCounts(intersection, union, truth)


def test_window_score_is_that_of_the_summed_matrix():
    matrices = [frame(a) for a in np.linspace(0.2, 0.9, 12)]
    scores = window_miou(counts_of(matrices), 4)
    expected = [mean_iou(np.sum(matrices[i : i + 4], axis=0)) for i in range(9)]
    np.testing.assert_allclose(scores, expected, rtol=1e-12)
    assert window_miou(counts_of(matrices), 13).size == 0
    with pytest.raises(ValueError, match="at least 1 frame"):
        window_miou(counts_of(matrices), 0)


def test_recovery_counts_the_frames_before_the_steady_state():
    found = recovery(counts_of([frame(0.3) for _ in range(20)] + [frame(0.9) for _ in range(40)]), window=5)
    assert found is not None
    assert found.window == 5
    # Windows of 5 from frame 20 on are all good; one or two earlier ones may reach 95 % already.
    assert 18 <= found.frames <= 20
    steady = mean_iou(frame(0.9, 20_000))
    assert found.steady_miou == pytest.approx(steady, abs=1.5)
    lost_a_frame = steady - mean_iou(frame(0.3, 20_000))
    assert found.area == pytest.approx(18 * lost_a_frame, rel=0.15)


def test_steady_visit_recovers_at_once_and_short_visits_use_a_smaller_window():
    steady = recovery(counts_of([frame(0.8) for _ in range(60)]), window=50)
    assert steady is not None
    assert (steady.frames, steady.area, steady.window) == (0, 0.0, 10)
    assert recovery(counts_of([frame(0.8)] * 2), window=50) is None


def test_drawdown_is_the_deepest_window_below_frozen():
    frozen = [frame(0.8) for _ in range(30)]
    adapted = frozen[:10] + [frame(0.5) for _ in range(6)] + frozen[16:]
    expected = max(
        mean_iou(np.sum(frozen[i : i + 6], axis=0)) - mean_iou(np.sum(adapted[i : i + 6], axis=0)) for i in range(25)
    )
    assert max_drawdown(counts_of(adapted), counts_of(frozen), 6) == pytest.approx(expected)
    assert expected > 20
    assert max_drawdown(counts_of(frozen), counts_of(adapted), 6) == 0.0
    whole = mean_iou(np.sum(frozen, axis=0)) - mean_iou(np.sum(adapted, axis=0))
    assert max_drawdown(counts_of(adapted), counts_of(frozen), 500) == pytest.approx(whole)
    empty = counts_of(frozen[:1])
    empty = ClassCounts(*(values[:0] for values in (empty.intersection, empty.union, empty.truth)))
    assert max_drawdown(empty, empty, 6) is None


def test_history_stays_in_budget_and_keeps_sums_and_visits():
    history = ScoreHistory(CLASSES, budget_bytes=8 * (5 * CLASSES + 3) * 20)
    assert history.capacity == 20
    totals = {}
    for index in range(333):
        visit = index // 37
        counts = RNG.integers(0, 50, (5, CLASSES))
        totals[visit] = totals.get(visit, 0) + counts
        history.append(index, visit, counts)
        assert len(history) <= 20
    assert history.stride > 1
    for visit, total in totals.items():
        adapted, frozen = history.counts(visit)
        kept = [adapted.truth, adapted.intersection, adapted.union, frozen.intersection, frozen.union]
        np.testing.assert_array_equal(np.stack([values.sum(axis=0) for values in kept]), total)
    assert history.rows_of(history.stride * 3) == 3


def test_history_with_more_visits_than_rows_forgets_the_oldest():
    history = ScoreHistory(CLASSES, budget_bytes=8 * (5 * CLASSES + 3) * 4)
    for index in range(100):
        history.append(index, index, np.full((5, CLASSES), index))
    assert len(history) <= 4
    assert history.counts(99)[0].truth.tolist() == [[99] * CLASSES]


def test_history_state_round_trip_continues_identically():
    def grow(history, start, stop):
        for index in range(start, stop):
            history.append(index, index // 10, np.full((5, CLASSES), index))

    whole, first, second = (ScoreHistory(CLASSES, budget_bytes=4096) for _ in range(3))
    grow(whole, 0, 90)
    grow(first, 0, 41)
    second.load_state_dict(first.state_dict())
    grow(second, 41, 90)
    np.testing.assert_array_equal(whole.counts()[0].truth, second.counts()[0].truth)
    empty = ScoreHistory(CLASSES, budget_bytes=4096)
    empty.load_state_dict(ScoreHistory(CLASSES).state_dict())
    grow(empty, 0, 90)
    np.testing.assert_array_equal(whole.counts()[1].union, empty.counts()[1].union)
    with pytest.raises(ValueError, match="does not fit"):
        ScoreHistory(CLASSES + 1).load_state_dict(whole.state_dict())
