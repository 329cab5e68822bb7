"""ONNX Runtime behind the predictor interface: the same answers as torch, also after weights have changed."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from online_uda.adaptation.norm import NormStatistics
from online_uda.adaptation.settings import NormSettings
from online_uda.errors import UserError
from online_uda.export import onnx_predictor
from online_uda.export.graph import weights_of, with_constants
from online_uda.export.onnx_predictor import OnnxPredictor
from online_uda.export.parity import perturbed
from online_uda.export.session import check_provider, open_session
from online_uda.networks.heads import AllMLPHead, LightHead
from online_uda.networks.mit import MiTConfig
from online_uda.networks.predictor import WatchedNetwork, Wishes, aliased
from online_uda.networks.segmenter import SegformerConfig, Segmenter, build_segformer

SIZE = (64, 96)
NORMS = ("stages.0.1.weight", "stages.0.1.running_mean", "stages.0.1.running_var", "head.norm.bias")


def convolutional() -> Segmenter:
    """Two stages of convolution and BatchNorm with statistics of their own."""
    torch.manual_seed(0)
    stages: list[nn.Module] = [
        nn.Sequential(nn.Conv2d(3, 8, 7, 4, 3), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
    ]
    network = Segmenter(stages, AllMLPHead((8, 16), 16, 5), LightHead(8, 4, 5)).train()
    network(torch.rand(2, 3, *SIZE))
    return network.eval()


def expected(network: Segmenter, frames: Tensor) -> Tensor:
    with torch.no_grad():
        return network(frames).logits


def change(network: Segmenter, names: tuple[str, ...], seed: int = 1) -> None:
    """Moves the named weights in place, as learning does."""
    weights = {name: value for name, value in weights_of(network).items() if name in names}
    for name, value in perturbed(weights, torch.Generator().manual_seed(seed)).items():
        weights[name].copy_(value)


@pytest.fixture(scope="module")
def by_input() -> tuple[Segmenter, OnnxPredictor]:
    network = convolutional()
    watched = ("stages.0.1", "stages.1.1", "head.norm")
    return network, OnnxPredictor(network, Wishes(NORMS, watched), SIZE, 1)


def test_weights_are_swapped_in_the_running_session(by_input: tuple[Segmenter, OnnxPredictor]) -> None:
    network, predictor = by_input
    assert predictor.by_input
    frames = torch.rand(1, 3, *SIZE)
    for seed in range(3):
        before = predictor.predict(frames)[0].logits
        change(network, NORMS, seed)
        assert torch.equal(predictor.predict(frames)[0].logits, before)  # not before they are published
        predictor.publish(network)
        after = predictor.predict(frames)[0]
        torch.testing.assert_close(after.logits, expected(network, frames), rtol=0, atol=1e-4)
        assert (after.logits - before).abs().max() > 1e-2
        assert (after.size, after.padded) == (SIZE, SIZE)


def test_another_network_of_the_same_shape_can_be_published(by_input: tuple[Segmenter, OnnxPredictor]) -> None:
    network, predictor = by_input
    other, frames = copy.deepcopy(network), torch.rand(1, 3, *SIZE)
    change(other, NORMS, 7)
    predictor.publish(other)
    torch.testing.assert_close(predictor.predict(frames)[0].logits, expected(other, frames), rtol=0, atol=1e-4)
    predictor.publish(network)
    torch.testing.assert_close(predictor.predict(frames)[0].logits, expected(network, frames), rtol=0, atol=1e-4)


def test_moments_of_batchnorm_inputs_are_those_recorded_in_torch(by_input: tuple[Segmenter, OnnxPredictor]) -> None:
    network, predictor = by_input
    predictor.publish(network)
    frames = torch.rand(1, 3, *SIZE)
    here, there = copy.deepcopy(network), copy.deepcopy(network)
    settings = NormSettings(statistics="stream", momentum=0.5)
    recorded, noted = NormStatistics(here, settings), NormStatistics(there, settings)
    with torch.no_grad(), recorded.predicting():
        here(frames)
    noted.note(predictor.predict(frames)[1])
    assert recorded.absorb()
    assert noted.absorb()
    for mine, theirs in zip(there.buffers(), here.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_prediction_meets_old_or_new_weights_but_no_mixture(by_input: tuple[Segmenter, OnnxPredictor]) -> None:
    network, predictor = by_input
    frames, other = torch.rand(1, 3, *SIZE), copy.deepcopy(network)
    change(other, NORMS, 9)
    allowed = []
    for source in (network, other):
        predictor.publish(source)
        allowed.append(predictor.predict(frames)[0].logits)
    stop = threading.Event()

    def publish() -> None:
        while not stop.is_set():
            predictor.publish(network)
            predictor.publish(other)

    worker = threading.Thread(target=publish)
    worker.start()
    try:
        answers = [predictor.predict(frames)[0].logits for _ in range(100)]
    finally:
        stop.set()
        worker.join()
    assert all(any(torch.equal(answer, one) for one in allowed) for answer in answers)


def test_frames_of_another_size_get_a_graph_of_their_own(by_input: tuple[Segmenter, OnnxPredictor]) -> None:
    network, predictor = by_input
    change(network, NORMS, 11)
    predictor.publish(network)
    frames = torch.rand(1, 3, 66, 70)
    answer = predictor.predict(frames)[0]
    assert (answer.size, answer.padded) == ((66, 70), (68, 72))
    torch.testing.assert_close(answer.logits, expected(network, frames), rtol=0, atol=1e-4)


def test_a_network_that_never_learns() -> None:
    network, frames = convolutional(), torch.rand(1, 3, *SIZE)
    predictor = OnnxPredictor(network, Wishes(), SIZE, 1)
    predictor.publish(network)
    answer, moments = predictor.predict(frames)
    torch.testing.assert_close(answer.logits, expected(network, frames), rtol=0, atol=1e-4)
    assert not moments


def test_convolutions_that_learn_come_with_a_new_session_where_they_cannot_be_inputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(onnx_predictor, "pack", lambda *_: None)
    torch.manual_seed(0)
    encoder = MiTConfig((8, 8, 8, 8), (1, 1, 1, 1), (1, 1, 1, 1))
    network = build_segformer(SegformerConfig(encoder, 4, head_width=8, light_width=4)).eval()
    names = tuple(name for name, _ in network.named_parameters() if not name.startswith("light_head."))
    predictor = OnnxPredictor(network, Wishes(names), SIZE, 1)
    assert not predictor.by_input
    frames = torch.rand(1, 3, *SIZE)
    torch.testing.assert_close(predictor.predict(frames)[0].logits, expected(network, frames), rtol=0, atol=1e-4)
    session = predictor._sizes[SIZE]._now
    predictor.publish(network)
    assert predictor._sizes[SIZE]._now is session  # nothing has moved
    change(network, names)
    predictor.publish(network)
    torch.testing.assert_close(predictor.predict(frames)[0].logits, expected(network, frames), rtol=0, atol=1e-4)


def test_an_export_that_folds_a_moving_weight_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    original = onnx_predictor.export_graph

    def deaf(network: Segmenter, *rest: Any, **more: Any) -> Any:
        # The weight stays an input, as after a naive promotion of initializers, but nothing reads it any more.
        model = original(network, *rest, **more)
        name = "head.norm.bias"
        fixed = with_constants(model, {name: weights_of(network)[name]})
        for node in fixed.graph.node:
            for place, read in enumerate(node.input):
                if read == name:
                    node.input[place] = "folded"
        for item in fixed.graph.initializer:
            if item.name == name:
                item.name = "folded"
        fixed.graph.input.extend(item for item in model.graph.input if item.name == name)
        fixed.graph.initializer.extend(item for item in model.graph.initializer if item.name == name)
        return fixed

    monkeypatch.setattr(onnx_predictor, "export_graph", deaf)
    with pytest.raises(UserError, match="differ from torch's"):
        OnnxPredictor(convolutional(), Wishes(("head.norm.bias",)), SIZE, 1)


def test_a_silent_fallback_is_an_error() -> None:
    check_provider(["CUDAExecutionProvider", "CPUExecutionProvider"], "CUDAExecutionProvider")
    with pytest.raises(UserError, match="fell back to CPUExecutionProvider"):
        check_provider(["CPUExecutionProvider"], "CUDAExecutionProvider")


def test_a_gpu_that_is_not_there_is_an_error() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UserError, match=r"CUDAExecutionProvider|cannot open"):
        open_session(b"", torch.device("cuda", 0), 1)


def test_an_alias_shares_weights_but_neither_modes_nor_hooks() -> None:
    network = convolutional().train()
    other = aliased(network)
    WatchedNetwork(other, ("head.norm",))
    assert not other.training
    assert not network.get_submodule("head.norm")._forward_pre_hooks
    for name, value in weights_of(network).items():
        assert weights_of(other)[name].data_ptr() == value.data_ptr()
    assert not any(parameter.requires_grad for parameter in other.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())
