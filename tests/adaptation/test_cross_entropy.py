"""Cross-entropy means against sums written out in double precision (specs/hamlet.md 2.7, 2.10)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from online_uda.adaptation.objectives.cross_entropy import cross_entropy


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, np.ndarray]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 4, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 5, (2, 4, 6), generator=generator)
    labels[0, :2] = 255
    weights = torch.rand(2, 4, 6, generator=generator, dtype=torch.float64)
    values = logits.numpy()
    losses = np.zeros((2, 4, 6))
    for b, y, x in np.argwhere(labels.numpy() != 255):
        losses[b, y, x] = np.log(np.exp(values[b, :, y, x]).sum()) - values[b, int(labels[b, y, x]), y, x]
    return logits, labels, weights, losses


def test_mean_over_all_counts_ignored_pixels() -> None:
    logits, labels, _, losses = example()
    assert cross_entropy(logits, labels).item() == pytest.approx(losses.sum() / 48, abs=1e-12)


def test_mean_over_valid_leaves_them_out() -> None:
    logits, labels, _, losses = example()
    assert cross_entropy(logits, labels, mean_over="valid").item() == pytest.approx(losses.sum() / 36, abs=1e-12)


def test_weights_scale_pixels_and_not_the_divisor() -> None:
    logits, labels, weights, losses = example()
    weighted = (losses * weights.numpy()).sum()
    assert cross_entropy(logits, labels, weights).item() == pytest.approx(weighted / 48, abs=1e-12)
    assert cross_entropy(logits, labels, weights, mean_over="valid").item() == pytest.approx(weighted / 36, abs=1e-12)


def test_gradient_is_probability_minus_target() -> None:
    logits, labels, weights, _ = example()
    logits.requires_grad_(True)
    cross_entropy(logits, labels, weights).backward()
    target = torch.nn.functional.one_hot(labels.where(labels != 255, 0), 5).permute(0, 3, 1, 2)
    factor = (weights * (labels != 255) / 48).unsqueeze(1)
    expected = factor * (logits.detach().softmax(dim=1) - target)
    torch.testing.assert_close(logits.grad, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("mean_over", ["all", "valid"])
def test_all_ignored_is_zero_with_zero_gradient(mean_over: Literal["all", "valid"]) -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = cross_entropy(logits, torch.full((1, 2, 2), 255, dtype=torch.uint8), mean_over=mean_over)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_half_precision_logits_are_summed_in_float32() -> None:
    logits, labels, weights, losses = example()
    loss = cross_entropy(logits.bfloat16(), labels.to(torch.uint8), weights.float())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx((losses * weights.numpy()).sum() / 48, rel=0.02)
