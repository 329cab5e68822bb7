"""Adapters: nothing changes when they go in, they fold exactly, stay small on disk, and touch nothing else."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from online_uda.errors import UserError
from online_uda.networks.adapter_file import load_adapters, save_adapters
from online_uda.networks.adapter_folding import folded, merge_adapters
from online_uda.networks.adapter_layers import AdapterConfig
from online_uda.networks.adapters import adapter_parameters, insert_adapters, remove_adapters
from online_uda.networks.architecture import NetworkConfig, build_network
from online_uda.networks.segmenter import Segmenter, build_segformer, segformer_config

KINDS = ("lora", "two_rank", "conv", "adaptformer")


def network_of(encoder: str = "mit_b0") -> Segmenter:
    torch.manual_seed(0)
    return build_network(NetworkConfig(encoder, "segformer", 5, width=16, light_width=8)).eval()


def moved(network: Segmenter) -> Segmenter:
    torch.manual_seed(1)
    with torch.no_grad():
        for _, parameter in adapter_parameters(network):
            parameter.add_(0.02 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize(
    "encoder", ["mit_b0", "timm:resnet18", "timm:vit_tiny_patch16_224", "timm:mobilenetv3_small_050"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_in_and_folded_back(encoder: str, kind: str) -> None:
    network, frames = network_of(encoder), torch.rand(1, 3, 64, 96)
    before, names = copy.deepcopy(network), [name for name, _ in network.named_parameters()]
    config = AdapterConfig(kind)  # type: ignore[arg-type]
    convolutional, plain = encoder.startswith("timm:") and "vit" not in encoder, "vit" in encoder
    if (kind == "adaptformer" and convolutional) or (kind == "conv" and plain):
        with pytest.raises(UserError, match="no layer for"):
            insert_adapters(network, config, seed=0)
        assert [name for name, _ in network.named_parameters()] == names
        return
    served = insert_adapters(network, config, seed=0)
    assert len(served) >= 8
    with torch.no_grad():
        assert torch.equal(network(frames).logits, before(frames).logits)
        adapted = moved(network)(frames).logits
        assert (adapted - before(frames).logits).abs().max() > 1e-4
        if kind == "adaptformer":
            with pytest.raises(UserError, match="cannot be folded"):
                merge_adapters(network, config)
            remove_adapters(network)
            torch.testing.assert_close(network(frames).logits, before(frames).logits, atol=0.0, rtol=0.0)
        else:
            plain_state = folded(network.state_dict(), config)
            merge_adapters(network, config)
            assert (network(frames).logits - adapted).abs().max() <= 1e-5
            assert all(torch.equal(tensor, plain_state[name]) for name, tensor in network.state_dict().items())
    assert [name for name, _ in network.named_parameters()] == names
    assert not any(module._forward_hooks for module in network.modules())


def test_only_adapters_get_gradients_where_they_alone_learn() -> None:
    network = network_of().requires_grad_(False)
    insert_adapters(network, AdapterConfig("lora"), seed=0)
    network(torch.rand(1, 3, 64, 64)).logits.sum().backward()
    reached = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert reached == {name for name, _ in adapter_parameters(network)}
    assert any(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in network.parameters())


def test_rank_scale_seed_and_targets_do_what_they_say() -> None:
    def adapted(config: AdapterConfig, seed: int = 0) -> Segmenter:
        network = network_of()
        insert_adapters(network, config, seed)
        return network

    shape = (
        adapted(AdapterConfig(rank=2)).get_parameter("stages.3.blocks.0.attention.query.adapter.low.down.weight").shape
    )
    assert shape == (2, 256)
    assert insert_adapters(network_of(), AdapterConfig(targets=("stages.3.*.ffn.*",)), 0) == [
        "stages.3.blocks.0.ffn.expand", "stages.3.blocks.0.ffn.project",
        "stages.3.blocks.1.ffn.expand", "stages.3.blocks.1.ffn.project",
    ]  # fmt: skip
    with pytest.raises(
        UserError, match=r"no layer for lora among head\.linears"
    ):  # their weights are read, never called
        insert_adapters(network_of(), AdapterConfig(targets=("head.linears.*",)), 0)
    name = "stages.0.blocks.0.attention.query.adapter.low.down.weight"
    one, same, other = (adapted(AdapterConfig(), seed).get_parameter(name) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    frames = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        base = network_of()(frames).logits
        changes = [moved(adapted(AdapterConfig(scale=scale)))(frames).logits - base for scale in (1e-3, 2e-3)]
    torch.testing.assert_close(changes[1], 2 * changes[0], atol=1e-4, rtol=0.1)


def test_two_ranks_add_up_and_sequential_differs_from_parallel() -> None:
    network, frames = network_of(), torch.rand(1, 3, 64, 64)
    insert_adapters(network, AdapterConfig("two_rank", rank=1, high_rank=8, scale=0.5, high_scale=2.0), seed=0)
    module = moved(network).get_submodule("stages.2.blocks.0.attention.query")
    x = torch.randn(3, 160)
    low, high = (module.get_submodule(f"adapter.{part}") for part in ("low", "high"))
    expected = x @ module.get_parameter("weight").T + module.get_parameter("bias")
    for part, scale in ((low, 0.5), (high, 2.0)):
        down, up = part.get_parameter("down.weight"), part.get_parameter("up.weight")
        expected = expected + scale * x @ down.T @ up.T
    torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-5)
    outputs = []
    for placement in ("parallel", "sequential"):
        network = network_of()
        insert_adapters(network, AdapterConfig("adaptformer", placement=placement), seed=0)  # type: ignore[arg-type]
        with torch.no_grad():
            outputs.append(moved(network)(frames).logits)
    assert not torch.allclose(outputs[0], outputs[1])


def test_file_of_b0_lora_rank_4_is_kilobytes_and_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_segformer(segformer_config("b0", 19)).eval()
    plain, frames = copy.deepcopy(network), torch.rand(1, 3, 64, 64)
    config = AdapterConfig("lora", rank=4)
    insert_adapters(network, config, seed=0)
    moved(network)
    path = tmp_path / "adapters.safetensors"
    save_adapters(path, network, config)
    assert path.stat().st_size <= 200_000
    assert load_adapters(path, plain) == config
    with torch.no_grad():
        assert torch.equal(plain(frames).logits, network(frames).logits)
    small = network_of("timm:resnet18")
    with pytest.raises(UserError, match="adapters of another network"):
        load_adapters(path, small)
    assert not list(adapter_parameters(small))
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="not a readable file of adapters"):
        load_adapters(path, small)
    with pytest.raises(UserError, match="no adapters to save"):
        save_adapters(path, small, config)
