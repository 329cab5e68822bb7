"""Feature distance over cells that one thing class dominates (specs/hamlet.md 2.8; section 9, check 13)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from online_uda.adaptation.objectives.feature_distance import dominated_cells, feature_distance


def test_cells_against_counting_in_numpy() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (2, 3, 5)).repeat(8, axis=1).repeat(8, axis=2)
    noise = rng.random(labels.shape) < 0.3
    labels[noise] = rng.integers(0, 4, noise.sum())
    labels[:, :4] = 255
    expected = np.zeros((2, 3, 5), dtype=bool)
    for b, y, x in np.ndindex(2, 3, 5):
        block = labels[b, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
        expected[b, y, x] = any(np.mean(block == c) >= 0.75 for c in (1, 3))
    assert 0 < expected.sum() < expected.size / 2
    assert np.array_equal(dominated_cells(torch.from_numpy(labels), (3, 5), [1, 3]).numpy(), expected)


def test_share_is_inclusive_and_of_one_class() -> None:
    labels = torch.full((1, 32, 32), 6)
    labels[:, 24:] = 0
    assert dominated_cells(labels, (1, 1), [6]).item()
    labels[0, 23, 0] = 0
    assert not dominated_cells(labels, (1, 1), [6]).item()
    assert dominated_cells(labels, (1, 1), [6], min_share=0.74).item()
    labels[:, 16:] = 7
    assert not dominated_cells(labels, (1, 1), [6, 7]).item()
    assert not dominated_cells(labels, (1, 1), []).any()


def test_distance_and_gradient_in_double_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 6, 3, 4, generator=generator).requires_grad_(True)
    anchors = torch.randn(2, 6, 3, 4, generator=generator).requires_grad_(True)
    mask = torch.rand(2, 3, 4, generator=generator) < 0.4
    loss = feature_distance(features, anchors, mask)
    loss.backward()
    assert features.grad is not None
    difference = (features - anchors).detach().double().numpy()
    norms = np.sqrt((difference**2).sum(axis=1))
    inside = mask.numpy()
    assert loss.item() == pytest.approx(norms[inside].mean(), rel=1e-6)
    expected = np.where(inside[:, None], difference / norms[:, None], 0.0) / inside.sum()
    assert np.allclose(features.grad.numpy(), expected, atol=1e-7)
    assert anchors.grad is None


def test_check_13_identical_features_give_zero() -> None:
    features = torch.randn(1, 8, 4, 4, requires_grad=True)
    loss = feature_distance(features, features.detach().clone(), torch.ones(1, 4, 4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0
    assert features.grad is not None
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_check_13_empty_mask_gives_zero_and_no_gradient() -> None:
    features = torch.randn(1, 8, 4, 4, requires_grad=True)
    loss = feature_distance(features, torch.zeros(1, 8, 4, 4), torch.zeros(1, 4, 4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0
    assert features.grad is not None
    assert torch.equal(features.grad, torch.zeros_like(features))
