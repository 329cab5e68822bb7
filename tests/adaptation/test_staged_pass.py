"""Gradients of a pass in pieces against those of one backward, for every layout of network."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from examples.unet import UNet
from online_uda.adaptation.pieces import finish
from online_uda.adaptation.staged_pass import backward_pieces, forward_pieces
from online_uda.networks.architecture import NetworkConfig, build_network
from online_uda.networks.module_segmenter import ModuleSegmenter
from online_uda.networks.segmenter import Segmenter


def network_of(kind: str) -> Segmenter:
    torch.manual_seed(0)
    if kind == "module":
        return ModuleSegmenter(UNet(5, width=4), "unet").eval()  # type: ignore[return-value]
    return build_network(NetworkConfig(kind, "segformer", 5, width=16, light_width=8)).eval()


@pytest.mark.parametrize("kind", ["mit_b0", "timm:convnext_atto", "timm:vit_tiny_patch16_224", "module"])
@pytest.mark.parametrize("frozen", [0, 2])
def test_pieces_add_up_to_the_whole(kind: str, frozen: int) -> None:
    network, frames = network_of(kind), torch.rand(1, 3, 64, 96)
    for index in range(frozen):
        for _, parameter in network.stage_parameters(index):
            parameter.requires_grad_(False)
    network(frames).full().square().sum().backward()
    whole = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad(set_to_none=True)
    passed = finish(forward_pieces(network, frames, nullcontext, "step"))
    finish(backward_pieces(passed, passed.output.full().square().sum(), "step"))
    pieces = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert whole.keys() == pieces.keys()
    assert len(whole) > 4
    for name, gradient in whole.items():
        torch.testing.assert_close(pieces[name], gradient, atol=1e-4 * float(gradient.abs().max()), rtol=1e-4)
