"""CoTTA, its filters, masks and views: one update against a few lines of its own, in float64 (<= 1e-6)."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recipe_kit import KINDS, changed, copy_of, make_recipe, play, settings_of, stream, trained
from torch import Tensor

from online_uda.adaptation.patch_mask import masked_patches
from online_uda.adaptation.pieces import finish
from online_uda.adaptation.recipe import Recipe
from online_uda.adaptation.settings.objectives import ViewSettings
from online_uda.adaptation.views import fused_probabilities, view_size

RATE, KEEP, BACK = 0.05, 0.9, 0.3
COTTA: dict[str, Any] = {
    "scope": {"parameters": "all"},
    "optimizer": {"name": "sgd", "learning_rate": RATE, "momentum": 0.0},
    "anchor": {"restore": BACK},
    "teacher": {"cap": KEEP, "warm_up": False, "follows": "after"},
    "deploy": "teacher",
    "objectives": {"taught": {"views": {"scales": [1.0, 0.5], "flip": True}, "trust": "anchor", "confidence": 0.5}},
}


def frame(seed: int = 50) -> Tensor:
    return next(stream(1, seed=seed)).double()


def softmax(logits: Tensor) -> Tensor:
    return logits.exp() / logits.exp().sum(1, keepdim=True)


def views_by_hand(network: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Native, and the mean of native, mirrored, half size and half size mirrored; 64 x 128 stays 64 high at half."""
    native = softmax(network(x).logits)
    small = F.interpolate(x, (64, 64), mode="bilinear")
    answers = [native, softmax(network(x.flip(-1)).logits.flip(-1))]
    for mirrored in (False, True):
        logits = network(small.flip(-1) if mirrored else small).logits
        logits = logits.flip(-1) if mirrored else logits
        answers.append(softmax(F.interpolate(logits, native.shape[-2:], mode="bilinear")))
    return native, sum(answers) / 4


@pytest.mark.parametrize("kind", KINDS)
def test_cotta(kind: str) -> None:
    """Two frames, so that teacher, student and source differ; the restored weights are those drawn."""
    network = trained(kind).double()
    student, teacher, source = network.requires_grad_(True), trained(kind).double(), trained(kind).double()
    student.light_head.requires_grad_(False)
    recipe = make_recipe(settings_of(COTTA), trained(kind).double())
    names = [name for name, parameter in student.named_parameters() if parameter.requires_grad]
    generator = torch.Generator().manual_seed(0)
    for seed in (50, 51):
        x = frame(seed)
        with torch.no_grad():
            torch.testing.assert_close(recipe.predict(x).logits, teacher(x).logits, atol=1e-6, rtol=0.0)
            native, mean = views_by_hand(teacher, x)
            sure = softmax(source(x).logits).amax(1, keepdim=True) > 0.5
            assert 0 < sure.sum() < sure.numel()
            label = torch.where(sure, native, mean).argmax(1)
        loss = F.cross_entropy(student(x).logits, label)
        gradients = torch.autograd.grad(loss, [student.get_parameter(name) for name in names])
        report = recipe.observe(x, recipe.predict(x))
        assert report.losses["taught"] == pytest.approx(loss.item(), abs=1e-9)
        with torch.no_grad():
            for name, gradient in zip(names, gradients, strict=True):
                own = student.get_parameter(name)
                own -= RATE * gradient
                teacher.get_parameter(name).copy_(KEEP * teacher.get_parameter(name) + (1 - KEEP) * own)
            for name in names:
                own = student.get_parameter(name)
                drawn = torch.rand(own.shape, generator=generator) < BACK
                own.copy_(torch.where(drawn, source.get_parameter(name), own))
    assert recipe.teacher is not None
    for name in names:
        for found, expected in ((recipe.student, student), (recipe.teacher.module, teacher)):
            torch.testing.assert_close(found.get_parameter(name), expected.get_parameter(name), atol=1e-6, rtol=0.0)
    assert changed(copy_of(source), copy_of(recipe.student))


@pytest.mark.parametrize("size", [(64, 128), (70, 101), (100, 150)])
def test_mirrored_and_scaled_answers_lie_where_the_native_ones_do(size: tuple[int, int]) -> None:
    """A network that says how bright a pixel is gives the same answer in every view, odd sizes and padding included."""
    network = trained("batchnorm")

    def bright(x: Tensor) -> Any:
        output = network(x)
        grey = F.pad(x.mean(1, keepdim=True), (0, output.padded[1] - x.shape[-1], 0, output.padded[0] - x.shape[-2]),
                     mode="replicate")  # fmt: skip
        small = F.interpolate(grey, output.logits.shape[-2:], mode="area")
        return type(output)(torch.cat([4 * small, 2 - 4 * small], 1), (), output.size, output.padded)

    y, x = torch.meshgrid(torch.linspace(0, 1, size[0]), torch.linspace(0, 1, size[1]), indexing="ij")
    frames = (0.6 * x + 0.3 * y).expand(1, 3, *size)
    native, mean = finish(
        fused_probabilities(bright, frames, ViewSettings(scales=(0.75, 1.0, 1.5), flip=True), 64, "test")
    )
    inside = (slice(None), slice(None), slice(1, size[0] // 4 - 1), slice(1, size[1] // 4 - 1))
    torch.testing.assert_close(mean[inside], native[inside], atol=0.02, rtol=0.0)
    assert not torch.equal(mean, native)


def test_how_many_answers_and_of_which_size() -> None:
    for scales, flip, count in (((1.0,), False, 1), ((1.0,), True, 2), ((0.5,), False, 2), ((0.5,), True, 3)):
        asked: list[tuple[int, ...]] = []

        def answer(x: Tensor, asked: list[tuple[int, ...]] = asked) -> Any:
            asked.append(tuple(x.shape[-2:]))
            return trained("batchnorm")(x)

        slot = ViewSettings(scales=scales, flip=flip)
        finish(fused_probabilities(answer, torch.rand(1, 3, 128, 192), slot, 64, "t"))
        assert len(asked) == count == slot.count
    cotta = ViewSettings(scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0), flip=True)
    assert cotta.count == 14
    assert view_size((360, 480), 0.75, 64) == (256, 384)


def one_step(**changes: Any) -> Recipe:
    changes = {"objectives__taught__labels": "soft", **changes}
    recipe = make_recipe(settings_of(COTTA, **changes), trained("batchnorm"))
    play(recipe, stream(5))
    return recipe


@functools.cache
def plain() -> dict[str, Tensor]:
    return copy_of(one_step().student)


OPTIONS: list[tuple[str, Any]] = [
    ("objectives__taught__views__scales", [1.0]),
    ("objectives__taught__views__flip", False),
    ("objectives__taught__trust", "views"),
    ("objectives__taught__trust", "better"),
    ("objectives__taught__confidence", 0.99),
    ("objectives__taught__labels", "hard"),
    ("objectives__taught__loss", "symmetric"),
    ("objectives__taught__mask", {"share": 0.5, "patch": 16}),
    ("objectives__taught__weight", 0.5),
    ("teacher__warm_up", True),
    ("teacher__follows", "before"),
    ("anchor__restore", 0.0),
]


@pytest.mark.parametrize(("name", "value"), OPTIONS, ids=[f"{name}={value}" for name, value in OPTIONS])
def test_every_option_moves_the_step(name: str, value: Any) -> None:
    assert changed(plain(), copy_of(one_step(**{name: value}).student))


def test_becottas_filter_and_symmetric_loss() -> None:
    """Native where the teacher is sure, and not less sure than the source; the symmetric loss of soft labels."""
    data = copy.deepcopy(COTTA)
    data["objectives"]["taught"] |= {"trust": "better", "labels": "soft", "loss": "symmetric"}
    recipe = make_recipe(settings_of(data, anchor__restore=0.0, teacher__cap=0.0), trained("batchnorm").double())
    play(recipe, iter([frame()]))
    assert recipe.teacher is not None
    with torch.no_grad():
        native, mean = views_by_hand(recipe.teacher.module, frame(51))
        source = softmax(trained("batchnorm").double()(frame(51)).logits).amax(1, keepdim=True)
        own = native.amax(1, keepdim=True)
        q = torch.where((own > 0.5) & (own >= source), native, mean)
        p = softmax(recipe.student(frame(51)).logits)
        expected = 0.5 * (-(q * p.log()).sum(1) - (p * q.log()).sum(1)).mean()
    assert recipe.observe(frame(51), recipe.predict(frame(51))).losses["taught"] == pytest.approx(
        expected.item(), abs=1e-9
    )


def test_masked_patches_hide_whole_squares() -> None:
    frames = torch.rand(1, 3, 70, 100)
    fill = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    masked, hidden = masked_patches(frames, 0.5, 16, fill, torch.Generator().manual_seed(0))
    assert torch.equal(masked[..., ~hidden], frames[..., ~hidden])
    assert torch.equal(masked[0, :, hidden], fill.view(3, 1).expand(-1, int(hidden.sum())))
    assert hidden[:16, :16].float().mean().item() in (0.0, 1.0)
    assert 0.2 < hidden.float().mean() < 0.8
    assert not masked_patches(frames, 0.0, 16, fill, torch.Generator())[1].any()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"objectives__taught__views": {}}, "chooses between one view and several"),
    ({"objectives__taught__loss": "symmetric"}, "set labels to soft"),
    ({"teacher": None, "deploy": "student"}, "needs the slot teacher"),
    ({"objectives__taught": None, "objectives__entropy": {}, "deploy": "student"}, "add one or drop it"),
]


@pytest.mark.parametrize(("changes", "text"), REFUSED, ids=[text for _, text in REFUSED])
def test_what_cannot_work_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        settings_of(COTTA, **changes)
