"""BatchNorm between source and stream: alpha-BN, DUA and IABN against a few lines of their own in float64."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe_kit import TENT, changed, copy_of, make_recipe, play, settings_of, stream, trained
from torch import Tensor, nn

from online_uda.adaptation.norm import NormStatistics
from online_uda.adaptation.norm_mixed import alpha_moments, instance_aware_moments, soft_shrink
from online_uda.adaptation.random_views import random_views
from online_uda.adaptation.settings import NormSettings
from online_uda.networks.predictor import TorchPredictor, Wishes
from online_uda.networks.segmenter import Segmenter


def layer(channels: int = 3, seed: int = 0) -> nn.BatchNorm2d:
    generator = torch.Generator().manual_seed(seed)
    norm = nn.BatchNorm2d(channels).double().eval()
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.copy_(torch.randn(channels, generator=generator))
        norm.running_var.copy_(torch.rand(channels, generator=generator) + 0.5)
    return norm.requires_grad_(False)


def inputs(batch: int = 2, seed: int = 1) -> Tensor:
    return 2.0 * torch.randn(batch, 3, 6, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5


def answer(norm: nn.BatchNorm2d, x: Tensor, **slot: Any) -> Tensor:
    with NormStatistics(norm, NormSettings.model_validate(slot)).predicting(record=False):
        return norm(x)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
def test_alpha_mixes_source_and_frame(alpha: float) -> None:
    norm, x = layer(), inputs(1)
    mean = (1 - alpha) * norm.running_mean + alpha * x.mean((0, 2, 3))
    var = (1 - alpha) * norm.running_var + alpha * x.var((0, 2, 3), correction=0)
    expected = F.batch_norm(x, mean, var, norm.weight, norm.bias, eps=norm.eps)
    torch.testing.assert_close(answer(norm, x, statistics="alpha", alpha=alpha), expected, atol=1e-12, rtol=1e-12)
    if alpha == 1.0:
        of_batch = F.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
        torch.testing.assert_close(of_batch, expected, atol=1e-12, rtol=1e-12)


def test_alpha_lets_gradients_through_the_statistics() -> None:
    norm, x = layer(), inputs(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: answer(norm, x, statistics="alpha", alpha=0.3), (x,))


@pytest.mark.parametrize("shrink", [0.0, 1.0, 3.0])
def test_instance_aware_statistics_by_hand(shrink: float) -> None:
    """Image by image, channel by channel, with plain numbers."""
    norm, x = layer(), inputs()
    y = answer(norm, x, statistics="iabn", shrink=shrink)
    pixels = 48

    def shrunk(value: float, limit: float) -> float:
        return math.copysign(max(abs(value) - limit, 0.0), value)

    for image in range(2):
        for channel in range(3):
            values = x[image, channel].flatten().tolist()
            mean = sum(values) / pixels
            var = sum((value - mean) ** 2 for value in values) / (pixels - 1)
            own_mean, own_var = norm.running_mean[channel].item(), norm.running_var[channel].item()
            used_mean = own_mean + shrunk(mean - own_mean, shrink * math.sqrt(own_var / pixels))
            used_var = own_var + shrunk(var - own_var, shrink * own_var * math.sqrt(2 / (pixels - 1)))
            factor = norm.weight[channel].item() / math.sqrt(used_var + norm.eps)
            expected = [(value - used_mean) * factor + norm.bias[channel].item() for value in values]
            assert y[image, channel].flatten().tolist() == pytest.approx(expected, abs=1e-10)


def test_what_chance_explains_is_not_corrected() -> None:
    """Noise with the source's own moments: with 3 standard errors hardly a channel is touched, with 0 all are."""
    norm = nn.BatchNorm2d(400).double().eval()
    x = torch.randn(1, 400, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for shrink, least, most in ((3.0, 0.0, 0.02), (0.0, 1.0, 1.0)):
        mean, _ = instance_aware_moments(norm, x, shrink)
        touched = (mean.flatten() != norm.running_mean).double().mean().item()
        assert least <= touched <= most


@given(st.floats(-5, 5), st.floats(0, 5))
@settings(max_examples=50, deadline=None)
def test_soft_shrink_is_torchs(value: float, limit: float) -> None:
    found = soft_shrink(torch.tensor([value], dtype=torch.float64), torch.tensor([limit], dtype=torch.float64))
    torch.testing.assert_close(found, F.softshrink(torch.tensor([value], dtype=torch.float64), limit))


def test_dua_momentum_falls_to_its_floor() -> None:
    """Statistics of the views in train mode, as torch keeps them; the share is 0.1 * 0.94**t + 0.005."""
    network, reference = trained("batchnorm").double(), trained("batchnorm").double()
    slot = NormSettings(statistics="dua", views=3)
    norm = NormStatistics(network, slot)
    share = 0.1
    for step in range(4):
        views = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        norm.look(views)
        assert norm.absorb()
        share *= 0.94
        reference.train()
        reference.head.dropout.eval()
        for module in reference.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = share + 0.005
        with torch.no_grad():
            reference(views)
    for name, own in network.named_buffers():
        if name.endswith("running_mean") and not name.startswith("light_head"):
            torch.testing.assert_close(own, reference.get_buffer(name), atol=1e-9, rtol=1e-9)
        if name == "stages.3.1.running_var":  # torch keeps the unbiased variance, of 3 * 2 * 2 values here
            torch.testing.assert_close(own, reference.get_buffer(name), atol=0.0, rtol=0.1)
    restored = NormStatistics(network, slot)
    restored.load_state_dict(norm.state_dict())
    assert restored._next_momentum() == norm._next_momentum() == pytest.approx(0.1 * 0.94**5 + 0.005)


def test_random_views_are_windows_of_the_frame() -> None:
    frame = torch.arange(16 * 24.0).view(1, 1, 16, 24).expand(1, 3, 16, 24)
    slot = NormSettings(statistics="dua", views=12, crop=0.5)
    views = random_views(frame, slot, torch.Generator().manual_seed(0))
    assert views.shape == (12, 3, 8, 12)
    steps = {float(view[0, 0, 1] - view[0, 0, 0]) for view in views}
    assert steps == {1.0, -1.0}, "some are mirrored"
    assert len({float(view.min()) for view in views}) > 6
    assert all(float(view[0, 1, 0] - view[0, 0, 0]) == 24.0 for view in views)


@pytest.mark.parametrize("statistics", ["alpha", "iabn"])
def test_statistics_of_images_leave_no_trace(statistics: str) -> None:
    network = trained("batchnorm")
    frame = next(stream(1))
    before, plain = copy_of(network), network(frame).logits
    slot = NormSettings.model_validate(
        {"statistics": statistics, **({"momentum": 0.0} if statistics == "iabn" else {})}
    )
    norm = NormStatistics(network, slot)
    with torch.no_grad(), norm.predicting():
        assert not torch.equal(network(frame).logits, plain)
    assert not norm.moves
    assert not norm.absorb()
    assert torch.equal(network(frame).logits, plain)
    assert not changed(before, copy_of(network))


@pytest.mark.parametrize("statistics", ["alpha", "iabn"])
def test_learning_sees_the_statistics_that_predict(statistics: str) -> None:
    """The loss of TENT's step is the entropy of the very prediction it was asked about."""
    recipe = make_recipe(settings_of(TENT, norm__statistics=statistics), trained("batchnorm"))
    frame = next(stream(1))
    prediction = recipe.predict(frame)
    log_p = prediction.logits.log_softmax(1)
    entropy = -(log_p.exp() * log_p).sum(1).mean().item()
    frozen = copy.deepcopy(recipe)
    assert recipe.observe(frame, prediction).losses["entropy"] == pytest.approx(entropy, rel=2e-2)
    assert not torch.equal(frozen.student.stages[0][1].weight, recipe.student.stages[0][1].weight)


@pytest.mark.parametrize(
    ("slot", "moves"),
    [
        ({"statistics": "dua"}, True),
        ({"statistics": "dua", "views": 0}, True),
        ({"statistics": "iabn", "momentum": 0.1}, True),
        ({"statistics": "iabn", "momentum": 0.0}, False),
        ({"statistics": "alpha"}, False),
    ],
)
def test_what_follows_the_stream(slot: dict[str, Any], moves: bool) -> None:
    recipe = make_recipe(settings_of({"scope": {"parameters": "none"}, "norm": slot}), trained("batchnorm"))
    before = copy_of(recipe.student)
    reports = play(recipe, stream(3))
    moved = changed(before, copy_of(recipe.student))
    assert {report.updated for report in reports} == {moves}
    assert bool(moved) is moves
    assert all("running_" in name for name in moved)


@pytest.mark.parametrize(
    ("slot", "text"),
    [
        ({"statistics": "stream", "alpha": 0.5}, "belongs to statistics alpha, not to stream"),
        ({"statistics": "alpha", "shrink": 1.0}, "belongs to statistics iabn"),
        ({"statistics": "dua", "momentum": 0.9, "floor": 0.2}, "must not exceed 1 together"),
    ],
)
def test_keys_of_other_statistics_are_refused(slot: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        settings_of({"scope": {"parameters": "none"}, "norm": slot})


@pytest.mark.parametrize("statistics", ["alpha", "iabn", "batch", "stream", "source"])
def test_a_predictor_is_told_where_statistics_are_of_the_frame(statistics: str) -> None:
    recipe = make_recipe(settings_of(TENT, norm__statistics=statistics), trained("batchnorm"))
    told: list[Wishes] = []

    def factory(network: Segmenter, wishes: Wishes) -> TorchPredictor:
        told.append(wishes)
        return TorchPredictor(network, nullcontext)

    recipe.use_predictor(factory)
    assert (told[0].normalising is not None) is (statistics in ("alpha", "iabn", "batch"))


def test_moments_in_half_precision_are_taken_in_single() -> None:
    norm = nn.BatchNorm2d(3).eval()
    x = (inputs(1) * 50 + 300).to(torch.bfloat16)
    mean, _ = alpha_moments(norm, x.float(), 1.0)
    assert answer(norm, x, statistics="alpha", alpha=1.0).dtype == torch.bfloat16
    torch.testing.assert_close(mean.flatten(), x.float().mean((0, 2, 3)))
