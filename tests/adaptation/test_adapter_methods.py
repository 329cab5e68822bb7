"""vida, becotta and hybrid_tta as shipped, against a few lines of their own: weights after several frames (<= 1e-6).

By hand the adapters do not exist: the plain network runs with ``W + sum s B A`` in place of its weights. Views, rates
and statistics are set so that three frames of a tiny network show something; every other setting is the file's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recipe_kit import KINDS, make_recipe, trained
from recipe_kit import stream as frames_of
from torch import Tensor
from torch.func import functional_call

from online_uda.adaptation.recipe import Recipe
from online_uda.adaptation.settings import MethodSettings
from streams.yaml_config import build, load_yaml

METHODS = Path(__file__).parents[2] / "configs" / "methods"
RATE, KEEP = 3e-3, 0.9
COMMON = (f"optimizer.learning_rate={RATE}", f"teacher.cap={KEEP}", "norm.statistics=source")


def settings(name: str, *overrides: str) -> MethodSettings:
    return build(MethodSettings, load_yaml(METHODS / f"{name}.yaml"), [*COMMON, *overrides])


class ByHand:
    """A student with adapters multiplied into its weights, Adam, and a teacher."""

    def __init__(self, recipe: Recipe, kind: str) -> None:
        self.net = trained(kind).double()
        self.source, self.teacher = trained(kind).double(), trained(kind).double()
        self.weights = {name: p.detach().clone() for name, p in recipe.student.named_parameters()}
        self.start = {name: p.clone() for name, p in self.weights.items()}
        self.moments: dict[str, list[Any]] = {}

    def effective(self) -> dict[str, Tensor]:
        """Weights of the plain network."""
        found = {name: p for name, p in self.weights.items() if ".adapter." not in name}
        for name, down in self.weights.items():
            if name.endswith(".down.weight"):
                layer, up = name.partition(".adapter.")[0], self.weights[name.replace(".down.", ".up.")]
                product = up.flatten(1) @ down.flatten(1)
                found[f"{layer}.weight"] = found[f"{layer}.weight"] + product.view_as(found[f"{layer}.weight"])
        return found

    def logits(self, x: Tensor) -> Tensor:
        return functional_call(self.net, self.effective(), (x,)).logits

    def step(self, loss_of: Any, names: list[str]) -> float:
        """Adam on ``names``; then the teacher follows."""
        for name in names:
            self.weights[name].requires_grad_(True)
        loss = loss_of(self.logits)
        gradients = torch.autograd.grad(loss, [self.weights[name] for name in names])
        with torch.no_grad():
            for name, gradient in zip(names, gradients, strict=True):
                m, v, t = self.moments.setdefault(name, [torch.zeros_like(gradient), torch.zeros_like(gradient), 0])
                m, v, t = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2, t + 1
                self.moments[name] = [m, v, t]
                move = (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
                self.weights[name] = self.weights[name].detach() - RATE * move
            for name, weight in self.effective().items():
                own = self.teacher.get_parameter(name)
                if not name.startswith("light_head."):
                    own.copy_(KEEP * own + (1 - KEEP) * weight)
        return float(loss.detach())

    def restore(self, names: list[str], share: float, generator: torch.Generator) -> None:
        for name in names:
            drawn = torch.rand(self.weights[name].shape, generator=generator) < share
            self.weights[name] = torch.where(drawn, self.start[name], self.weights[name])

    def compare(self, recipe: Recipe) -> None:
        for name, parameter in recipe.student.named_parameters():
            torch.testing.assert_close(parameter.detach(), self.weights[name].detach(), atol=1e-6, rtol=0.0)
        assert recipe.teacher is not None
        for name, parameter in recipe.teacher.module.named_parameters():
            torch.testing.assert_close(parameter, self.teacher.get_parameter(name), atol=1e-6, rtol=0.0)
        learned = [name for name, _ in recipe.learning]
        assert any((self.weights[name] - self.start[name]).abs().max() > 1e-3 for name in learned)


def mean_of_views(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    native = net(x).logits.softmax(1)
    return native, (native + net(x.flip(-1)).logits.flip(-1).softmax(1)) / 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["vida", "becotta"])
def test_adapters_learn_from_the_teachers_views(name: str, kind: str) -> None:
    confidence = 0.45
    extra = () if name == "vida" else (f"objectives.taught.confidence={confidence}",)
    recipe = make_recipe(settings(name, "objectives.taught.views.scales=[1.0]", *extra), trained(kind).double())
    hand, generator = ByHand(recipe, kind), torch.Generator().manual_seed(0)
    names = [learned for learned, _ in recipe.learning]
    assert names
    assert all(".adapter." in learned for learned in names)
    for x in (frame.double() for frame in frames_of(3)):
        with torch.no_grad():
            native, mean = mean_of_views(hand.teacher, x)
            if name == "becotta":
                own, anchor = native.amax(1, keepdim=True), hand.source(x).logits.softmax(1).amax(1, keepdim=True)
                sure = (own > confidence) & (own >= anchor)
                assert sure.any()
                mean = torch.where(sure, native, mean)
            label = mean.argmax(1)
        report = recipe.observe(x, recipe.predict(x))
        loss = hand.step(lambda logits, x=x, label=label: F.cross_entropy(logits(x), label), names)
        assert report.losses["taught"] == pytest.approx(loss, abs=1e-9)
        hand.restore(names, 0.01, generator)
    hand.compare(recipe)


@pytest.mark.parametrize("kind", KINDS)
def test_hybrid_tta_switches_to_everything_when_the_loss_rises(kind: str) -> None:
    overrides = ("objectives.taught.mask.patch=16", "scope.rise=0.02", "scope.window=2")
    recipe = make_recipe(settings("hybrid_tta", *overrides), trained(kind).double())
    hand, generator = ByHand(recipe, kind), torch.Generator().manual_seed(0)
    losses: list[float] = []
    threshold, before, scopes = 0.0, 0.0, []
    fill = recipe.student.get_buffer("mean")
    frames = [*frames_of(2, haze=0.0), *frames_of(3, haze=0.8)]
    for x in (frame.double() for frame in frames):
        everything = len(losses) > 1 and sum(losses[-2:]) / 2 >= 1.02 * before
        names = [name for name, _ in recipe.learning if everything or ".adapter." in name]
        with torch.no_grad():
            label = hand.teacher(x).logits.argmax(1)
        cells = torch.rand(4, 8, generator=generator) < 0.6
        hidden = cells.repeat_interleave(16, 0).repeat_interleave(16, 1)
        seen = torch.where(hidden, fill.double(), x)
        report = recipe.observe(x, recipe.predict(x))
        loss = hand.step(lambda logits, x=seen, label=label: F.cross_entropy(logits(x), label), names)
        assert report.losses["taught"] == pytest.approx(loss, abs=1e-9)
        assert report.scope == ("all" if everything else "adapters")
        scopes.append(report.scope)
        before = threshold if losses else loss
        threshold = loss if not losses else 0.9 * threshold + 0.1 * loss
        losses.append(loss)
    assert set(scopes) == {"all", "adapters"}
    hand.compare(recipe)
