"""Which parameters learn, and the optimiser groups they sit in (specs/hamlet.md 2.4, 2.10; section 9, checks 8, 23)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recipe_kit import KINDS, trained
from torch import nn

from online_uda.adaptation.scope import (
    build_optimizer,
    norm_parameters,
    scope_parameters,
    set_trainable,
    suffix_parameters,
)
from online_uda.adaptation.settings import OptimizerSettings, ScopeSettings
from online_uda.networks.segmenter import build_segformer, segformer_config


@pytest.fixture(scope="module")
def b1() -> Any:
    return build_segformer(segformer_config("b1", 19))


@pytest.mark.parametrize(("first", "millions"), [(1, 13.41), (2, 12.76), (3, 11.72), (4, 7.95)])
def test_check_8_trainable_counts_of_b1(b1: Any, first: int, millions: float) -> None:
    suffix = sum(p.numel() for _, p in suffix_parameters(b1, first, train_fuse=False))
    whole = sum(p.numel() for _, p in suffix_parameters(b1, first, train_fuse=True))
    assert suffix / 1e6 == pytest.approx(millions, abs=0.005)
    assert (whole - suffix) / 1e6 == pytest.approx(0.268, abs=0.0005)


@pytest.mark.parametrize("kind", KINDS)
def test_norm_scope_is_every_norm_of_either_type_but_the_light_heads(kind: str) -> None:
    network = trained(kind)
    expected = set()
    for name, module in network.named_modules():
        if type(module).__name__ in ("LayerNorm", "BatchNorm2d") and "light_head" not in name:
            expected |= {f"{name}.weight", f"{name}.bias"}
    found = scope_parameters(network, ScopeSettings(parameters="norm"))
    assert {name for name, _ in found} == expected
    assert len(expected) == (2 * 5 if kind == "batchnorm" else 2 * (4 * 4 + 3 + 1))
    assert all(parameter is dict(network.named_parameters())[name] for name, parameter in found)


def test_norm_scope_knows_group_and_instance_norm_and_skips_norms_without_parameters() -> None:
    network = nn.Sequential(nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.InstanceNorm2d(4))
    assert [name for name, _ in norm_parameters(network)] == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_head_and_all() -> None:
    network = trained("layernorm")
    names = {name for name, _ in network.named_parameters()}
    head = {name for name, _ in scope_parameters(network, ScopeSettings(parameters="head"))}
    everything = {name for name, _ in scope_parameters(network, ScopeSettings(parameters="all"))}
    assert head == {name for name in names if name.split(".")[0] == "head"}
    assert everything == {name for name in names if name.split(".")[0] != "light_head"}
    assert scope_parameters(network, ScopeSettings(parameters="none")) == []


def test_hamt_may_train_every_module_and_fixed_only_its_own() -> None:
    network = trained("layernorm")
    hamt = scope_parameters(network, ScopeSettings(parameters="suffix", select="hamt", first_module=3))
    fixed = scope_parameters(network, ScopeSettings(parameters="suffix", select="fixed", first_module=3))
    assert {name for name, _ in hamt} == {name for name, _ in suffix_parameters(network, 1, train_fuse=False)}
    assert {name for name, _ in fixed} == {name for name, _ in suffix_parameters(network, 3, train_fuse=False)}


def test_set_trainable_drops_the_gradients_of_the_others() -> None:
    network = trained("layernorm").requires_grad_(True)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    everything = list(network.named_parameters())
    chosen = suffix_parameters(network, 4, train_fuse=False)
    set_trainable(everything, chosen)
    assert {name for name, p in everything if p.requires_grad} == {name for name, _ in chosen}
    assert all(parameter.grad is None for _, parameter in everything)


@pytest.mark.parametrize("kind", KINDS)
def test_check_23_each_parameter_is_in_exactly_one_group(kind: str) -> None:
    network = trained(kind)
    parameters = scope_parameters(network, ScopeSettings(parameters="all"))
    optimizer = build_optimizer(parameters, OptimizerSettings(learning_rate=1e-3, weight_decay=0.1, head_factor=10.0))
    assert optimizer is not None
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for _, parameter in parameters)
    names = {id(parameter): name for name, parameter in parameters}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            head = names[id(parameter)].startswith("head.")
            assert group["lr"] == pytest.approx(1e-2 if head else 1e-3)
            assert group["lr_scale"] == (10.0 if head else 1.0)
            assert group["weight_decay"] == (0.0 if parameter.dim() == 1 else 0.1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_what_was_trained_before_stands_still_for_a_hundred_steps(name: Any, kind: str) -> None:
    """Momenta and weight decay of a parameter that no longer learns must not move it."""
    network = trained(kind)
    everything = list(network.named_parameters())
    parameters = scope_parameters(network, ScopeSettings(parameters="all"))
    slot = OptimizerSettings(name=name, learning_rate=1e-3, weight_decay=0.1, momentum=0.9)
    optimizer = build_optimizer(parameters, slot)
    assert optimizer is not None
    frame = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def take(steps: int, chosen: list[tuple[str, nn.Parameter]]) -> set[str]:
        set_trainable(everything, chosen)
        before = {name: parameter.detach().clone() for name, parameter in everything}
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            network(frame).logits.square().mean().backward()
            optimizer.step()
        return {name for name, parameter in everything if not torch.equal(before[name], parameter)}

    chosen = suffix_parameters(network, 3, train_fuse=True)
    learning = {name for name, _ in chosen}
    assert not take(3, parameters) <= learning  # the others have momenta now
    moved = take(100, chosen)
    assert moved
    assert moved <= learning


def test_no_parameter_no_optimiser() -> None:
    assert build_optimizer([], OptimizerSettings()) is None


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_two_steps_equal_the_published_formulas(name: Any) -> None:
    """A single weight matrix under two different gradients, against the update rules written out."""
    rate, decay, momentum, eps = 0.1, 0.2, 0.7, 1e-8
    start = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    parameter = nn.Parameter(start.clone())
    slot = OptimizerSettings(name=name, learning_rate=rate, weight_decay=decay, momentum=momentum)
    optimizer = build_optimizer([("stages.0.weight", parameter)], slot)
    assert optimizer is not None
    w, m, v = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for step, gradient in enumerate((torch.tensor([[0.5, -1.0]]), torch.tensor([[-0.2, 0.3]])), start=1):
        parameter.grad = gradient.double()
        optimizer.step()
        g = gradient.double()
        if name == "sgd":
            g = g + decay * w
            m = g if step == 1 else momentum * m + g
            w = w - rate * m
            continue
        if name == "adam":
            g = g + decay * w
        else:
            w = w * (1.0 - rate * decay)
        m = momentum * m + (1.0 - momentum) * g
        v = 0.999 * v + 0.001 * g * g
        w = w - rate * (m / (1.0 - momentum**step)) / ((v / (1.0 - 0.999**step)).sqrt() + eps)
    torch.testing.assert_close(parameter.detach(), w, atol=1e-12, rtol=0.0)
