"""Entropy objectives: values and gradients against double-precision references (specs/methods.md, section 3)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from online_uda.adaptation.objectives.entropy import class_balance_weights, entropy_loss, pixel_entropy

CLASSES = 6
LIMIT = 0.4 * math.log(CLASSES)


def example(scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, CLASSES, 5, 7, generator=generator, dtype=torch.float64) * scale
    logits[:, 0] += 2.0
    return logits


def reference(logits: torch.Tensor, keep: bool, eta: bool, balance: float, normalised: bool) -> torch.Tensor:
    """The loss pixel by pixel, from probabilities instead of log-probabilities."""
    kept: list[tuple[torch.Tensor, int]] = []
    for pixel in logits.permute(0, 2, 3, 1).reshape(-1, CLASSES):
        p = pixel.exp() / pixel.exp().sum()
        entropy = sum(-q * q.log() for q in p)
        if not keep or entropy.item() < LIMIT:
            kept.append((entropy, int(p.argmax())))
    frequency = [sum(c == k for _, c in kept) / len(kept) for k in range(CLASSES)]
    mean_weight = sum(frequency[c] ** -balance for _, c in kept) / len(kept)
    total = torch.zeros((), dtype=torch.float64)
    for entropy, c in kept:
        weight = frequency[c] ** -balance / mean_weight
        if eta:
            weight *= math.exp(LIMIT - entropy.item())
        total = total + weight * entropy
    return total / len(kept) / (math.log(CLASSES) if normalised else 1.0)


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({}, (False, False, 0.0, False)),
        ({"normalised": True}, (False, False, 0.0, True)),
        ({"max_entropy": 0.4}, (True, False, 0.0, False)),
        ({"max_entropy": 0.4, "eta_weighting": True}, (True, True, 0.0, False)),
        ({"class_balance": 1.0}, (False, False, 1.0, False)),
        ({"class_balance": 0.5}, (False, False, 0.5, False)),
        (
            {"max_entropy": 0.4, "eta_weighting": True, "class_balance": 1.0, "normalised": True},
            (True, True, 1.0, True),
        ),
    ],
)
def test_value_and_gradient_match_the_reference(options: dict[str, Any], arguments: tuple[Any, ...]) -> None:
    ours, theirs = example().requires_grad_(True), example().requires_grad_(True)
    loss, expected = entropy_loss(ours, **options), reference(theirs, *arguments)
    torch.testing.assert_close(loss, expected, atol=1e-12, rtol=0)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-12, rtol=0)
    assert ours.grad is not None
    assert ours.grad.abs().max() > 1e-4


def test_every_option_changes_the_loss() -> None:
    options: list[dict[str, Any]] = [
        {}, {"normalised": True}, {"max_entropy": 0.4}, {"max_entropy": 0.4, "eta_weighting": True},
        {"class_balance": 1.0}, {"class_balance": 0.5},
    ]  # fmt: skip
    values = [round(entropy_loss(example(), **option).item(), 9) for option in options]
    assert len(set(values)) == len(values)


def test_known_entropies() -> None:
    assert pixel_entropy(torch.zeros(1, 4, 1, 1)).item() == pytest.approx(math.log(4))
    assert pixel_entropy(torch.tensor([1e4, 0.0, -1e4]).view(1, 3, 1, 1)).item() == 0.0
    half = torch.tensor([0.0, 0.0, -1e4, -1e4]).view(1, 4, 1, 1)
    assert pixel_entropy(half).item() == pytest.approx(math.log(2))
    assert entropy_loss(torch.zeros(1, 9, 3, 3), normalised=True).item() == pytest.approx(1.0)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-60, 60), min_size=2, max_size=12), st.floats(-100, 100))
def test_entropy_is_bounded_and_ignores_a_common_shift(values: list[float], shift: float) -> None:
    logits = torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)
    entropy = pixel_entropy(logits).item()
    assert -1e-9 <= entropy <= math.log(len(values)) + 1e-9
    assert pixel_entropy(logits + shift).item() == pytest.approx(entropy, abs=1e-9)


def test_balance_gives_every_predicted_class_the_same_say() -> None:
    predicted = torch.tensor([[[0] * 8 + [1] * 2 + [3] * 5]])
    kept = torch.ones_like(predicted, dtype=torch.bool)
    kept[0, 0, 10:14] = False
    weights = class_balance_weights(predicted, kept, 4, 1.0)[0, 0]
    assert weights[:8].sum().item() == pytest.approx(11 / 3)
    assert weights[8:10].sum().item() == pytest.approx(11 / 3)
    assert weights[10:14].tolist() == [0.0] * 4
    assert weights[14].item() == pytest.approx(11 / 3)
    assert (class_balance_weights(predicted, kept, 4, 0.0)[kept] == 1.0).all()


@pytest.mark.parametrize("options", [{}, {"eta_weighting": True}, {"class_balance": 1.0}])
def test_nothing_kept_is_zero_with_zero_gradient(options: dict[str, Any]) -> None:
    logits = torch.zeros(1, 4, 3, 3, requires_grad=True)
    loss = entropy_loss(logits, max_entropy=0.4, **options)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_half_precision_logits_are_summed_in_float32() -> None:
    loss = entropy_loss(example().bfloat16())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(entropy_loss(example()).item(), rel=0.02)


def test_eta_weighting_needs_its_limit() -> None:
    with pytest.raises(ValueError, match="max_entropy"):
        entropy_loss(example(), eta_weighting=True)
