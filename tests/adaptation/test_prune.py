"""Pruned inputs: the gradients that are promised for them, by hand, and the memory that they take."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from recipe_kit import KINDS, TENT, changed, copy_of, make_recipe, play, settings_of, stream, trained
from torch import Tensor, nn

from online_uda.adaptation.activations.prune import Prune, shares
from online_uda.adaptation.activations.sparse import SharedInputs, Signs, SparseTensor, packed, unpacked
from online_uda.adaptation.cost import cost_of
from online_uda.adaptation.recipe import Recipe
from online_uda.adaptation.settings.activations import PruneSettings
from streams.yaml_config import KeyedErrors

ALL: dict[str, Any] = {**TENT, "scope": {"parameters": "all"}, "norm": {"statistics": "batch"}}
SHARE = 0.3


def even(keep: float) -> dict[str, Any]:
    return {"kind": "prune", "rule": "even", "keep": keep}


def pruned_pass(module: nn.Module, x: Tensor, grad: Tensor) -> Tensor:
    """Gradients go to the parameters, that of the input comes back."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    with Prune(PruneSettings.model_validate(even(SHARE)), module, nullcontext).around():  # type: ignore[arg-type]
        y = module(x)
    y.backward(grad)
    assert x.grad is not None
    return x.grad


def largest(x: Tensor, distance: Tensor) -> Tensor:
    """``x`` where ``distance`` is among the largest, 0 elsewhere."""
    limit = distance.flatten().sort(descending=True).values[round(SHARE * x.numel()) - 1]
    return torch.where(distance >= limit, x, 0.0)


@given(st.integers(1, 70), st.integers(0, 2**31))
def test_masks_come_back(count: int, seed: int) -> None:
    mask = torch.rand(count, generator=torch.Generator().manual_seed(seed)) > 0.5
    assert torch.equal(unpacked(packed(mask), count), mask)


def test_a_sparse_tensor_holds_its_share_and_a_bit_a_value() -> None:
    x = torch.randn(2, 8, 16, 16).contiguous(memory_format=torch.channels_last)
    left = SparseTensor(x, 0.25)
    assert left.nbytes == x.numel() * 4 // 4 + x.numel() // 8
    assert left.dense().stride() == x.stride()
    assert torch.equal(left.dense(), torch.where(x.abs() >= x.abs().flatten().topk(x.numel() // 4).values[-1], x, 0.0))


def test_ties_are_never_kept_beyond_the_share() -> None:
    assert SparseTensor(torch.zeros(64), 0.5).nbytes <= 8
    assert torch.equal(Signs(torch.tensor([0.0, 2.0, -1.0])).dense(), torch.tensor([0.0, 1.0, 0.0]))


def test_an_input_of_several_layers_is_kept_once() -> None:
    shared, x = SharedInputs(), torch.randn(64)
    much = shared.keep(x, 0.5)
    assert shared.keep(x, 0.25) is much
    assert shared.keep(x, 0.75) is not much
    assert shared.keep(x + 1.0, 0.25) is not much
    x += 1.0
    assert shared.keep(x, 0.25) is not much


def test_a_linear_layer_by_hand() -> None:
    torch.manual_seed(0)
    layer, x, grad = nn.Linear(6, 5), torch.randn(2, 7, 6), torch.randn(2, 7, 5)
    to_input = pruned_pass(layer, x, grad)
    torch.testing.assert_close(to_input, grad @ layer.weight)  # exact: it asks for no input
    torch.testing.assert_close(layer.weight.grad, grad.flatten(0, 1).T @ largest(x, x.abs()).flatten(0, 1))
    torch.testing.assert_close(layer.bias.grad, grad.sum((0, 1)))


def test_a_convolution_by_hand() -> None:
    torch.manual_seed(0)
    layer, x, grad = nn.Conv2d(4, 5, 3, padding=1), torch.randn(1, 4, 8, 9), torch.randn(1, 5, 8, 9)
    to_input = pruned_pass(layer, x, grad)
    torch.testing.assert_close(to_input, F.conv_transpose2d(grad, layer.weight, padding=1))
    columns = F.unfold(largest(x, x.abs()), 3, padding=1)[0]
    torch.testing.assert_close(layer.weight.grad, (grad[0].flatten(1) @ columns.T).view_as(layer.weight))


def test_a_layer_norm_by_hand() -> None:
    torch.manual_seed(0)
    layer, x, grad = nn.LayerNorm(6), torch.randn(2, 7, 6) + 3.0, torch.randn(2, 7, 6)
    nn.init.uniform_(layer.weight, 0.5, 2.0)
    to_input = pruned_pass(layer, x, grad)
    scale = (x.var(-1, correction=0, keepdim=True) + layer.eps).rsqrt()
    normed = (x - x.mean(-1, keepdim=True)) * scale
    normed = largest(normed, normed.abs())
    torch.testing.assert_close(layer.weight.grad, (grad * normed).sum((0, 1)))
    inner = grad * layer.weight
    along = normed * (inner * normed).mean(-1, keepdim=True)
    torch.testing.assert_close(to_input, scale * (inner - inner.mean(-1, keepdim=True) - along))


@pytest.mark.parametrize("training", [False, True])
def test_a_batch_norm_by_hand(training: bool) -> None:
    torch.manual_seed(0)
    layer, x, grad = nn.BatchNorm2d(4).train(training), torch.randn(2, 4, 5, 6) + 1.0, torch.randn(2, 4, 5, 6)
    mean, var = layer.running_mean.view(1, 4, 1, 1), layer.running_var.view(1, 4, 1, 1)  # type: ignore[union-attr]
    if training:
        var, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
    scale = (var + layer.eps).rsqrt()
    normed = (x - mean) * scale
    normed = largest(normed, normed.abs())
    to_input = pruned_pass(layer, x, grad)
    torch.testing.assert_close(layer.weight.grad, (grad * normed).sum((0, 2, 3)))
    wanted = grad
    if training:
        along = normed * (grad * normed).mean((0, 2, 3), keepdim=True)
        wanted = grad - grad.mean((0, 2, 3), keepdim=True) - along
    torch.testing.assert_close(to_input, scale * wanted)


@pytest.mark.parametrize("inplace", [False, True])
def test_a_relu_keeps_bits_and_an_exact_gradient(inplace: bool) -> None:
    chain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace)).eval()
    x, grad = torch.randn(1, 3, 8, 8), torch.randn(1, 4, 8, 8)
    got = pruned_pass(chain, x, grad)
    plain = x.clone().requires_grad_()
    chain(plain).backward(grad)
    assert torch.equal(got, plain.grad)  # type: ignore[arg-type]


def test_shares_by_hand() -> None:
    importance = [2.0 * math.log(100 / 50), 1.0 * math.log(100 / 30), 0.5 * math.log(100 / 20)]
    wanted = [0.8 * one / max(importance) for one in importance]
    assert shares([2.0, 1.0, 0.5], [50, 30, 20], 0.8) == pytest.approx(wanted)
    assert shares([0.0, 0.0], [1, 1], 0.5) == [0.5, 0.5]
    assert shares([math.nan, 1.0], [1, 1], 0.5) == [0.5, 0.5]
    assert shares([1.0], [7], 0.5) == [0.5]  # one layer has nothing to be weighed against


def recipe_of(base: dict[str, Any], kind: str, activations: dict[str, Any] | None) -> Recipe:
    return make_recipe(settings_of({**base, "activations": activations}), trained(kind))


def pruned_bytes(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """What the pruned inputs of a frame's step take, and what they would take whole."""
    sizes: list[tuple[int, int]] = []
    build = SparseTensor.__init__

    def spy(self: SparseTensor, tensor: Tensor, *args: Any) -> None:
        build(self, tensor, *args)
        sizes.append((self.nbytes, tensor.numel() * tensor.element_size()))

    with monkeypatch.context() as patch:
        patch.setattr(SparseTensor, "__init__", spy)
        play(recipe, stream(1))
    return sum(left for left, _ in sizes), sum(whole for _, whole in sizes)


@pytest.mark.parametrize("base", [TENT, ALL])
@pytest.mark.parametrize("kind", KINDS)
def test_less_is_kept_and_whole_shares_keep_every_bit(
    kind: str, base: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, whole = recipe_of(base, kind, None), recipe_of(base, kind, even(1.0))
    assert play(plain, stream(3)) == play(whole, stream(3))
    assert not changed(copy_of(plain.student), copy_of(whole.student))
    for keep in (0.5, 0.2):
        left, of = pruned_bytes(recipe_of(base, kind, even(keep)), monkeypatch)
        assert 0 < left < (keep + 0.15) * of
    fewer = recipe_of(base, kind, even(0.2))
    play(fewer, stream(3))
    assert changed(copy_of(plain.student), copy_of(fewer.student))


@pytest.mark.parametrize("kind", KINDS)
def test_surgeon_goes_on_after_a_resume(kind: str) -> None:
    slot = {"kind": "prune", "keep": 0.8, "every": 2}
    one, two = recipe_of(ALL, kind, slot), recipe_of(ALL, kind, slot)
    play(one, stream(3))
    two.load_state_dict(one.state_dict())
    assert play(one, stream(2, seed=9)) == play(two, stream(2, seed=9))
    assert not changed(copy_of(one.student), copy_of(two.student))


def test_a_look_leaves_no_trace() -> None:
    recipe = recipe_of({**ALL, "student_mode": "train"}, "batchnorm", {"kind": "prune"})
    saving, before, state = recipe._gradients._saving, copy_of(recipe.student), torch.get_rng_state()
    assert saving.prune is not None
    assert saving.prune.due
    assert list(saving.look(next(stream(1)))) == ["activations.look"]
    assert not changed(before, copy_of(recipe.student))
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in recipe.student.parameters())
    kept = saving.prune.state_dict()["shares"]
    assert max(kept.values()) == 1.0
    assert len(set(kept.values())) == len(kept) > 4


@pytest.mark.parametrize(
    ("base", "slot", "what"),
    [
        ({"scope": {"parameters": "none"}}, {"kind": "recompute"}, "no graph to make smaller"),
        ({**TENT, "scope": {"parameters": "bias"}}, {"kind": "prune"}, "only biases learn"),
        (TENT, {**even(0.5), "every": 2}, "belongs to rule surgeon"),
    ],
)
def test_what_cannot_work_is_refused(base: dict[str, Any], slot: dict[str, Any], what: str) -> None:
    with pytest.raises((KeyedErrors, ValueError), match=what):
        settings_of({**base, "activations": slot})


def test_a_look_costs_its_share_of_the_frame() -> None:
    slot = {"kind": "prune", "every": 2, "crop": 0.5}
    plain, dear = (cost_of(settings_of({**TENT, "activations": slot})) for slot in (None, slot))
    assert (dear.forwards, dear.backwards) == (plain.forwards + 0.25, plain.backwards + 0.25)
