"""Convolutions that do not learn: the same gradients bit for bit, from a graph that does not hold their inputs."""

from __future__ import annotations

import weakref
from contextlib import nullcontext

import pytest
import torch
from recipe_kit import KINDS, TENT, make_recipe, settings_of, stream, trained
from torch import Tensor, nn

from online_uda.adaptation.activations.frozen import FrozenConvolutions, has_frozen_convolutions


def gradients(network: nn.Module, frames: Tensor, lean: bool, cast: bool) -> list[Tensor]:
    network.zero_grad(set_to_none=True)
    mode = FrozenConvolutions() if lean else nullcontext()
    with mode, torch.autocast("cpu", torch.bfloat16, enabled=cast):
        logits = network(frames).logits
    logits.float().square().sum().backward()
    return [p.grad for p in network.parameters() if p.grad is not None]


@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_same_bit_for_bit(kind: str, cast: bool) -> None:
    network, frames = trained(kind), next(stream(1))
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("norm" in name or name.endswith("bias"))
    plain, lean = (gradients(network, frames, lean, cast) for lean in (False, True))
    assert len(plain) == len(lean) > 4
    assert all(torch.equal(one, two) for one, two in zip(plain, lean, strict=True))


@pytest.mark.parametrize("frozen", [True, False])
def test_only_a_frozen_convolution_lets_go_of_its_input(frozen: bool) -> None:
    layer, before = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(8, 8)
    layer.weight.requires_grad_(not frozen)
    assert has_frozen_convolutions(layer) is frozen
    with FrozenConvolutions():
        x = before(torch.rand(1, 4, 8, 8))
        y = layer(x)
    alive = weakref.ref(x.untyped_storage())
    del x
    assert (alive() is None) is frozen
    y.sum().backward()
    assert before.weight.grad is not None


def test_a_step_of_norms_runs_its_convolutions_lean(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[bool] = []
    enter = FrozenConvolutions.__enter__

    def spy(self: FrozenConvolutions) -> FrozenConvolutions:
        entered.append(True)
        return enter(self)

    monkeypatch.setattr(FrozenConvolutions, "__enter__", spy)
    recipe = make_recipe(settings_of(TENT), trained("batchnorm"))
    frame = next(stream(1))
    prediction = recipe.predict(frame)
    assert not entered
    assert recipe.observe(frame, prediction).updated
    assert entered
