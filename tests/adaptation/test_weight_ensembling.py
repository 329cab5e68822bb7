"""ROID and CMF in pixels: weights, losses, the filtered way back and the prior, against plain numbers (<= 1e-6)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from recipe_kit import KINDS, changed, copy_of, make_recipe, play, settings_of, stream, trained
from torch import Tensor, nn

from online_uda.adaptation.likelihood_step import diversity_certainty_weights
from online_uda.adaptation.objectives.soft import soft_likelihood_ratio, symmetric_cross_entropy
from online_uda.adaptation.photometric import PhotometricAugmentation
from online_uda.adaptation.prior import corrected_by_prior
from online_uda.networks.segmenter import Segmentation, Segmenter

RATE = 0.05
ROID: dict[str, Any] = {
    "norm": {"statistics": "batch"},
    "scope": {"parameters": "norm"},
    "optimizer": {"name": "sgd", "learning_rate": RATE, "momentum": 0.0},
    "anchor": {"pull": 0.2},
    "objectives": {"likelihood": {"consistency": 0.7}},
}


def frame(seed: int = 50) -> Tensor:
    return next(stream(1, seed=seed)).double()


def double(kind: str) -> Segmenter:
    network = trained(kind).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
            module.track_running_stats = False
        if isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            module.requires_grad_(True)
    network.light_head.requires_grad_(False)
    return network


def by_hand(p: Tensor, mean: list[float], temperature: float) -> list[float]:
    """ROID's weights pixel by pixel with plain numbers."""
    pixels = p.permute(0, 2, 3, 1).reshape(-1, p.shape[1]).tolist()
    length = math.sqrt(sum(m * m for m in mean))
    diversity, certainty = [], []
    for pixel in pixels:
        dot = sum(q * m for q, m in zip(pixel, mean, strict=True))
        diversity.append(1 - dot / length / math.sqrt(sum(q * q for q in pixel)))
        certainty.append(sum(q * math.log(q) for q in pixel))

    def unit(values: list[float]) -> list[float]:
        return [(value - min(values)) / (max(values) - min(values)) for value in values]

    diversity, certainty = unit(diversity), unit(certainty)
    average = sum(diversity) / len(diversity)
    return [math.exp(d * c / temperature) if d >= average else 0.0 for d, c in zip(diversity, certainty, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
def test_roid(kind: str) -> None:
    """The recoloured frame is the recipe's own draw; everything else is written out."""
    network, x = double(kind), frame()
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    start = {name: network.get_parameter(name).detach().clone() for name in names}
    logits = network(x).logits
    p = logits.exp() / logits.exp().sum(1, keepdim=True)
    w = torch.tensor(by_hand(p.detach(), [1 / 11] * 11, 1 / 3), dtype=torch.float64).view(p[:, 0].shape)
    assert 0 < (w == 0).sum() < w.numel()
    clipped = p.clamp(0.01, 0.99)
    ratio = -(clipped * (clipped / (1 - clipped)).log()).sum(1)
    augment = PhotometricAugmentation(0.2, 0.2, 0.2, 0.2, 1.0, 0.5)
    other = network(augment(x, torch.Generator().manual_seed(0))).logits
    q, taught = other.exp() / other.exp().sum(1, keepdim=True), p.detach()
    consistency = -0.5 * (taught * q.log() + q * taught.log()).sum(1)
    loss = (w * ratio).mean() + 0.7 * (w * consistency).mean()
    gradients = torch.autograd.grad(loss, [network.get_parameter(name) for name in names])
    recipe = make_recipe(settings_of(ROID), trained(kind).double())
    report = recipe.observe(x, recipe.predict(x))
    assert report.losses["likelihood"] == pytest.approx(loss.item(), abs=1e-8)
    for name, gradient in zip(names, gradients, strict=True):
        there = start[name] - RATE * gradient
        torch.testing.assert_close(recipe.student.get_parameter(name), 0.8 * there + 0.2 * start[name], atol=1e-6,
                                   rtol=0.0)  # fmt: skip
    assert max(float(g.abs().max()) for g in gradients) > 1e-4


def test_weights_of_the_second_frame_meet_the_mean_of_the_first() -> None:
    recipe = make_recipe(settings_of(ROID), trained("batchnorm").double())
    prediction = recipe.predict(frame())
    p = prediction.logits.softmax(1).mean((0, 2, 3))
    recipe.observe(frame(), prediction)
    objective: Any = recipe._gradients._of_the_frame["likelihood"]
    torch.testing.assert_close(objective._mean.mean, 0.9 / 11 + 0.1 * p, atol=1e-6, rtol=1e-6)


def test_a_frame_of_one_answer_has_finite_weights() -> None:
    """The published scaling is 0 / 0 there."""
    logits = torch.zeros(1, 5, 4, 4, dtype=torch.float64)
    assert diversity_certainty_weights(logits, torch.full((5,), 0.2), 1 / 3).isfinite().all()


def test_likelihood_ratio_passes_no_gradient_where_it_is_clipped() -> None:
    logits = torch.tensor([[9.0, 0.0], [0.5, 0.0]], dtype=torch.float64).T.view(1, 2, 1, 2).requires_grad_()
    value = soft_likelihood_ratio(logits, 0.99)
    value.sum().backward()
    assert logits.grad is not None
    assert logits.grad[..., 0].abs().max() == 0.0
    assert logits.grad[..., 1].abs().max() > 0.1
    p = math.exp(0.5) / (1 + math.exp(0.5))
    expected = -(p * math.log(p / (1 - p)) + (1 - p) * math.log((1 - p) / p))
    assert value[0, 0, 1].item() == pytest.approx(expected, abs=1e-12)


def test_symmetric_cross_entropy_is_symmetric() -> None:
    one, two = (torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))
    torch.testing.assert_close(symmetric_cross_entropy(one, two), symmetric_cross_entropy(two, one))
    p, q = one.softmax(1), two.softmax(1)
    torch.testing.assert_close(symmetric_cross_entropy(one, two), -0.5 * (p * q.log() + q * p.log()).sum(1))


def test_cmf_filters_one_number_by_hand() -> None:
    """Three steps of the hidden model, and what is blended into the weights, for every single weight."""
    a, q, low, high, g = 0.9, 0.05, 0.3, 0.95, 0.6
    kalman = {"drift": a, "noise": q, "gain": [low, high], "blend": g}
    recipe = make_recipe(settings_of(ROID, anchor={"kalman": kalman}), trained("batchnorm").double())
    free = make_recipe(settings_of(ROID, anchor={}), trained("batchnorm").double())
    name = "stages.0.1.weight"
    source = recipe.student.get_parameter(name).detach().clone()
    hidden, variance = source.clone(), 0.0
    for seed in (50, 51, 52):
        state = free.state_dict()
        state["student"] = recipe.state_dict()["student"]
        free.load_state_dict(state)
        for one in (recipe, free):
            play(one, iter([frame(seed)]))
        weights = free.student.get_parameter(name).detach()
        hidden = a * hidden + (1 - a) * source
        variance = a * a * variance + q
        gain = min(max((1 - q) / (variance + 1 - q), low), high)
        hidden = gain * hidden + (1 - gain) * weights
        variance *= gain
        torch.testing.assert_close(recipe.student.get_parameter(name), g * weights + (1 - g) * hidden, atol=1e-6,
                                   rtol=0.0)  # fmt: skip
    assert not torch.equal(hidden, source)


@pytest.mark.parametrize(("key", "value"), [("drift", 0.5), ("noise", 0.5), ("gain", [0.1, 0.2]), ("blend", 0.5)])
def test_every_option_of_the_filter_counts(key: str, value: Any) -> None:
    base = {"drift": 0.9, "noise": 0.05, "gain": [0.89, 0.9999], "blend": 0.8}
    students = []
    for slot in (base, {**base, key: value}):
        recipe = make_recipe(settings_of(ROID, anchor={"kalman": slot}), trained("batchnorm"))
        play(recipe, stream(3))
        students.append(copy_of(recipe.student))
    assert changed(*students)


@pytest.mark.parametrize(
    ("key", "value"),
    [("weight", 2.0), ("clip", 0.7), ("temperature", 2.0), ("rate", 0.9), ("consistency", 0.0),
     ("jitter_strength", 0.6), ("blur_probability", 0.0)],
)  # fmt: skip
def test_every_option_of_the_objective_counts(key: str, value: float) -> None:
    students = []
    for changes in ({"blur_probability": 1.0}, {"blur_probability": 1.0, key: value}):
        recipe = make_recipe(settings_of(ROID, objectives__likelihood=changes), trained("batchnorm"))
        play(recipe, stream(2))
        students.append(copy_of(recipe.student))
    assert changed(*students)


def test_prior_correction_weighs_answers_by_what_the_frame_holds() -> None:
    recipe = make_recipe(settings_of(ROID, prior_correction=True), trained("batchnorm"))
    plain = make_recipe(settings_of(ROID), trained("batchnorm"))
    x = next(stream(1))
    found, without = recipe.predict(x), plain.predict(x)
    p = without.logits.softmax(1)
    mean = p.mean((0, 2, 3))
    smooth = 1 / 11 / mean.max()
    expected = p * ((mean + smooth) / (1 + 11 * smooth)).view(1, -1, 1, 1)
    expected = expected / expected.sum(1, keepdim=True)
    torch.testing.assert_close(found.logits.softmax(1), expected, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(found.logits.softmax(1), p, atol=1e-4)
    assert torch.equal(found.labels(), found.full().argmax(1).to(torch.uint8))


def test_correction_of_an_even_frame_changes_nothing() -> None:
    output = Segmentation(torch.randn(1, 3, 2, 2), (), (8, 8), (8, 8))
    even = torch.cat([output.logits.roll(shift, 1) for shift in range(3)], dim=3)
    corrected = corrected_by_prior(Segmentation(even, (), (8, 24), (8, 24)))
    torch.testing.assert_close(corrected.logits.softmax(1), even.softmax(1))
