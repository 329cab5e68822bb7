"""BatchNorm statistics of the source, of the stream and of the frame, against torch's own batch normalisation."""

from __future__ import annotations

import pytest
import torch
from recipe_kit import changed, copy_of, stream, trained
from torch import nn

from online_uda.adaptation.norm import NormStatistics, batch_norms
from online_uda.adaptation.settings import NormSettings


def predict(network: nn.Module, norm: NormStatistics, frames: torch.Tensor) -> torch.Tensor:
    with torch.no_grad(), norm.predicting():
        return network(frames).logits


def test_layers_are_those_outside_the_light_head() -> None:
    assert len(batch_norms(trained("batchnorm"))) == 5
    network = trained("layernorm")
    assert batch_norms(network) == [network.head.norm]


@pytest.mark.parametrize("momentum", [0.1, 0.5, 1.0])
def test_stream_statistics_equal_a_hand_made_average(momentum: float) -> None:
    """The first layer sees the first convolution's output, whatever the statistics: its average is easy by hand."""
    network = trained("batchnorm")
    stage = network.stages[0]
    mean = stage[1].running_mean.double()
    var = stage[1].running_var.double()
    norm = NormStatistics(network, NormSettings(statistics="stream", momentum=momentum))
    for frames in stream(4):
        predict(network, norm, frames)
        assert norm.absorb()
        with torch.no_grad():
            x = stage[0](network.normalise(frames)[0]).double()
        mean = (1.0 - momentum) * mean + momentum * x.mean((0, 2, 3))
        var = (1.0 - momentum) * var + momentum * ((x - x.mean((0, 2, 3), keepdim=True)) ** 2).mean((0, 2, 3))
        torch.testing.assert_close(stage[1].running_mean.double(), mean, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(stage[1].running_var.double(), var, atol=1e-5, rtol=1e-5)


def test_every_layer_is_fed_from_the_prediction_with_the_statistics_before_it() -> None:
    network, reference = trained("batchnorm"), trained("batchnorm")
    norm = NormStatistics(network, NormSettings(statistics="stream", momentum=1.0))
    frames = next(stream(1))
    assert torch.equal(predict(network, norm, frames), reference(frames).logits)
    seen: dict[int, torch.Tensor] = {}
    layers = batch_norms(reference)
    for index, layer in enumerate(layers):
        layer.register_forward_hook(lambda _, inputs, __, index=index: seen.update({index: inputs[0].detach()}))
    reference(frames)
    norm.absorb()
    for index, layer in enumerate(batch_norms(network)):
        torch.testing.assert_close(layer.running_mean, seen[index].mean((0, 2, 3)), atol=1e-5, rtol=1e-5)


def test_a_prediction_is_absorbed_once_and_recorded_only_while_predicting() -> None:
    network = trained("batchnorm")
    norm = NormStatistics(network, NormSettings(statistics="stream", momentum=0.5))
    frames = next(stream(1))
    predict(network, norm, frames)
    norm.absorb()
    after = copy_of(network)
    network(frames)
    assert not norm.absorb()
    assert not changed(after, copy_of(network))


def test_source_statistics_stay() -> None:
    network = trained("batchnorm")
    before = copy_of(network)
    norm = NormStatistics(network, NormSettings(statistics="source"))
    assert not norm.moves
    frames = next(stream(1))
    expected = network(frames).logits
    assert torch.equal(predict(network, norm, frames), expected)
    assert not norm.absorb()
    assert not changed(before, copy_of(network))


def test_batch_statistics_are_those_of_the_frame_and_no_buffer_moves() -> None:
    """Against `torch.nn.functional.batch_norm` in training mode; counters of batches are buffers too."""
    network, reference = trained("batchnorm"), trained("batchnorm").train()
    reference.head.dropout.eval()
    before = copy_of(network)
    norm = NormStatistics(network, NormSettings(statistics="batch"))
    frames = next(stream(1))
    plain = network(frames).logits
    predicted = predict(network, norm, frames)
    torch.testing.assert_close(predicted, reference(frames).logits, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(predicted, plain, atol=1e-2)
    assert not changed(before, copy_of(network))
    assert torch.equal(network(frames).logits, plain), "back in eval mode"


@pytest.mark.parametrize("training", [False, True])
def test_statistics_of_the_batch_give_each_layer_its_mode_back(training: bool) -> None:
    """A layer in training goes on learning its statistics afterwards, also where the pass between failed."""
    network = trained("batchnorm").train(training)
    layers = batch_norms(network)
    layers[0].eval()
    before = copy_of(network)
    with NormStatistics(network, NormSettings()).of_the_batch():
        network(next(stream(1)))
    with pytest.raises(RuntimeError), NormStatistics(network, NormSettings()).of_the_batch():
        network(torch.rand(1, 5, 64, 128))
    assert not changed(before, copy_of(network))
    assert [layer.training for layer in layers] == [False] + [training] * (len(layers) - 1)
    network(next(stream(1)))
    counted = [name for name in changed(before, copy_of(network)) if name.endswith("num_batches_tracked")]
    assert len(counted) == (len(layers) - 1 if training else 0)


@pytest.mark.parametrize("statistics", ["stream", "batch"])
def test_a_frame_of_infinities_leaves_no_trace(statistics: str) -> None:
    network = trained("batchnorm")
    before = copy_of(network)
    norm = NormStatistics(network, NormSettings.model_validate({"statistics": statistics}))
    predict(network, norm, torch.full((1, 3, 64, 128), float("inf")))
    assert not norm.absorb()
    assert not changed(before, copy_of(network))


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_pull_is_a_linear_step_to_the_source(share: float) -> None:
    network = trained("batchnorm")
    source = copy_of(network)
    norm = NormStatistics(network, NormSettings(statistics="stream", momentum=0.5))
    predict(network, norm, next(stream(1)))
    norm.absorb()
    away = copy_of(network)
    norm.pull(share)
    pulled = copy_of(network)
    for name in changed(source, away):
        expected = away[name] + share * (source[name] - away[name])
        torch.testing.assert_close(pulled[name], expected, atol=1e-6, rtol=1e-6)
    if share == 1.0:
        assert not changed(source, pulled)


def test_buffers_can_be_put_back() -> None:
    network = trained("batchnorm")
    before = copy_of(network)
    norm = NormStatistics(network, NormSettings())
    saved = norm.copy_buffers()
    network.train()
    network.light_head.eval()
    network(next(stream(1)))
    assert any("num_batches" in name for name in changed(before, copy_of(network)))
    norm.restore_buffers(saved)
    assert not changed(before, copy_of(network))


def test_a_layer_without_running_statistics_is_left_alone() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm2d(3)).eval()
    norm = NormStatistics(network, NormSettings(statistics="stream"))
    with norm.predicting(), torch.no_grad():
        network(torch.rand(1, 3, 4, 4))
    assert norm.absorb()
    assert network[0].running_mean is None
    assert network[1].running_mean.abs().max() > 0 or network[1].running_var.ne(1.0).any()


def test_a_watched_network_feeds_the_students_statistics() -> None:
    """Where averaged weights are deployed, their predictions are what passes through the layers."""
    student, deployed = trained("batchnorm"), trained("batchnorm")
    with torch.no_grad():
        deployed.stages[0][0].weight.mul_(2.0)
    norm = NormStatistics(student, NormSettings(statistics="stream", momentum=1.0), watched=deployed)
    frames = next(stream(1))
    untouched = copy_of(deployed)
    predict(deployed, norm, frames)
    norm.absorb()
    with torch.no_grad():
        x = deployed.stages[0][0](deployed.normalise(frames)[0])
    torch.testing.assert_close(student.stages[0][1].running_mean, x.mean((0, 2, 3)), atol=1e-5, rtol=1e-5)
    assert not changed(untouched, copy_of(deployed))
