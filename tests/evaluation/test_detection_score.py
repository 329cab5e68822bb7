"""Matching of detections to true boundaries."""

from __future__ import annotations

from online_uda.evaluation.detection import match_detections


def test_each_boundary_is_answered_by_the_first_detection_before_the_next():
    score = match_detections([60, 120, 180], [64, 66, 121, 20], frames=240)
    assert score.delays == (4, 1, None)
    assert (score.found, score.misses, score.median_delay) == (2, 1, 2.5)
    assert score.false_alarms == (20, 66)
    assert score.false_alarms_per_1000 == 2 / 240 * 1000


def test_late_detections_count_as_false_alarms_when_a_limit_is_set():
    assert match_detections([10, 50], [49, 50], frames=100).delays == (39, 0)
    limited = match_detections([10, 50], [49, 50], frames=100, max_delay=12)
    assert (limited.delays, limited.false_alarms) == ((None, 0), (49,))


def test_stationary_and_empty_streams():
    still = match_detections([], [70], frames=1000)
    assert (still.delays, still.median_delay, still.false_alarms_per_1000) == ((), None, 1.0)
    assert match_detections([], [], frames=0).false_alarms_per_1000 is None
