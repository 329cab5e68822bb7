"""Blocks that run again in the backward pass: the same weights, statistics and draws, from a smaller graph."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from typing import Any

import pytest
import torch
from recipe_kit import HAMLET, KINDS, TENT, changed, copy_of, make_recipe, play, settings_of, stream, trained
from torch import Tensor, nn

from examples.unet import UNet
from online_uda.adaptation.activations.recompute import Recompute, blocks_of
from online_uda.adaptation.cost import cost_of
from online_uda.adaptation.pieces import finish
from online_uda.adaptation.recipe import Recipe
from online_uda.adaptation.staged_pass import backward_pieces, forward_pieces
from online_uda.errors import UserError
from online_uda.networks.architecture import NetworkConfig, build_network
from online_uda.networks.module_segmenter import ModuleSegmenter
from online_uda.networks.segmenter import Segmenter

SHARP = {**TENT, "optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.0, "sharpness": 0.1}}
METHODS: dict[str, dict[str, Any]] = {
    "tent": TENT,
    "hamlet": {**HAMLET, "scope": {"parameters": "all"}},  # train mode: dropout, stochastic depth, statistics learned
    "stream": {**TENT, "norm": {"statistics": "stream"}, "scope": {"parameters": "all"}},
    "iabn": {**TENT, "norm": {"statistics": "iabn"}},
    "sharp": SHARP,
    "lora": {**TENT, "scope": {"parameters": "adapters"}, "adapters": {"kind": "lora"}},
}


def recipe_of(method: str, kind: str, activations: dict[str, Any] | None) -> Recipe:
    return make_recipe(settings_of({**METHODS[method], "activations": activations}), trained(kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_the_same_bit_for_bit(method: str, kind: str) -> None:
    if method == "lora" and kind == "batchnorm":
        pytest.skip("LoRA goes beside linear layers")
    plain, again = recipe_of(method, kind, None), recipe_of(method, kind, {"kind": "recompute"})
    again_reports = play(again, stream(3))
    assert play(plain, stream(3)) == again_reports
    assert not changed(copy_of(plain.student), copy_of(again.student))
    assert any(report.updated for report in again_reports)


def saved_bytes(recipe: Recipe) -> int:
    """Distinct memory that autograd holds at the end of the forward pass, over all steps of a frame."""
    held: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        held.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    frame = next(stream(1))
    pieces = recipe.learn(frame, recipe.watch(frame, recipe.predict(frame)))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        while next(pieces) != "entropy.loss":
            pass
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


@pytest.mark.parametrize(("method", "kind"), [("tent", "layernorm"), ("stream", "layernorm"), ("stream", "batchnorm")])
def test_the_graph_is_smaller(method: str, kind: str) -> None:
    plain, again = (saved_bytes(recipe_of(method, kind, slot)) for slot in (None, {"kind": "recompute"}))
    assert again < 0.75 * plain


@pytest.mark.parametrize("method", ["tent", "hamlet"])
def test_frames_may_be_predicted_between_two_pieces(method: str) -> None:
    plain, again = recipe_of(method, "batchnorm", None), recipe_of(method, "batchnorm", {"kind": "recompute"})
    frame, other = stream(2)
    first = plain.observe(frame, plain.predict(frame))
    pieces = again.learn(frame, again.watch(frame, again.predict(frame)))
    answer = again.predict(other).logits
    while next(pieces) != "update":
        assert torch.equal(again.predict(other).logits, answer)
    assert finish(pieces) == first
    assert not changed(copy_of(plain.student), copy_of(again.student))


@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize("kind", ["mit_b0", "timm:convnext_atto", "timm:resnet18"])
def test_gradients_of_other_networks(kind: str, cast: bool) -> None:
    torch.manual_seed(0)
    network: Segmenter = build_network(NetworkConfig(kind, "segformer", 5, width=16, light_width=8)).eval()
    frames, found = torch.rand(1, 3, 64, 96), []
    for saving in (None, Recompute(network)):
        network.zero_grad(set_to_none=True)
        more = nullcontext if saving is None else lambda saving=saving: saving.around(nullcontext)

        def within(more: Any = more) -> Any:
            return _both(torch.autocast("cpu", torch.bfloat16, enabled=cast), more())

        passed = finish(forward_pieces(network, frames, within, "step"))
        finish(backward_pieces(passed, passed.output.full().square().sum(), "step"))
        found.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert not changed(found[0], found[1])


def _both(one: Any, two: Any) -> Any:
    stack = ExitStack()
    stack.enter_context(one)
    stack.enter_context(two)
    return stack


def test_what_a_block_is() -> None:
    torch.manual_seed(0)
    mit = build_network(NetworkConfig("mit_b0", "segformer", 5, width=16, light_width=8))
    assert {type(block).__name__ for block in blocks_of(mit)} == {"MiTBlock"}
    assert len(blocks_of(mit)) == 8
    assert len(blocks_of(trained("batchnorm"))) == 4  # chains of plain layers
    assert blocks_of(ModuleSegmenter(UNet(5, width=4), "unet"))


class Bare(nn.Module):
    """Layers that stand in no list."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(self.two(self.one(x).relu()), scale_factor=2.0)


def test_a_network_without_blocks_is_refused() -> None:
    with pytest.raises(UserError, match=r"activations\.kind recompute: finds no blocks"):
        blocks_of(ModuleSegmenter(Bare(), "bare"))


def test_its_price_is_a_forward_pass_a_backward_one() -> None:
    plain, again = (cost_of(settings_of({**TENT, "activations": slot})) for slot in (None, {"kind": "recompute"}))
    assert (again.forwards, again.backwards) == (plain.forwards + plain.backwards, plain.backwards)
