"""Pseudo-labels with a batch weight (specs/hamlet.md 2.7; section 9, check 12)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from online_uda.adaptation.pseudo_labels.confident_share import confident_share_labels, row_mask
from online_uda.errors import UserError


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.968])
def test_check_12_share_equals_the_counted_fraction(threshold: float) -> None:
    logits = torch.randn(2, 5, 16, 24, generator=torch.Generator().manual_seed(0)) * 4
    result = confident_share_labels(logits, threshold=threshold)
    powers = np.exp(logits.double().numpy())
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    confident = sum(
        probabilities[b, :, y, x].max() >= threshold for b in range(2) for y in range(16) for x in range(24)
    )
    assert 0 < confident < 2 * 16 * 24
    assert result.confident_share.item() == pytest.approx(confident / (2 * 16 * 24), abs=1e-7)
    assert np.array_equal(result.labels.numpy(), probabilities.argmax(axis=1))
    assert result.labels.dtype == torch.int64


def test_check_12_rows_of_a_512_high_crop() -> None:
    logits = torch.zeros(1, 3, 512, 4)
    logits[:, 1] = 50.0
    result = confident_share_labels(logits)
    assert result.confident_share == 1.0
    assert (result.weights[:, :15] == 0).all()
    assert (result.weights[:, 15:392] == 1).all()
    assert (result.weights[:, 392:] == 0).all()


def test_check_12_extremes() -> None:
    uniform = confident_share_labels(torch.zeros(1, 4, 8, 8), ignore_top=0.0, ignore_bottom=0.0)
    assert uniform.confident_share == 0.0
    assert (uniform.weights == 0.0).all()
    sure = confident_share_labels(torch.eye(4).view(1, 4, 2, 2) * 99, ignore_top=0.0, ignore_bottom=0.0)
    assert sure.confident_share == 1.0
    assert (sure.weights == 1.0).all()
    assert sure.labels.flatten().tolist() == [0, 1, 2, 3]


def test_weight_is_the_share_of_the_whole_batch() -> None:
    logits = torch.zeros(2, 2, 4, 4)
    logits[0, 0] = 99.0
    weights = confident_share_labels(logits, ignore_top=0.25, ignore_bottom=0.5).weights
    assert (weights[:, 1] == 0.5).all()
    assert (weights[:, [0, 2, 3]] == 0.0).all()


def test_rows_scale_with_the_height() -> None:
    assert row_mask(256, 15 / 512, 120 / 512).tolist() == [0.0] * 8 + [1.0] * 188 + [0.0] * 60
    assert row_mask(10, 0.0, 0.0).tolist() == [1.0] * 10


@pytest.mark.parametrize("bad", [{"threshold": 0.0}, {"threshold": 1.1}, {"ignore_top": 0.6, "ignore_bottom": 0.4}])
def test_bad_settings(bad: dict[str, float]) -> None:
    with pytest.raises(UserError):
        confident_share_labels(torch.zeros(1, 2, 4, 4), **bad)
