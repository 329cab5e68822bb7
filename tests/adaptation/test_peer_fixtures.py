"""Fixtures F1, F2, F3, F4, F11 and F13 of specs/seed-systems.md 11: numbers of the peers' functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from online_uda.adaptation.mixing import classmix_mask, mix
from online_uda.adaptation.objectives.feature_distance import dominated_cells, feature_distance
from online_uda.adaptation.objectives.pixel_contrast import cell_labels
from online_uda.adaptation.replay.rare_class import rare_class_probabilities
from online_uda.adaptation.teacher import warmed_up_rate
from online_uda.evaluation.confusion import confusion_matrix, mean_iou
from online_uda.networks.inference import InferenceSettings
from streams.classes import CITYSCAPES_19, GTA_19, SYNTHIA_16

THINGS = (6, 7, 11, 12, 13, 14, 15, 16, 17, 18)


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (0.01, [0.400688, 0.386737, 0.200774, 0.011791, 0.000010, 0.000000]),
        (0.1, [0.251334, 0.250445, 0.234553, 0.176654, 0.086963, 0.000051]),
        (1e9, [1 / 6] * 6),
    ],
)
def test_f1_rare_class_probabilities(temperature: float, expected: list[float]) -> None:
    pixels = np.array([500, 1500, 20_000, 100_000, 300_000, 2_400_000], dtype=np.float64)
    found = rare_class_probabilities(pixels / pixels.sum(), temperature)
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_f1_twenty_thousand_draws_lie_within_a_point() -> None:
    pixels = np.array([500, 1500, 20_000, 100_000, 300_000, 2_400_000], dtype=np.float64)
    probabilities = rare_class_probabilities(pixels / pixels.sum(), 0.1)
    from online_uda.adaptation.replay.rare_class import draw_index

    generator = torch.Generator().manual_seed(0)
    drawn = np.bincount([draw_index(probabilities, generator) for _ in range(20_000)], minlength=6) / 20_000
    assert np.abs(drawn - probabilities).max() < 0.01


def test_f2_label_maps() -> None:
    x = 255
    assert list(GTA_19.raw) == [
        x, x, x, x, x, x, x, 0, 1, x, x, 2, 3, 4, x, x, x, 5, x, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, x, x, 16, 17, 18,
        x, x,
    ]  # fmt: skip
    published = [x, 10, 2, 0, 1, 4, 8, 5, 13, 7, 11, 18, 17, x, x, 6, 9, 12, 14, 15, 16, 3, x, x, x]
    kept = [CITYSCAPES_19.names.index(name) for name in SYNTHIA_16.names]
    back = [x if new == x else kept[new] for new in SYNTHIA_16.raw]
    assert back == [old if old in kept else x for old in published]


def test_f3_cells_distance_and_teacher_factor() -> None:
    label = torch.full((1, 16, 16), 13)
    label[0, :, 8:], label[0, :4, :8], label[0, 8:10, :8] = 0, 255, 0
    assert cell_labels(label, (2, 2), 19, 0.749).tolist() == [[[255, 0], [13, 0]]]
    mask = dominated_cells(label, (2, 2), THINGS, 0.75)
    assert mask.tolist() == [[[False, False], [True, False]]]
    drawn = torch.Generator().manual_seed(0)
    one, two = torch.randn(1, 4, 2, 2, generator=drawn), torch.randn(1, 4, 2, 2, generator=drawn)
    assert one[0, :, 1, 0].tolist() == pytest.approx([-0.250578582, -0.316012770, 0.349983186, 1.116777182], abs=1e-6)
    found = feature_distance(one, two, mask)
    assert found.item() == pytest.approx(0.9856448173522949, abs=1e-6)
    assert 0.005 * found.item() == pytest.approx(0.004928224086761475, abs=1e-8)
    assert feature_distance(one, two, torch.zeros_like(mask)).item() == 0.0
    factors = [warmed_up_rate(step, 0.999) for step in (1, 10, 999, 5000)]
    assert factors == pytest.approx([0.5, 0.9090909, 0.999, 0.999], abs=1e-7)


def test_f4_mean_iou_leaves_out_what_is_not_labelled() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 19, (2, 64, 96))
    right = generator.random((2, 64, 96)) < 0.7
    prediction = np.where(right, truth, generator.integers(0, 19, (2, 64, 96)))
    truth[:, :6] = 255
    matrix = sum(confusion_matrix(truth[row], prediction[row], 19) for row in range(2))
    assert np.diag(matrix)[:5].tolist() == [437, 399, 424, 451, 385]
    assert int(np.diag(matrix).sum()) == 7965
    assert mean_iou(matrix) / 100 == pytest.approx(0.556374747, abs=1e-8)


def test_f11_a_mixture_is_source_or_target_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 6, (2, 32, 32), generator=generator)
    labels[0, :4] = 255
    mask = classmix_mask(labels, 0.5, generator)
    for row in range(2):
        present = torch.unique(labels[row])
        assert len(torch.unique(labels[row][mask[row]])) == (len(present) + 1) // 2
    source, target = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    pseudo, weights = torch.randint(0, 6, (2, 32, 32)), torch.rand(2, 32, 32)
    mixed = mix(mask, source, labels, target, pseudo, weights)
    assert torch.equal(mixed.images, torch.where(mask.unsqueeze(1), source, target))
    assert torch.equal(mixed.labels, torch.where(mask, labels, pseudo))


def test_f13_windows() -> None:
    """(x0, y0, x1, y1) of 100 x 150, tile 64, overlap 1/3; 14 passes of 2048 x 1024 at three scales, mirrored."""
    slide = InferenceSettings(mode="slide", tile=(64, 64), overlap=1 / 3)
    found = [(left, top, right, bottom) for top, left, bottom, right in slide.boxes((100, 150), 1.0, (100, 150))]
    assert sorted(found) == [
        (0, 0, 64, 64), (0, 36, 64, 100), (43, 0, 107, 64), (43, 36, 107, 100), (86, 0, 150, 64), (86, 36, 150, 100),
    ]  # fmt: skip
    full = InferenceSettings(mode="slide", tile=(1024, 1024), overlap=1 / 3, scales=(0.5, 1.0, 2.0), flip=True)
    assert full.forwards((1024, 2048)) == 14
