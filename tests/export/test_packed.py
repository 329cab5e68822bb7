"""Learned convolutions as inputs in ONNX Runtime's own layout: the same answers, and no new session."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from test_onnx_predictor import SIZE, change, convolutional, expected
from torch import nn

from online_uda.export import onnx_predictor
from online_uda.export.graph import export_graph, movable_names, weights_of
from online_uda.export.onnx_predictor import OnnxPredictor
from online_uda.export.packed import AffineNorm, Layout, blocked, pack, split_derived, with_affine_norms
from online_uda.networks.mit import MiTConfig
from online_uda.networks.predictor import Wishes
from online_uda.networks.segmenter import SegformerConfig, Segmenter, build_segformer


def segformer() -> Segmenter:
    """Widths that fill blocks, and a number of classes that does not."""
    torch.manual_seed(0)
    encoder = MiTConfig((16, 32, 32, 48), (1, 1, 1, 1), (1, 1, 2, 3))
    network = build_segformer(SegformerConfig(encoder, 5, head_width=32, light_width=4)).train()
    network(torch.rand(2, 3, *SIZE))  # BatchNorm statistics of its own
    return network.eval()


def learning(network: Segmenter) -> tuple[str, ...]:
    return tuple(name for name, _ in network.named_parameters() if not name.startswith("light_head."))


@pytest.mark.parametrize("make", [segformer, convolutional])
def test_a_session_stays_while_all_weights_and_statistics_move(make: Callable[[], Segmenter]) -> None:
    network = make()
    names = (*learning(network), "head.norm.running_mean", "head.norm.running_var")
    predictor = OnnxPredictor(network, Wishes(names, ("head.norm",)), SIZE, 1)
    assert predictor.by_input
    session = predictor._sizes[SIZE]._now.session
    frames = torch.rand(1, 3, *SIZE)
    for seed in range(3):
        before = predictor.predict(frames)[0].logits
        change(network, names, seed)
        assert torch.equal(predictor.predict(frames)[0].logits, before)  # not before they are published
        predictor.publish(network)
        after, moments = predictor.predict(frames)
        torch.testing.assert_close(after.logits, expected(network, frames), rtol=0, atol=1e-4)
        assert (after.logits - before).abs().max() > 1e-2
        assert len(moments) == 1
    assert predictor._sizes[SIZE]._now.session is session


def test_what_follows_from_weights_alone_is_not_computed_with_every_frame() -> None:
    network = segformer()
    graph = export_graph(network, SIZE, learning(network), prepare=with_affine_norms)
    rest, derived = split_derived(graph)
    assert derived is not None
    assert {node.op_type for node in derived.graph.node} >= {"MatMul"}  # fuse x projection, in the head
    assert set(movable_names(derived)) == {item.name for item in derived.graph.input}
    assert len(rest.graph.node) + len(derived.graph.node) >= len(graph.graph.node)
    assert sum(node.op_type == "MatMul" for node in rest.graph.node) < sum(
        node.op_type == "MatMul" for node in graph.graph.node
    )
    assert set(movable_names(rest)) < set(movable_names(graph))


def test_convolutions_of_the_packed_graph_read_inputs() -> None:
    network = segformer()
    graph = export_graph(network, SIZE, learning(network), prepare=with_affine_norms)
    packed = pack(graph, weights_of(network), 1)
    assert packed is not None
    inputs = {item.name for item in packed.model.graph.input}
    convolutions = [node for node in packed.model.graph.node if node.op_type == "Conv"]
    assert convolutions
    assert all(node.input[1] in inputs for node in convolutions)


@pytest.mark.parametrize(
    ("shape", "arranged"), [((32, 16, 3, 3), (2, 1, 3, 3, 16, 16)), ((32, 3, 7, 7), (2, 3, 7, 7, 16))]
)
def test_blocks_hold_every_weight_once(shape: tuple[int, ...], arranged: tuple[int, ...]) -> None:
    weight = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape)
    laid = blocked(weight, 16)
    assert tuple(laid.shape) == arranged
    assert torch.equal(laid.flatten().sort().values, weight.flatten())
    # (o, i, y, x) lies at block of o, block of i, y, x, i, o.
    if shape[1] == 16:
        assert laid[1, 0, 2, 1, 5, 3] == weight[16 + 3, 5, 2, 1]
    else:
        assert laid[1, 2, 6, 4, 3] == weight[16 + 3, 2, 6, 4]


def test_missing_output_channels_are_zero() -> None:
    weight = torch.rand(5, 16, 1, 1)
    room = torch.full((16, 16, 1, 1), torch.nan)
    Layout((16, 16, 1, 1), 16).write(weight, room)
    laid = room.view(1, 1, 1, 1, 16, 16)
    assert torch.equal(laid[0, 0, 0, 0, :, :5], weight[:, :, 0, 0].T)
    assert not laid[..., 5:].any()


def test_a_norm_as_a_convolution_answers_alike() -> None:
    norm = nn.BatchNorm2d(6).train()
    norm(torch.rand(4, 6, 5, 5) * 3)
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    frames = torch.rand(2, 6, 7, 7)
    torch.testing.assert_close(AffineNorm(norm)(frames), norm.eval()(frames))


def test_weights_that_onnx_runtime_changes_come_with_a_new_session(monkeypatch: pytest.MonkeyPatch) -> None:
    # Plain BatchNorms beside convolutions that are constants are folded into them.
    monkeypatch.setattr(onnx_predictor, "with_affine_norms", lambda network: network)
    network = convolutional()
    names = tuple(name for name in learning(network) if name.startswith("stages."))
    names = tuple(name for name in names if network.get_submodule(name.rpartition(".")[0]).__class__ is nn.Conv2d)
    predictor = OnnxPredictor(network, Wishes(names), SIZE, 1)
    assert not predictor.by_input
    frames, other = torch.rand(1, 3, *SIZE), copy.deepcopy(network)
    change(other, names)
    predictor.publish(other)
    torch.testing.assert_close(predictor.predict(frames)[0].logits, expected(other, frames), rtol=0, atol=1e-4)
