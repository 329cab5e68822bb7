"""Weights of NVlabs, mmsegmentation, smp and torchvision: equal logits, told apart, and every damage in one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from online_uda.errors import UserError
from online_uda.networks.architecture import ModuleConfig, NetworkConfig, build_network
from online_uda.networks.checkpoint_writer import save_folder, save_hf_folder
from online_uda.networks.checkpoints import load_folder, load_path
from online_uda.networks.heads import NormedMLPHead
from online_uda.networks.segmenter import SegformerConfig
from online_uda.networks.spec import NetworkOptions
from online_uda.networks.zoo import load_network
from streams.classes import CAMVID_11
from streams.frame import ClassSet

smp = pytest.importorskip("segmentation_models_pytorch")
FIVE = ClassSet("five", tuple("abcde"), ((0, 0, 0),) * 5)
State = dict[str, Tensor]


def shaken(module: nn.Module, seed: int = 1) -> nn.Module:
    """Noise on every tensor: initial biases of 0 and norms of 1 would hide a swapped name."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.add_(noise.abs() if "running_var" in name else 0.05 * noise)
    return module.eval()


@pytest.fixture(scope="module")
def reference() -> Any:
    torch.manual_seed(0)
    return shaken(smp.Segformer("mit_b0", encoder_weights=None, classes=5))


def stride_4_logits(reference: Any, normalised: Tensor) -> Tensor:
    """smp's logits before its own upsampling, which aligns corners."""
    features = reference.encoder(normalised)
    return reference.segmentation_head[0](reference.decoder(features))


def nvlabs_names(reference: Any) -> State:
    """smp took the encoder's names over from NVlabs; the head's are as in its published files."""
    names = {"segmentation_head.0.": "decode_head.linear_pred.", "encoder.": "backbone.",
             "decoder.fuse_stage.0.": "decode_head.linear_fuse.conv.",
             "decoder.fuse_stage.1.": "decode_head.linear_fuse.bn."}  # fmt: skip
    names |= {f"decoder.mlp_stage.{i}.linear.": f"decode_head.linear_c{4 - i}.proj." for i in range(4)}
    state = {}
    for name, tensor in reference.state_dict().items():
        prefix = next(prefix for prefix in names if name.startswith(prefix))
        state[names[prefix] + name.removeprefix(prefix)] = tensor
    return state


def check_equal(reference: Any, loaded: Any) -> None:
    frames = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = stride_4_logits(reference, loaded.network.normalise(frames)[0])
        assert expected.std() > 0.05
        torch.testing.assert_close(loaded.network(frames).logits, expected, atol=1e-4, rtol=0.0)


def test_smp_folder(reference: Any, tmp_path: Path) -> None:
    reference.save_pretrained(tmp_path)
    loaded = load_network(tmp_path, FIVE)
    assert "smp Segformer" in loaded.description
    check_equal(reference, loaded)


@pytest.mark.parametrize("wrapped", [False, True])
def test_nvlabs_file(reference: Any, tmp_path: Path, wrapped: bool) -> None:
    state = nvlabs_names(reference) | {"decode_head.conv_seg.weight": torch.zeros(5, 256, 1, 1)}
    state = {"module." * wrapped + name: tensor for name, tensor in state.items()}
    content = {
        "meta": {"CLASSES": ("e", "d", "c", "b", "a"), "epoch": 3},
        "state_dict": state,
        "optimizer": {"lr": 1.0},
    }
    path = tmp_path / "segformer.b0.pth"
    torch.save(content, path)
    loaded = load_path(path)
    assert "NVlabs SegFormer" in loaded.description
    assert loaded.class_names == ("e", "d", "c", "b", "a")
    assert loaded.config == SegformerConfig(loaded.config.encoder, 5, 256)  # type: ignore[union-attr, arg-type]
    check_equal(reference, loaded)
    ordered = load_network(path, FIVE)
    frames = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ordered.network(frames).logits, loaded.network(frames).logits.flip(1))


def test_encoder_alone_needs_a_word(reference: Any, tmp_path: Path) -> None:
    state = {n.removeprefix("encoder."): t for n, t in reference.state_dict().items() if n.startswith("encoder.")}
    path = tmp_path / "mit_b0.pth"
    torch.save(state | {"head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}, path)
    with pytest.raises(UserError, match=r"holds an encoder alone .*--init-head random"):
        load_network(path, CAMVID_11)
    with pytest.warns(UserWarning, match="its head is random"):
        loaded = load_network(path, CAMVID_11, NetworkOptions(init_head="random"))
    assert loaded.network.classes == 11
    assert "random head" in loaded.description
    frames = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        x = loaded.network.normalise(frames)[0]
        for ours, theirs in zip(loaded.network.encode(x), reference.encoder(x)[2:], strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0.0)


def mmseg_names(state: State) -> State:
    """Our names of MiT-B0 with mmsegmentation's head, in mmsegmentation's."""
    rules = [
        (r"stages\.(\d)\.embed\.proj\.", r"backbone.layers.\1.0.projection."),
        (r"stages\.(\d)\.embed\.norm\.", r"backbone.layers.\1.0.norm."),
        (r"stages\.(\d)\.norm\.", r"backbone.layers.\1.2."),
        (r"stages\.(\d)\.blocks\.(\d)\.(norm[12])\.", r"backbone.layers.\1.1.\2.\3."),
        (r"stages\.(\d)\.blocks\.(\d)\.attention\.out\.", r"backbone.layers.\1.1.\2.attn.attn.out_proj."),
        (r"stages\.(\d)\.blocks\.(\d)\.attention\.reduce\.", r"backbone.layers.\1.1.\2.attn.sr."),
        (r"stages\.(\d)\.blocks\.(\d)\.attention\.norm\.", r"backbone.layers.\1.1.\2.attn.norm."),
        (r"stages\.(\d)\.blocks\.(\d)\.ffn\.expand\.", r"backbone.layers.\1.1.\2.ffn.layers.0."),
        (r"stages\.(\d)\.blocks\.(\d)\.ffn\.depthwise\.", r"backbone.layers.\1.1.\2.ffn.layers.1."),
        (r"stages\.(\d)\.blocks\.(\d)\.ffn\.project\.", r"backbone.layers.\1.1.\2.ffn.layers.4."),
        (r"head\.linears\.(\d)\.0\.", r"decode_head.convs.\1.conv."),
        (r"head\.linears\.(\d)\.1\.", r"decode_head.convs.\1.bn."),
        (r"head\.fuse\.0\.", r"decode_head.fusion_conv.conv."), (r"head\.fuse\.1\.", r"decode_head.fusion_conv.bn."),
        (r"head\.classifier\.", r"decode_head.conv_seg."),
    ]  # fmt: skip
    renamed: State = {}
    for name, tensor in state.items():
        if ".attention.query." in name:
            parts = [state[name.replace("query", part)] for part in ("query", "key", "value")]
            stage, block, kind = re.findall(r"stages\.(\d)\.blocks\.(\d)\.attention\.query\.(\w+)", name)[0]
            renamed[f"backbone.layers.{stage}.1.{block}.attn.attn.in_proj_{kind}"] = torch.cat(parts)
            continue
        rule = next((rule for rule in rules if re.match(rule[0], name)), None)
        if rule is not None:
            matrix = tensor.dim() == 2 and ".ffn." in name
            renamed[re.sub(*rule, name)] = tensor[..., None, None] if matrix else tensor
    return renamed


def test_mmsegmentation_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network(NetworkConfig("mit_b0", "segformer_mmseg", 5, 32))
    shaken(network)
    state = mmseg_names({n: t for n, t in network.state_dict().items() if not n.startswith("light_head.")})
    assert len(state) == len([n for n in network.state_dict() if not n.startswith("light_head.")]) - 2 * 8 * 2
    torch.save({"state_dict": state}, tmp_path / "mmseg.pth")
    loaded = load_network(tmp_path / "mmseg.pth", FIVE)
    assert "mmsegmentation SegFormer" in loaded.description
    frames = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(loaded.network(frames).logits, network(frames).logits)
        head = loaded.network.head
        assert isinstance(head, NormedMLPHead)
        maps = network.encode(network.normalise(frames)[0])
        parts = []
        for index, x in enumerate(maps):
            conv, bn = f"decode_head.convs.{index}.conv.weight", f"decode_head.convs.{index}.bn"
            x = F.conv2d(x, state[conv])
            x = F.batch_norm(x, *(state[f"{bn}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))
            parts.append(F.interpolate(F.relu(x), maps[0].shape[-2:], mode="bilinear", align_corners=False))
        fused = F.conv2d(torch.cat(parts, 1), state["decode_head.fusion_conv.conv.weight"])
        bn = "decode_head.fusion_conv.bn"
        fused = F.batch_norm(fused, *(state[f"{bn}.{p}"] for p in ("running_mean", "running_var", "weight", "bias")))
        logits = F.conv2d(F.relu(fused), state["decode_head.conv_seg.weight"], state["decode_head.conv_seg.bias"])
        torch.testing.assert_close(loaded.network(frames).logits, logits, atol=1e-4, rtol=0.0)


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large",
    pytest.param("deeplabv3_mobilenet_v3_large", marks=pytest.mark.slow),
    pytest.param("deeplabv3_resnet50", marks=pytest.mark.slow), pytest.param("fcn_resnet50", marks=pytest.mark.slow),
])  # fmt: skip
def test_torchvision_file(name: str, tmp_path: Path) -> None:
    from torchvision.models import segmentation

    torch.manual_seed(0)
    auxiliary = {} if name.startswith("lraspp") else {"aux_loss": True}
    theirs = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=5, **auxiliary)
    shaken(theirs)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    loaded = load_network(tmp_path / "weights.pth", FIVE)
    assert loaded.config == ModuleConfig(f"torchvision:{name}", 5)
    assert ("auxiliary classifier is left out" in loaded.description) == bool(auxiliary)
    frames = torch.rand(1, 3, 70, 100)
    with torch.no_grad():
        expected = theirs(loaded.network.normalise(frames)[0])["out"]
        size = loaded.network(frames).padded
        assert size == (70, 100)
        torch.testing.assert_close(loaded.network(frames).full(), expected, atol=1e-4, rtol=1e-5)
    save_folder(tmp_path / "out", loaded.network, loaded.config, FIVE.names, {}, torch.float32)
    again = load_folder(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(again.network(frames).logits, loaded.network(frames).logits)


@pytest.mark.parametrize("dialect", ["nvlabs", "smp", "mmsegmentation"])
def test_weights_survive_reading_and_writing_bit_for_bit(dialect: str, reference: Any, tmp_path: Path) -> None:
    if dialect == "mmsegmentation":
        torch.manual_seed(0)
        network = shaken(build_network(NetworkConfig("mit_b0", "segformer_mmseg", 5, 32)))
        state = mmseg_names({n: t for n, t in network.state_dict().items() if not n.startswith("light_head.")})
    else:
        state = nvlabs_names(reference) if dialect == "nvlabs" else reference.state_dict()
    path, own, hf = tmp_path / "weights.pth", tmp_path / "own", tmp_path / "hf"
    torch.save(state, path)
    loaded = load_path(path)
    found = loaded.network.state_dict()
    total = sum(tensor.numel() for name, tensor in found.items() if not name.startswith("light_head."))
    assert total == sum(tensor.numel() for tensor in state.values())
    assert loaded.config is not None
    save_folder(own, loaded.network, loaded.config, FIVE.names, {}, torch.float32, light_head=False)
    folders = [own]
    if isinstance(loaded.config, SegformerConfig):
        save_hf_folder(hf, loaded.network, loaded.config, FIVE.names, torch.float32)
        folders.append(hf)
    for folder in folders:
        again = load_folder(folder).network.state_dict()
        assert all(torch.equal(again[n], tensor) for n, tensor in found.items() if not n.startswith("light_head."))
    if dialect == "smp":
        assert torch.equal(found["head.linears.0.weight"], state["decoder.mlp_stage.3.linear.weight"])
        torch.save(nvlabs_names(reference), path)
        other = load_path(path).network.state_dict()
        assert all(torch.equal(other[n], tensor) for n, tensor in found.items() if not n.startswith("light_head."))


def test_a_file_of_our_own_names_is_not_enough(tmp_path: Path) -> None:
    config = NetworkConfig("mit_b0", "segformer", 5, 16)
    save_folder(tmp_path, build_network(config), config, FIVE.names, {})
    refused(tmp_path / "model.safetensors", "in our own names, .*give the folder that holds both")


def test_the_head_of_an_encoder_alone_is_of_the_published_width(tmp_path: Path) -> None:
    encoder = smp.Segformer("mit_b1", encoder_weights=None, classes=5).encoder
    torch.save(encoder.state_dict(), tmp_path / "mit_b1.pth")
    with pytest.warns(UserWarning, match="its head is random"):
        loaded = load_path(tmp_path / "mit_b1.pth", init_head="random", classes=5)
    assert isinstance(loaded.config, SegformerConfig)
    assert loaded.config.head_width == 256


def refused(path: Path, words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_network(path, FIVE)
    assert re.search(words, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_damage_is_one_line(reference: Any, tmp_path: Path) -> None:
    path, state = tmp_path / "weights.pth", nvlabs_names(reference)
    torch.save(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, "truncated .*download or copy it again")
    path.write_bytes(whole[: len(whole) - 3])
    refused(path, "truncated .*download or copy it again")
    path.write_bytes(b"")
    refused(path, "truncated")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(500))
    refused(path, r"is no file of weights \(it begins with b'.x89PNG")
    torch.save({}, path)
    refused(path, "holds no tensors at all")
    empty = tmp_path / "empty.safetensors"
    save_file({}, empty)
    refused(empty, "empty.safetensors: holds no tensors at all")
    torch.save(torch.nn.Conv2d(3, 3, 1), path)
    refused(path, r"it asks for torch\.nn\.modules\.conv\.Conv2d; where you trust it, load it in Python and save")
    path.write_text("<!DOCTYPE html><title>404</title>")
    refused(path, "is text, not weights")
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    refused(path, "git lfs pull")
    torch.save([1, 2, 3], path)
    refused(path, "no state dict of tensors")
    torch.save({"layer9.weight": torch.zeros(2)}, path)
    refused(path, "belong to no dialect")
    torch.save({n: t for n, t in state.items() if "block2.1.norm1.bias" not in n}, path)
    refused(path, r"1 missing: stages\.1\.blocks\.1\.norm1\.bias")
    torch.save(state | {"backbone.extra.weight": torch.zeros(1)}, path)
    refused(path, r"1 unexpected: backbone\.extra\.weight")
    torch.save({n: t for n, t in state.items() if "linear_pred" not in n}, path)
    refused(path, "a part of a decode head")
    nan = state | {"decode_head.linear_pred.bias": torch.full((5,), float("nan"))}
    torch.save(nan, path)
    refused(path, "NaN or infinity, the first is head.classifier.bias")
    variance = next(name for name in state if name.endswith("running_var"))
    torch.save(state | {variance: -state[variance]}, path)
    refused(path, "1 variances are negative, the first is head.norm.running_var")
    torch.save(state | {variance: state[variance].to(torch.int8)}, path)
    refused(path, r"head.norm.running_var \(torch.int8 for torch.float32\); quantised weights have to be converted")


def test_other_smp_networks_are_named(tmp_path: Path) -> None:
    smp.Unet("resnet18", encoder_weights=None, classes=5).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="smp Unet with resnet18 is not read as a folder"):
        load_network(tmp_path, FIVE)
