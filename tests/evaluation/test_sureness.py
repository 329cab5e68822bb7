"""Right and wrong by probability: against a loop over pixels, at the places of a label, as TensorBoard reads it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from online_uda.evaluation.sureness import BINS, curve, right_and_wrong
from online_uda.networks.segmenter import Segmentation
from online_uda.reports.record import FrameImages, FrameRecord
from online_uda.reports.tensorboard import TensorBoardSink
from online_uda.runtime.scoring import Scorer
from streams.classes import CAMVID_11
from streams.frame import Truth


def test_counts_are_those_of_a_loop() -> None:
    generator = np.random.default_rng(0)
    probability = generator.uniform(0, 1, (9, 7)).astype(np.float32)
    probability[0, 0] = 1.0
    answer, truth = generator.integers(0, 3, (9, 7)), generator.integers(0, 3, (9, 7)).astype(np.uint8)
    truth[2] = 255
    wanted = np.zeros((2, BINS), np.int64)
    for p, a, t in zip(probability.flat, answer.flat, truth.flat, strict=True):
        if t != 255:
            wanted[int(a != t), int(p * np.float32(100))] += 1
    found = right_and_wrong(probability, answer, truth)
    np.testing.assert_array_equal(found, wanted)
    rows = curve(found)
    for k in (0, 37, 100):
        kept = (probability * np.float32(100) >= k) & (truth != 255)
        right = (answer == truth) & kept
        assert rows[0, k] == right.sum()
        assert rows[1, k] == (kept & ~right).sum()
        assert rows[:4, k].sum() == (truth != 255).sum()
        assert rows[4, k] == pytest.approx(right.sum() / max(kept.sum(), 1) if kept.any() else 1.0)
        assert rows[5, k] == pytest.approx(right.sum() / wanted[0].sum())


def test_a_prediction_is_compared_with_the_truth_at_its_places() -> None:
    """A frame of 40 x 64, padded to 64 x 64, and a label of twice the size: left class 1, right class 2."""
    logits = torch.full((1, 11, 16, 16), -9.0)
    logits[:, 1, :, :8] = 9.0
    logits[:, 2, :, 8:] = 9.0
    label = np.ones((80, 128), np.uint8)
    label[:, 64:] = 2
    label[:40] = 3
    prediction = Segmentation(logits, (), (40, 64), (64, 64))
    counts = Scorer.sureness(prediction, Truth("x", 0, label))
    assert counts is not None
    # Rows 2, 10, 18, 26, 34 of the frame: the first three lie in the half where nothing is right.
    assert counts.sum(axis=1).tolist() == [2 * 8, 3 * 8]
    assert counts[:, 99:].sum() == 5 * 8
    assert Scorer.sureness(prediction, Truth("x", 0, None)) is None


def test_tensorboard_has_a_curve_a_visit(tmp_path) -> None:
    ids = np.zeros((4, 8), np.uint8)
    counts = np.zeros((2, BINS), np.int64)
    counts[0, 90], counts[1, 40] = 30, 10
    with TensorBoardSink(tmp_path, CAMVID_11) as sink:
        for frame in range(6):
            images = FrameImages(np.zeros((4, 8, 3), np.uint8), ids, ids, ids, counts)
            sink.write(FrameRecord(frame, "ab"[frame // 3], frame // 3, images=images))
        sink._end_visit()
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0})
    events.Reload()
    for domain, last in (("a", 2), ("b", 5)):
        (event,) = events.Tensors(f"{domain}/confidence")
        assert event.step == last
        rows = tensor_util.make_ndarray(event.tensor_proto)
        assert rows.shape == (6, BINS)
        assert rows[0, 0] == 90
        assert rows[4, 0] == pytest.approx(0.75)
        assert rows[4, 41] == 1.0
        assert rows[5, 91] == 0.0
    assert events.SummaryMetadata("a/confidence").plugin_data.plugin_name == "pr_curves"
