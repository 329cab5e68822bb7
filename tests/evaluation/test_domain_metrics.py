"""Scores over visits, each against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from online_uda.evaluation import domain_metrics as metrics
from online_uda.evaluation.prequential import VisitScore


def matrix(*ious_percent):
    """A matrix whose class IoUs are exactly these: misses go to an extra class without truth. 0 pixels for None."""
    counts = np.zeros((len(ious_percent) + 1,) * 2, dtype=np.int64)
    for i, iou in enumerate(ious_percent):
        if iou is not None:
            counts[i, i], counts[i, -1] = 10 * iou, 1000 - 10 * iou
    return counts


def visit(domain, number, adapted, frozen, **more):
    adapted, frozen = (scores if isinstance(scores, tuple) else (scores,) for scores in (adapted, frozen))
    return VisitScore(domain, number, 10 * number, matrix(*adapted), matrix(*frozen), frames=10, **more)


STORM = [
    visit("clear", 0, 60, 60, scored=10, harmed=0, below=0),
    visit("rain", 1, 50, 30, scored=10, harmed=1, below=2),
    visit("night", 2, None, None),
    visit("fog", 3, 38, 40, scored=10, harmed=6, below=8),
    visit("rain", 4, 55, 30, scored=10, harmed=0, below=0),
    visit("clear", 5, 57, 60, scored=10, harmed=3, below=5),
]


def test_means_over_labelled_visits():
    adapted, frozen = [60, 50, 38, 55, 57], [60, 30, 40, 30, 60]
    result = metrics.means(STORM)
    assert result["mean"] == pytest.approx(52)
    assert result["mean_frozen"] == pytest.approx(44)
    assert result["hmean"] == pytest.approx(5 / sum(1 / a for a in adapted))
    assert result["hmean_frozen"] == pytest.approx(5 / sum(1 / f for f in frozen))
    assert result["hmean_delta"] == pytest.approx(result["hmean"] - result["hmean_frozen"])
    assert result["mean_delta"] == pytest.approx(8)


def test_harmonic_mean_limits():
    assert metrics.harmonic_mean([50.0, 0.0]) == 0.0
    assert metrics.harmonic_mean([]) is None
    assert metrics.harmonic_mean([40.0] * 3) == pytest.approx(40)


def test_forward_is_the_first_visit_and_backward_the_second():
    forward, backward = metrics.direction(STORM, 0), metrics.direction(STORM, 1)
    assert {d: v["miou"] for d, v in forward["domains"].items()} == pytest.approx({"clear": 60, "rain": 50, "fog": 38})
    assert {d: v["miou"] for d, v in backward["domains"].items()} == pytest.approx({"rain": 55, "clear": 57})
    assert forward["mean"] == pytest.approx((60 + 50 + 38) / 3)
    assert backward["hmean"] == pytest.approx(2 / (1 / 55 + 1 / 57))
    assert backward["mean_frozen"] == pytest.approx(45)
    assert metrics.direction(STORM, 2)["hmean"] is None


def test_worst_visit_of_each_network():
    assert metrics.worst(STORM) == {"domain": "fog", "visit": 3, "miou": 38.0, "miou_frozen": 40.0}
    worst_frozen = metrics.worst(STORM, frozen=True)
    assert worst_frozen is not None
    assert (worst_frozen["domain"], worst_frozen["visit"]) == ("rain", 1)


def test_return_gap_and_home_change():
    gap = metrics.return_gap(STORM)
    assert gap == {
        "rain": {"adapted": pytest.approx(5), "frozen": 0.0},
        "clear": {"adapted": pytest.approx(-3), "frozen": 0.0},
    }
    home = metrics.last_minus_first(STORM)
    assert home == {"domain": "clear", "first": 0, "last": 5, "adapted": pytest.approx(-3), "frozen": 0.0}
    assert metrics.last_minus_first(STORM[:3]) is None


def test_harm_shares():
    result = metrics.harm(STORM, 4.5, 50)
    assert result["frame_share"] == pytest.approx(10 / 50)
    assert result["frames_below_frozen"] == 15
    assert result["visit_share"] == pytest.approx(2 / 5)
    assert result["worst_visit_gain"] == pytest.approx(-3)
    assert (result["max_drawdown"], result["drawdown_window"], result["margin"]) == (4.5, 50, 1.0)


def test_per_class_change_over_the_run():
    visits = [
        visit("clear", 0, (80, 40), (80, 40)),
        visit("rain", 1, (70, None), (50, None)),
        visit("clear", 2, (82, 25), (80, 40)),
    ]
    table = metrics.per_class(visits, ("road", "bike", "void"))
    assert list(table) == ["road", "bike"]
    # Every class has 1000 pixels of truth a visit and no false positives, so pooled IoU is the plain mean.
    assert table["road"] == pytest.approx(
        {
            "iou": (80 + 70 + 82) / 3, "iou_frozen": 70, "delta": 22 / 3,
            "worst_visit_iou": 70, "worst_visit_delta": 0, "last_minus_first": 2,
        }
    )  # fmt: skip
    assert table["bike"]["worst_visit_delta"] == pytest.approx(-15)
    assert table["bike"]["last_minus_first"] == pytest.approx(-15)
    assert metrics.per_class(visits[:1], ("road", "bike", "void"))["road"]["last_minus_first"] is None


def test_domain_time_matrix_has_a_row_a_visit():
    result = metrics.domain_time_matrix(STORM)
    assert result["domains"] == ["clear", "rain", "night", "fog"]
    assert result["rows"][1] == [None, pytest.approx(50), None, None]
    assert result["rows"][2] == [None] * 4
    assert len(result["rows"]) == 6


def test_overall_score_pools_all_frames():
    adapted, frozen = metrics.overall_miou(STORM)
    assert adapted == pytest.approx(52)
    assert frozen == pytest.approx(44)


def test_nothing_labelled_gives_none_everywhere():
    blank = [visit("camera", 0, None, None)]
    assert set(metrics.means(blank).values()) == {None}
    assert metrics.worst(blank) is None
    assert metrics.return_gap(blank) == {}
    assert metrics.last_minus_first(blank) is None
    assert metrics.per_class(blank, ("a",)) == {}
    assert metrics.overall_miou(blank) == (None, None)
    assert metrics.harm(blank, None, 50)["visit_share"] is None
