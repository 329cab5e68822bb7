"""SegFormer's own maths: sizes, parameter counts, the folded head, and input of any size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from online_uda.networks.heads import AllMLPHead, LightHead
from online_uda.networks.mit import DropPath, EfficientAttention
from online_uda.networks.segmenter import Segmenter, build_segformer, padded_size, segformer_config, to_full_size


def small_network(classes: int = 7) -> Segmenter:
    torch.manual_seed(0)
    return build_segformer(segformer_config("b0", classes)).eval()


def random_statistics(network: torch.nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2.0)


def test_module_parameter_counts_of_mit_b1() -> None:
    """specs/hamlet.md section 9, check 8: what is trainable when updates start at module n."""
    network = build_segformer(segformer_config("b1", 19))
    counts = [sum(p.numel() for _, p in network.module_parameters(index)) for index in range(4)]
    suffixes = [sum(counts[index:]) / 1e6 for index in range(4)]
    assert suffixes == pytest.approx([13.41, 12.76, 11.72, 7.95], abs=0.005)
    in_modules = {name for index in range(4) for name, _ in network.module_parameters(index)}
    rest = [p for name, p in network.named_parameters() if name not in in_modules and not name.startswith("light_head")]
    assert sum(p.numel() for p in rest) / 1e6 == pytest.approx(0.268, abs=0.0005)


def test_modules_do_not_overlap() -> None:
    network = small_network()
    names = [name for index in range(4) for name, _ in network.module_parameters(index)]
    assert len(names) == len(set(names))
    assert set(names) < {name for name, _ in network.named_parameters()}


@pytest.mark.parametrize(
    ("variant", "millions"), [("b0", 3.7), ("b1", 13.7), ("b2", 27.5), ("b3", 47.3), ("b4", 64.1), ("b5", 84.7)]
)
def test_sizes_of_the_paper(variant: str, millions: float) -> None:
    """Parameters of encoder and decoder, Table 1 of the SegFormer paper (classes of ADE20K)."""
    with torch.device("meta"):
        config = segformer_config(variant, 150)
        network = build_segformer(config)
    count = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("light_head"))
    assert count / 1e6 == pytest.approx(millions, abs=0.15)


def literal_head(head: AllMLPHead, features: list[Tensor]) -> Tensor:
    """The head in the order of the paper: project, upsample, concatenate deepest first, fuse."""
    size = features[0].shape[-2:]
    maps = []
    for linear, feature in zip(head.linears, features, strict=True):
        projected = linear(feature.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        maps.append(F.interpolate(projected, size=size, mode="bilinear", align_corners=False))
    fused = head.fuse(torch.cat(maps[::-1], dim=1))
    return head.classifier(F.relu(head.norm(fused)))


def test_folded_head_equals_the_literal_order() -> None:
    torch.manual_seed(3)
    head = AllMLPHead((8, 12, 16, 20), embed=24, classes=5).eval()
    random_statistics(head)
    for linear in head.linears:
        torch.nn.init.normal_(linear.bias)
    features = [torch.randn(2, width, 16 >> i, 24 >> i) for i, width in enumerate((8, 12, 16, 20))]
    with torch.no_grad():
        torch.testing.assert_close(head(features), literal_head(head, features), atol=1e-5, rtol=1e-5)


def test_folded_head_has_the_gradients_of_the_literal_order() -> None:
    torch.manual_seed(4)
    head = AllMLPHead((4, 6, 8, 10), embed=12, classes=3).eval().double()
    features = [torch.randn(1, w, 8 >> i, 8 >> i, dtype=torch.float64) for i, w in enumerate((4, 6, 8, 10))]
    parameters = list(head.parameters())
    ours = torch.autograd.grad(head(features).square().sum(), parameters)
    literal = torch.autograd.grad(literal_head(head, features).square().sum(), parameters)
    for a, b in zip(ours, literal, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("size", [(37, 91), (100, 132), (64, 64), (130, 66)])
def test_any_size_is_padded_and_cropped_back(size: tuple[int, int]) -> None:
    network = small_network()
    frames = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output = network(frames)
        below, right = (edge - own for edge, own in zip(padded_size(size), size, strict=True))
        by_hand = network(F.pad(frames, (0, right, 0, below), mode="replicate"))
    assert output.size == size
    assert output.padded == padded_size(size) == tuple(4 * edge for edge in output.logits.shape[-2:])
    assert output.full().shape == (2, 7, *size)
    assert output.labels().dtype == torch.uint8
    torch.testing.assert_close(output.full(), by_hand.full()[..., : size[0], : size[1]])
    light = network.light(frames)
    assert light.full().shape == (2, 7, *size)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 400), st.integers(1, 400))
def test_padding_is_the_smallest_multiple_of_four(height: int, width: int) -> None:
    padded = padded_size((height, width))
    for edge, own in zip(padded, (height, width), strict=True):
        assert edge % 4 == 0
        assert edge >= max(own, 64)
        assert edge - own < 4 or edge == 64


def test_labels_at_another_size_ignore_the_padding() -> None:
    logits = torch.zeros(1, 2, 16, 25)
    logits[:, 1, :, :20] = 1.0  # class 1 on the left four fifths of the padded frame
    full = to_full_size(logits, (64, 76), (64, 100), (32, 38))
    assert full.shape == (1, 2, 32, 38)
    assert bool((full[:, 1] > full[:, 0]).all())


def test_light_output_depends_on_the_first_stage_only() -> None:
    network = small_network()
    frames = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before, main = network.light(frames).logits, network(frames).logits
        for stage in list(network.stages)[1:]:
            for parameter in stage.parameters():
                parameter.add_(0.1)
        network.head.classifier.bias.add_(1.0)
        assert torch.equal(network.light(frames).logits, before)
        assert not torch.allclose(network(frames).logits, main)


def test_light_head_looks_around_but_not_across_the_frame() -> None:
    torch.manual_seed(0)
    head = LightHead(6, 8, 3).eval()
    stage1 = torch.randn(1, 6, 32, 32)
    nudged = stage1.clone()
    nudged[..., 16, 16] += 1.0
    with torch.no_grad():
        changed = (head(stage1) != head(nudged)).any(1)[0]
    rows, columns = torch.nonzero(changed, as_tuple=True)
    assert {(r - 16, c - 16) for r, c in zip(rows.tolist(), columns.tolist(), strict=True)} == {
        (r, c) for r in (-4, 0, 4) for c in (-4, 0, 4)
    }


def test_light_head_has_finite_gradients_under_bf16() -> None:
    """Channels-last maps of tokens, as the encoder makes them: here bf16 gradients of the convolution were NaN."""
    network = small_network(19).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = network.light(torch.rand(2, 3, 128, 256))
    assert output.logits.dtype == torch.float32
    output.logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.light_head.parameters())


def test_attention_equals_the_textbook_formula() -> None:
    torch.manual_seed(0)
    attention = EfficientAttention(width=12, heads=3, reduction=2)
    x = torch.randn(2, 4, 6, 12)
    context = attention.norm(attention.reduce(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)).reshape(2, -1, 12)
    query, key, value = attention.query(x).reshape(2, -1, 12), attention.key(context), attention.value(context)
    heads = []
    for part in range(3):
        span = slice(4 * part, 4 * part + 4)
        weights = torch.softmax(query[..., span] @ key[..., span].transpose(1, 2) / 4**0.5, dim=-1)
        heads.append(weights @ value[..., span])
    expected = attention.out(torch.cat(heads, dim=-1)).reshape(2, 4, 6, 12)
    torch.testing.assert_close(attention(x), expected, atol=1e-5, rtol=1e-5)


def test_drop_path_keeps_the_mean_and_drops_whole_samples() -> None:
    torch.manual_seed(0)
    layer = DropPath(0.25).train()
    out = layer(torch.ones(4000, 2, 3))
    assert sorted(set(out.flatten().tolist())) == pytest.approx([0.0, 1 / 0.75])
    assert bool((out.flatten(1).std(dim=1) == 0).all())
    assert out.mean().item() == pytest.approx(1.0, abs=0.04)
    assert torch.equal(layer.eval()(torch.ones(3, 2)), torch.ones(3, 2))
