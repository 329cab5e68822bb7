"""Records and summaries of a short toy run for the sinks."""

from __future__ import annotations

import numpy as np
import pytest

from online_uda.evaluation.latency import LatencyMeter
from online_uda.evaluation.prequential import PrequentialEvaluator
from online_uda.evaluation.summary import build_summary
from online_uda.reports.record import FrameImages, FrameRecord
from streams.frame import ClassSet, Truth

TOY = ClassSet("toy3", ("road", "car", "sky"), ((250, 0, 0), (0, 250, 0), (0, 0, 250)))
VISITS = ("clear", "rain", "clear")


def record_of(frame, per_visit=4, images=False, **changes):
    visit = frame // per_visit
    ids = np.full((4, 8), frame % 3, np.uint8)
    values = {
        "frame": frame,
        "domain": VISITS[visit],
        "visit": visit,
        "timestamp_s": frame / 10,
        "miou": 50.0 + frame,
        "miou_frozen": 45.0 + frame,
        "visit_miou": 52.0 + frame,
        "visit_miou_frozen": 48.5 + frame,
        "agreement": 90.0,
        "signal": 0.25 * frame,
        "detected": frame == per_visit + 1,
        "updated": frame % 2 == 0,
        "lr": 1e-3,
        "losses": {"entropy": 0.5 + frame},
        "predict_ms": 20.0,
        "frame_ms": 30.0,
        "images": FrameImages(np.full((4, 8, 3), 200, np.uint8), ids, ids, ids) if images is True else images or None,
    }
    return FrameRecord(**{**values, **changes})


@pytest.fixture
def toy_classes():
    """Three classes coloured red, green and blue."""
    return TOY


@pytest.fixture
def record():
    """Function (frame, per_visit=4, images=False, **changes) that makes a record of a clear, rain, clear stream;
    images is True for plain ones, or a FrameImages."""
    return record_of


@pytest.fixture
def toy_summary():
    """Summary of 3 visits x 10 frames: adapted 80, 60, 80 and frozen 80, 40, 80 by construction."""
    evaluator, latency = PrequentialEvaluator(TOY), LatencyMeter()
    label = np.zeros((1, 100), np.uint8)
    for index in range(30):
        visit = index // 10
        hits, hits_frozen = ((80, 80), (60, 40), (80, 80))[visit]
        adapted, frozen = (np.where(np.arange(100) < n, 0, 1).astype(np.uint8)[None] for n in (hits, hits_frozen))
        evaluator.update(index, Truth(VISITS[visit], visit, label), adapted, frozen)
        latency.record("predict", 20.0)
        latency.record("frame", 30.0 + index)
        if visit == 1:
            evaluator.note_update()
    evaluator.note_detection(13)
    return build_summary(evaluator, latency, schedule="toy", method="tent", network="tiny", seed=0)
