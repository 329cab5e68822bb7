"""One contract for every encoder: forward, backward, each scope moves its parameters, adapters, save, load, ONNX.

Three layouts by default, two of them as ONNX; all of them with ``ONLINE_UDA_SWEEP=all`` (minutes).
"""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch

from online_uda.adaptation.scope import build_optimizer, norm_parameters, scope_parameters, set_trainable
from online_uda.adaptation.settings import OptimizerSettings, ScopeSettings
from online_uda.errors import UserError
from online_uda.export.onnx_predictor import OnnxPredictor
from online_uda.networks.adapter_folding import merge_adapters
from online_uda.networks.adapter_layers import AdapterConfig
from online_uda.networks.adapters import adapter_parameters, insert_adapters
from online_uda.networks.architecture import AnyConfig, ModuleConfig, NetworkConfig, build_network
from online_uda.networks.checkpoint_writer import save_folder
from online_uda.networks.checkpoints import load_folder
from online_uda.networks.predictor import Wishes
from online_uda.networks.segmenter import Segmenter

DEFAULT = ("mit_b0", "timm:mobilenetv3_small_050", "timm:vit_tiny_patch16_224")
ALL = (
    "mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5",
    "timm:resnet18", "timm:resnet34", "timm:resnet50", "timm:resnet101",
    "timm:mobilenetv3_small_100", "timm:mobilenetv3_large_100", "timm:efficientnet_b0", "timm:efficientnet_b1",
    "timm:pvt_v2_b0", "timm:pvt_v2_b1", "timm:pvt_v2_b2", "timm:convnext_atto", "timm:convnext_tiny",
    "timm:convnext_small", "timm:convnext_base", "timm:convnext_large", "timm:swin_tiny_patch4_window7_224",
    "timm:swin_small_patch4_window7_224", "timm:swin_base_patch4_window7_224", "timm:swin_large_patch4_window7_224",
    "timm:vit_small_patch16_224", "timm:vit_base_patch16_224.mae",
    "timm:beit_base_patch16_224", "timm:regnety_002", "timm:edgenext_xx_small",
    "torchvision:lraspp_mobilenet_v3_large", "torchvision:deeplabv3_mobilenet_v3_large",
)  # fmt: skip
SWEEP = pytest.mark.skipif(os.environ.get("ONLINE_UDA_SWEEP") != "all", reason="ONLINE_UDA_SWEEP=all runs them all")
ENCODERS = [*DEFAULT, *(pytest.param(name, marks=[pytest.mark.slow, SWEEP]) for name in ALL)]
WITH_ONNX = [name for name in ENCODERS if name != "mit_b0"]  # tests/export take a SegFormer through ONNX anyway
NO_ONNX: dict[str, str] = {}
"""Encoders that cannot be exported, with what the user is told."""
SCOPES = (
    {"parameters": "norm"}, {"parameters": "bias"}, {"parameters": "head"}, {"parameters": "all"},
    {"parameters": "suffix", "select": "fixed", "first_module": 2},
)  # fmt: skip


def built(name: str) -> Segmenter:
    torch.manual_seed(0)
    network = build_network(config_of(name)).eval()
    stir(network)
    return network


def config_of(name: str) -> AnyConfig:
    if name.startswith("torchvision:"):
        return ModuleConfig(name, 5, light_width=8)
    return NetworkConfig(name, "segformer", 5, width=16, light_width=8)


def step(network: Segmenter, scope: ScopeSettings) -> tuple[set[str], set[str], int]:
    """Names in the scope, names that moved in a step of SGD, and how many had a gradient."""
    chosen = scope_parameters(network, scope)
    everything = list(network.named_parameters())
    set_trainable(everything, chosen)
    optimizer = build_optimizer(chosen, OptimizerSettings(name="sgd", learning_rate=1.0))
    assert optimizer is not None
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    output = network(torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(3)))
    torch.nn.functional.cross_entropy(output.full(), torch.randint(0, 5, (1, 64, 96))).backward()
    optimizer.step()
    moved = {name for name, tensor in network.state_dict().items() if not torch.equal(before[name], tensor)}
    reached = sum(bool(parameter.grad is not None and parameter.grad.any()) for _, parameter in chosen)
    return {name for name, _ in chosen}, moved, reached


def stir(network: Segmenter) -> None:
    """Takes weights away from the zeros that some encoders begin with: behind a scale of 0 no gradient passes."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() <= 1 and "relative_position" not in name:
                parameter.add_(0.1 * torch.rand_like(parameter))


@pytest.mark.parametrize("name", ENCODERS)
def test_contract(name: str, tmp_path: Path) -> None:
    config, source, frames = config_of(name), built(name), torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        logits = source(frames).logits
    assert source(frames).full().shape == (1, 5, 64, 96)
    for data in SCOPES:
        chosen, moved, reached = step(copy.deepcopy(source), ScopeSettings.model_validate(data))
        assert moved, data
        assert moved <= chosen, data
        # Keys' biases cancel in a softmax and biases before a norm in its mean; everything else has a gradient.
        assert reached >= 0.6 * len(chosen), data
    adapted = copy.deepcopy(source)
    insert_adapters(adapted, AdapterConfig("lora"), seed=0)
    with torch.no_grad():
        assert torch.equal(adapted(frames).logits, logits)
        for _, parameter in adapter_parameters(adapted):
            parameter.add_(0.01 * torch.randn_like(parameter))
        before = adapted(frames).logits
        merge_adapters(adapted, AdapterConfig("lora"))
        scale = max(1.0, float(before.abs().max()))
        assert (adapted(frames).logits - before).abs().max() <= 1e-5 * scale
        save_folder(tmp_path, adapted, config, tuple("abcde"), {}, torch.float32)
        assert torch.equal(load_folder(tmp_path).network(frames).logits, adapted(frames).logits)


@pytest.mark.parametrize("name", WITH_ONNX)
def test_onnx_runtime_answers_as_torch_does(name: str) -> None:
    """Opening the predictor compares the graph with torch, with perturbed norms too; here its answers are compared."""
    source = built(name).requires_grad_(False)
    moving = tuple(name for name, _ in norm_parameters(source))
    assert moving
    if name in NO_ONNX:
        with pytest.raises(UserError, match=NO_ONNX[name]):
            OnnxPredictor(source, Wishes(moving=moving), (64, 96), 1)
        return
    predictor = OnnxPredictor(source, Wishes(moving=moving), (64, 96), 1)
    frames = torch.rand(1, 3, 64, 96)
    expected = source(frames)
    found, _ = predictor.predict(frames)
    assert (found.logits - expected.logits).abs().max() <= 1e-4 * max(1.0, float(expected.logits.abs().max()))
    assert found.full().shape == (1, 5, 64, 96)
