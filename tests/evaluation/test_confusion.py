"""Confusion matrices against a pixel loop and torchmetrics, and properties any such matrix must have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torchmetrics.classification import MulticlassJaccardIndex

from online_uda.errors import UserError
from online_uda.evaluation.confusion import confusion_matrix, iou_per_class, mean_iou

C = 5


def pixel_loop(label, prediction, classes):
    """The definition, one pixel at a time."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    for t, p in zip(np.ravel(label), np.ravel(prediction), strict=True):
        if t != 255:
            matrix[t, p] += 1
    return matrix


@st.composite
def scored_pairs(draw):
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=9))
    ids = st.integers(0, C - 1)
    label = draw(hnp.arrays(np.uint8, shape, elements=st.one_of(ids, st.just(255))))
    return label, draw(hnp.arrays(np.uint8, shape, elements=ids))


@given(scored_pairs())
@settings(max_examples=60, deadline=None)
def test_matches_the_pixel_loop_for_numpy_and_torch(pair):
    label, prediction = pair
    expected = pixel_loop(label, prediction, C)
    assert np.array_equal(confusion_matrix(label, prediction, C), expected)
    assert np.array_equal(confusion_matrix(label.astype(np.int64), prediction.astype(np.int32), C), expected)
    tensors = torch.from_numpy(label).long(), torch.from_numpy(prediction)
    assert np.array_equal(confusion_matrix(*tensors, C), expected)
    assert np.array_equal(confusion_matrix(label, tensors[1], C), expected)
    assert np.array_equal(confusion_matrix(tensors[0], prediction, C), expected)


def test_frames_larger_than_a_strip_are_counted_whole():
    rng = np.random.default_rng(0)
    label = rng.integers(0, C, (400, 700)).astype(np.uint8)
    label[rng.random(label.shape) < 0.1] = 255
    prediction = rng.integers(0, C, label.shape).astype(np.uint8)
    valid = label != 255
    expected = np.array(
        [[np.sum((label == t) & (prediction == p) & valid) for p in range(C)] for t in range(C)], dtype=np.int64
    )
    assert np.array_equal(confusion_matrix(label, prediction, C), expected)


@given(scored_pairs(), scored_pairs())
@settings(max_examples=40, deadline=None)
def test_frames_add_up(first, second):
    together = [np.concatenate([a.ravel(), b.ravel()])[None] for a, b in zip(first, second, strict=True)]
    assert np.array_equal(confusion_matrix(*together, C), confusion_matrix(*first, C) + confusion_matrix(*second, C))


@given(scored_pairs(), st.permutations(range(C)))
@settings(max_examples=40, deadline=None)
def test_renaming_classes_renames_the_scores(pair, order):
    label, prediction = pair
    renamed = np.full(256, 255, dtype=np.uint8)
    renamed[:C] = order
    before = iou_per_class(confusion_matrix(label, prediction, C))
    after = iou_per_class(confusion_matrix(renamed[label], renamed[prediction], C))
    np.testing.assert_array_equal(after[list(order)], before)


@given(scored_pairs())
@settings(max_examples=40, deadline=None)
def test_perfect_predictor_scores_100(pair):
    label, prediction = pair
    perfect = np.where(label == 255, prediction, label).astype(np.uint8)
    score = mean_iou(confusion_matrix(label, perfect, C))
    assert np.isnan(score) if (label == 255).all() else score == 100.0


def test_agrees_with_torchmetrics_over_several_frames():
    rng = np.random.default_rng(1)
    reference = MulticlassJaccardIndex(num_classes=C, ignore_index=255)
    per_class = MulticlassJaccardIndex(num_classes=C, ignore_index=255, average=None)
    matrix = np.zeros((C, C), dtype=np.int64)
    for _ in range(4):
        label = rng.choice([0, 1, 2, 3, 4, 255], (13, 17)).astype(np.uint8)
        prediction = np.where(rng.random(label.shape) < 0.6, label % C, rng.integers(0, C, label.shape))
        prediction = prediction.astype(np.uint8)
        matrix += confusion_matrix(label, prediction, C)
        for metric in (reference, per_class):
            metric.update(torch.from_numpy(prediction).long()[None], torch.from_numpy(label).long()[None])
    assert mean_iou(matrix) == pytest.approx(100 * reference.compute().item(), abs=1e-4)
    np.testing.assert_allclose(iou_per_class(matrix), 100 * per_class.compute().numpy(), rtol=1e-5)


def test_absent_class_is_left_out_even_when_it_is_predicted():
    label = np.array([[0, 0, 1, 1]], dtype=np.uint8)
    prediction = np.array([[0, 2, 1, 1]], dtype=np.uint8)
    iou = iou_per_class(confusion_matrix(label, prediction, 3))
    np.testing.assert_array_equal(iou, [50.0, 100.0, np.nan])
    assert mean_iou(confusion_matrix(label, prediction, 3)) == 75.0


def test_without_labelled_pixels_the_score_is_nan():
    blank = np.full((2, 2), 255, dtype=np.uint8)
    assert np.isnan(mean_iou(confusion_matrix(blank, np.zeros_like(blank), 3)))


def test_bad_ids_and_sizes_are_named():
    zeros = np.zeros((2, 2), dtype=np.uint8)
    with pytest.raises(UserError, match=r"label ids \[7\].*5 classes"):
        confusion_matrix(zeros + np.uint8(7), zeros, C)
    with pytest.raises(ValueError, match=r"predicted ids \[6\]"):
        confusion_matrix(zeros, zeros + np.uint8(6), C)
    with pytest.raises(ValueError, match=r"prediction \(2, 3\) and label \(2, 2\)"):
        confusion_matrix(zeros, np.zeros((2, 3), np.uint8), C)
    for bad in (zeros.astype(np.int64) - 1, torch.from_numpy(zeros).long() + 300):
        with pytest.raises(ValueError, match=r"ids lie in 0\.\.255"):
            confusion_matrix(zeros, bad, C)
    for floats in (zeros.astype(np.float32), torch.zeros(2, 2)):
        with pytest.raises(ValueError, match="integer class ids"):
            confusion_matrix(zeros, floats, C)
    with pytest.raises(ValueError, match=r"classes must lie in 1\.\.255"):
        confusion_matrix(zeros, zeros, 256)
