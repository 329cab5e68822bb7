"""Any encoder with any head: timm's features, sizes of the heads, gradients everywhere, names and descriptions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from online_uda.errors import USER_ERRORS, UserError
from online_uda.networks.architecture import NetworkConfig, build_network
from online_uda.networks.checkpoint_writer import save_folder
from online_uda.networks.checkpoints import load_folder
from online_uda.networks.head_daformer import DAFormerHead, Fusion, InterlacedAttention
from online_uda.networks.segmenter import Segmenter
from online_uda.networks.spec import NetworkOptions, form_of, parse_architecture, read_description
from online_uda.networks.timm_stages import ListStage, timm_encoder
from online_uda.networks.zoo import architecture, load_network
from streams.classes import CAMVID_11

HELPERS = ("light_head.", "head.auxiliary.")
LISTED = ["resnet18", "convnext_atto", "swin_tiny_patch4_window7_224", "mobilenetv3_small_050", "efficientnet_b0"]


def network_of(text: str, classes: int = 5, **changes: Any) -> Segmenter:
    torch.manual_seed(0)
    spec = parse_architecture(text)
    return build_network(
        NetworkConfig(spec.encoder, spec.head, classes, width=16, fusion=spec.fusion, light_width=8, **changes)
    )


SWEEP = pytest.mark.skipif(os.environ.get("ONLINE_UDA_SWEEP") != "all", reason="ONLINE_UDA_SWEEP=all runs them all")
LARGER = ["resnet101", "convnext_base", "swin_base_patch4_window7_224", "mobilenetv3_large_100", "pvt_v2_b2",
          "efficientnet_b1"]  # fmt: skip


@pytest.mark.parametrize("name", [
    *LISTED, "pvt_v2_b0", *(pytest.param(name, marks=[pytest.mark.slow, SWEEP]) for name in LARGER),
])  # fmt: skip
def test_stage_maps_are_timms_features(name: str) -> None:
    extra: dict[str, Any] = {"strict_img_size": False} if name.startswith("swin") else {}
    torch.manual_seed(0)
    encoder = timm_encoder(name)
    torch.manual_seed(0)
    reductions = timm.create_model(name, features_only=True).feature_info.reduction()
    torch.manual_seed(0)
    indices = tuple(index for index, stride in enumerate(reductions) if stride >= 4)
    reference = timm.create_model(name, features_only=True, out_indices=indices, **extra).eval()
    x = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = [y.permute(0, 3, 1, 2) if name.startswith("swin") else y for y in reference(x)]
        for stage, width, wanted in zip(encoder.stages, encoder.widths, expected, strict=True):
            assert isinstance(stage, ListStage)
            x = stage.eval()(x)
            assert x.shape[1] == width
            assert wanted.std() > 0.0
            torch.testing.assert_close(x, wanted, atol=1e-4, rtol=0.0)
            if isinstance(stage.norm, nn.LayerNorm):
                normed = F.layer_norm(wanted.permute(0, 2, 3, 1), (width,)).permute(0, 3, 1, 2)
                torch.testing.assert_close(stage.tap(x), normed, atol=1e-4, rtol=0.0)


@pytest.mark.parametrize("name", [
    "vit_tiny_patch16_224", "deit_tiny_patch16_224",
    *(pytest.param(name, marks=[pytest.mark.slow, SWEEP])
      for name in ("beit_base_patch16_224", "vit_base_patch16_224.mae")),
])  # fmt: skip
def test_plain_transformer_is_timms_up_to_the_pyramid(name: str) -> None:
    height, width = (224, 224) if name.startswith("beit") else (64, 96)
    any_size = {} if name.startswith("beit") else {"dynamic_img_size": True}
    torch.manual_seed(0)
    encoder = timm_encoder(name)
    torch.manual_seed(0)
    reference = timm.create_model(name, num_classes=0, **any_size).eval()
    frame = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = reference.forward_intermediates(frame, indices=[2, 5, 8, 11], intermediates_only=True)
        x: Any = frame
        for index, (stage, wanted) in enumerate(zip(encoder.stages, expected, strict=True)):
            x = stage.eval()(x)
            tokens, grid = x
            cells = tokens[:, 1:].transpose(1, 2).unflatten(2, grid)
            torch.testing.assert_close(cells, wanted, atol=1e-4, rtol=0.0)
            stride = 4 * 2**index
            assert stage.tap(x).shape[-2:] == (height // stride, width // stride)  # type: ignore[operator]


FUSIONS: list[tuple[Fusion, int]] = [("conv1", 262_144), ("sep_aspp", 3_435_520), ("aspp", 9_699_328)]


@pytest.mark.parametrize(("fusion", "count"), FUSIONS)
def test_daformer_fusions_have_the_published_weights(fusion: Fusion, count: int) -> None:
    """specs/seed-systems.md 2: fusion weights for 4 x 256 to 256 channels, without norms."""
    head = DAFormerHead((32, 64, 160, 256), 256, 19, fusion)
    convolutions = [module.weight for module in head.fuse.modules() if isinstance(module, nn.Conv2d)]
    assert sum(weight.numel() for weight in convolutions) == count


def test_interlaced_attention_sees_far_and_near_pixels_at_any_size() -> None:
    torch.manual_seed(0)
    block = InterlacedAttention(6, 8, factor=4).eval()
    x = torch.randn(1, 6, 10, 13, requires_grad=True)
    y = block(x)
    assert y.shape == (1, 8, 10, 13)
    y[0, :, 5, 5].sum().backward()
    assert x.grad is not None
    reached = x.grad.abs().sum((0, 1)) > 0
    assert reached[1, 1]  # a block away, at the same place in its block
    assert reached[6, 6]  # the same block
    assert reached.float().mean() > 0.9  # two steps reach everything


HEADS = ["segformer", "daformer.conv1", "daformer.aspp", "daformer.isa", "daformer.sepaspp_bottleneck", "upernet",
         "deeplabv3plus"]  # fmt: skip


@pytest.mark.parametrize("text", [
    *(f"mit_b0+{head}" for head in HEADS), *(f"timm:{name}" for name in LISTED), "timm:vit_tiny_patch16_224+upernet",
    "timm:pvt_v2_b0+daformer", "timm:convnext_atto+deeplabv3plus", "timm:vit_tiny_patch16_224+deeplabv3plus",
])  # fmt: skip
def test_every_parameter_is_reached_and_folders_round_trip(text: str, tmp_path: Path) -> None:
    network = network_of(text).train()
    frames = torch.rand(1, 3, 70, 100)
    output = network(frames)
    loss = output.full().square().sum()
    if output.auxiliary is not None:
        loss = loss + output.auxiliary.square().sum()
    loss.backward()
    assert output.full().shape == (1, 5, 70, 100)
    lost = [n for n, p in network.named_parameters() if p.grad is None and not n.startswith("light_head.")]
    assert lost == []
    network.eval()
    stages: Tensor = network.light(frames).logits
    assert stages.shape[:2] == (1, 5)
    spec = parse_architecture(text)
    config = NetworkConfig(spec.encoder, spec.head, 5, width=16, fusion=spec.fusion, light_width=8)
    save_folder(tmp_path, network, config, tuple("abcde"), {}, dtype=torch.float32)
    again = load_folder(tmp_path)
    assert again.config == config
    with torch.no_grad():
        assert torch.equal(again.network(frames).logits, network(frames).logits)


def test_auxiliary_head_only_speaks_while_it_is_trained() -> None:
    network, frames = network_of("mit_b0+upernet"), torch.rand(1, 3, 64, 64)
    assert network.train()(frames).auxiliary is not None
    assert network.eval()(frames).auxiliary is None
    network.train().head.get_submodule("auxiliary").requires_grad_(False)
    assert network(frames).auxiliary is None


def test_input_statistics_are_the_encoders_unless_given() -> None:
    assert network_of("timm:vit_tiny_patch16_224").get_buffer("mean").flatten().tolist() == [0.5, 0.5, 0.5]
    given = network_of("timm:vit_tiny_patch16_224", mean=(0.1, 0.2, 0.3))
    assert given.get_buffer("mean").flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_drop_path_reaches_the_encoder() -> None:
    rates = [
        float(module.drop_prob)
        for module in network_of("timm:convnext_atto", drop_path=0.3).modules()
        if type(module).__name__ == "DropPath"
    ]
    assert max(rates) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("timm:resnet18+segfromer", "did you mean segformer?"),
        ("mit_b0+daformer.asp", "did you mean aspp?"),
        ("mit_b9", "did you mean mit_b"),
        ("mit_b0+upernet.isa", "belongs to head daformer"),
        ("timm:", "expected ENCODER+HEAD"),
    ],
)
def test_unknown_parts_are_named(text: str, words: str) -> None:
    with pytest.raises(USER_ERRORS) as caught:
        parse_architecture(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        ("resnet118", "did you mean .*resnet1"),
        ("hrnet_w18", "cannot be cut into stages"),
        ("vit_tiny_patch16_224", "frames of any size; drop image_size"),
        ("vit_small_patch32_224", "patches of 32 pixels"),
        ("vit_small_patch14_reg4_dinov2", "reg_token is not supported"),
    ],
)
def test_encoders_that_do_not_fit_say_why(encoder: str, words: str) -> None:
    size = (64, 64) if encoder == "vit_tiny_patch16_224" else None
    with pytest.raises(UserError, match=words):
        timm_encoder(encoder, image_size=size)


def test_description_file_says_what_is_built(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("encoder: mit_b0\nhead: daformer\nfusion: conv1\nwidth: 24\nlight_width: 12\ninit: random\n")
    with pytest.warns(UserWarning, match="random weights"):
        loaded = load_network(path, CAMVID_11)
    head = loaded.network.head
    assert isinstance(head, DAFormerHead)
    assert head.classifier.weight.shape == (11, 24, 1, 1)
    assert loaded.network.light_head.project.out_channels == 12
    save_folder(tmp_path / "out", loaded.network, architecture(str(path), 11), CAMVID_11.names, {}, torch.float32)
    (tmp_path / "out" / "model.safetensors").rename(tmp_path / "mine.safetensors")
    path.write_text(path.read_text().replace("init: random", "weights: mine.safetensors"))
    again = load_network(path, CAMVID_11)
    frames = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again.network(frames).logits, loaded.network(frames).logits)
    assert again.has_light_head


def test_description_faults_have_a_place(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("encoder: mit_b9\nhaed: upernet\nweights: gone.pth\nstd: [0.2, 0.0, 0.2]\n")
    with pytest.raises(USER_ERRORS) as caught:
        read_description(str(path))
    assert "mine.yaml:2:1" in str(caught.value)
    path.write_text("encoder: mit_b0\nweights: gone.pth\n")
    with pytest.raises(UserError, match=r"weights: no file .*gone.pth"):
        read_description(str(path))


def test_pretrained_encoder_needs_a_word_about_the_head() -> None:
    with pytest.raises(UserError, match="--init-head random"):
        load_network("timm:resnet18", CAMVID_11, NetworkOptions(init="pretrained"))


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("segformer_b0", "name"), ("timm:resnet18+upernet", "architecture"), ("mit_b2", "architecture"),
        ("my/net.yaml", "description"), ("daformer_b5", "description"), ("package.module:make", "function"),
        ("hf:nvidia/x", "hub"), ("some/folder", "path"), ("segfromer_b0", "path"),
    ],
)  # fmt: skip
def test_forms_of_a_name(text: str, form: str) -> None:
    assert form_of(text) == form
