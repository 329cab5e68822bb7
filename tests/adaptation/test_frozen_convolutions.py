"""Convolutions that do not learn: the same gradients bit for bit, from a graph that does not hold their inputs."""

from __future__ import annotations

import weakref
from contextlib import nullcontext

import pytest
import torch
from recipe_kit import KINDS, TENT, make_recipe, settings_of, stream, trained
from torch import Tensor, nn

from online_uda.adaptation.activations.frozen import FrozenConvolutions, lean


def gradients(network: nn.Module, frames: Tensor, small: bool, cast: bool) -> list[Tensor]:
    network.zero_grad(set_to_none=True)
    mode = FrozenConvolutions(signs=True) if small else nullcontext()
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
    plain, small = (gradients(network, frames, small, cast) for small in (False, True))
    assert len(plain) == len(small) > 4
    assert all(torch.equal(one, two) for one, two in zip(plain, small, strict=True))


@pytest.mark.parametrize("frozen", [True, False])
def test_only_a_frozen_convolution_lets_go_of_its_input(frozen: bool) -> None:
    layer, before = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(8, 8)
    layer.weight.requires_grad_(not frozen)
    assert isinstance(lean(layer), FrozenConvolutions) is frozen
    with FrozenConvolutions():
        x = before(torch.rand(1, 4, 8, 8))
        y = layer(x)
    alive = weakref.ref(x.untyped_storage())
    del x
    assert (alive() is None) is frozen
    y.sum().backward()
    assert before.weight.grad is not None


@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize("learns", [True, False])
def test_a_relu_keeps_where_it_is_above_0_if_no_convolution_learns(learns: bool, inplace: bool) -> None:
    """Its gradient is the same; its result is let go of."""
    network = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=inplace), nn.Conv2d(4, 2, 1)).eval()
    for part in (network[0], network[3]):
        part.requires_grad_(learns)
    frames = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    results: list[weakref.ref[torch.UntypedStorage]] = []
    network[2].register_forward_hook(lambda *call: results.append(weakref.ref(call[2].untyped_storage())))
    gained = []
    for mode in (nullcontext(), lean(network)):
        network.zero_grad(set_to_none=True)
        with mode:
            loss = network(frames).square().sum()
        let_go = results[-1]() is None
        assert let_go is (isinstance(mode, FrozenConvolutions) and not learns)
        loss.backward()
        gained.append([p.grad for p in network[1].parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*gained, strict=True))


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
