"""What the drift detector sees: statistics of stage maps, corruptions, and calibration on a replay buffer."""

from __future__ import annotations

import pytest
import torch
from recipe_kit import KINDS, SourceSet, changed, copy_of, stream, untrained
from torch import Tensor

from online_uda.adaptation.replay.buffer import ReplayBuffer
from online_uda.adaptation.trigger.drift import calibrate_from_buffer
from online_uda.adaptation.trigger.policies import DriftPolicy
from online_uda.adaptation.trigger.source_statistics import (
    CORRUPTIONS,
    band_moments,
    sample_source,
    shrunk,
    stage_statistics,
)
from online_uda.networks.segmenter import Segmenter


def built(kind: str) -> Segmenter:
    """Random weights do: the detector calibrates itself on whatever the first stage computes."""
    return untrained(kind).eval()


def frame(size: tuple[int, int] = (64, 96), seed: int = 0) -> Tensor:
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed))


def test_band_moments_against_a_loop() -> None:
    features = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    moments = band_moments(features)
    assert moments.shape == (2, 12)
    assert moments.dtype == torch.float64
    for image in range(2):
        expected = []
        for rows in (slice(0, 2), slice(2, 5)):
            band = features[image, :, rows].double()
            expected += [float(channel.mean()) for channel in band]
            expected += [float((channel.var(correction=0).sqrt() + 1e-6).log()) for channel in band]
        assert moments[image].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_do_not_depend_on_the_mode_and_leave_it(kind: str) -> None:
    network = built(kind)
    evaluated = stage_statistics(network, frame())
    network.train()
    before, modes = copy_of(network), [module.training for module in network.modules()]
    assert torch.equal(stage_statistics(network, frame()), evaluated)
    assert [module.training for module in network.modules()] == modes
    assert not changed(before, copy_of(network))


@pytest.mark.parametrize("size", [(37, 51), (64, 96), (130, 200)])
def test_statistics_at_any_size(size: tuple[int, int]) -> None:
    network = built("layernorm")
    statistics = stage_statistics(network, frame(size))
    assert statistics.isfinite().all()
    assert statistics.shape == stage_statistics(network, frame()).shape


def test_shared_features_give_the_statistics_of_the_full_frame() -> None:
    network = built("layernorm")
    features = network(frame()).features[0]
    shared = stage_statistics(network, frame(), features=features)
    assert torch.allclose(shared, stage_statistics(network, frame(), scale=1.0))
    assert not torch.allclose(shared, stage_statistics(network, frame(), scale=0.5))


def test_shrunk_frames_are_area_means() -> None:
    frames = frame((8, 12))
    expected = frames.view(1, 3, 4, 2, 6, 2).mean((3, 5))
    assert torch.allclose(shrunk(frames, 0.5), expected)
    assert shrunk(frames, 1.0) is frames


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_changes_the_image_and_repeats(name: str) -> None:
    def corrupted() -> Tensor:
        return CORRUPTIONS[name](frame(), torch.Generator().manual_seed(3))

    assert corrupted().shape == frame().shape
    assert torch.equal(corrupted(), corrupted())
    assert float((corrupted() - frame()).abs().mean()) > 0.01


def test_corruptions_do_what_they_are_called() -> None:
    generator, clean = torch.Generator().manual_seed(0), frame((64, 64))
    made = {name: corrupt(clean, generator) for name, corrupt in CORRUPTIONS.items()}
    assert made["dark"].mean() < clean.mean() < made["bright"].mean()
    assert made["flat"].mean() == pytest.approx(float(clean.mean()), abs=1e-4)
    for name in ("flat", "haze", "blur"):
        assert made[name].std() < clean.std()
    assert made["grey"].std(1).mean() < clean.std(1).mean()
    assert made["warm"][:, 0].mean() > clean[:, 0].mean()
    assert made["warm"][:, 2].mean() < clean[:, 2].mean()
    along, across = ((made["streaks"] - clean).diff(dim=axis).abs().mean() for axis in (2, 3))
    assert along < 0.5 * across
    assert (made["noise"] - clean).std() == pytest.approx(0.06, rel=0.05)


def test_sample_follows_the_order_of_the_source_not_of_the_buffer() -> None:
    network, source = built("layernorm"), SourceSet()
    ordered, shuffled = (ReplayBuffer(source, indices) for indices in ([0, 1, 2, 3, 4, 5], [3, 0, 5, 1, 4, 2]))
    first, second = (sample_source(network, buffer, images=4) for buffer in (ordered, shuffled))
    assert torch.allclose(first.vectors, second.vectors, atol=1e-5)
    assert first.of.tolist() == [0, 2, 3, 5]
    assert first.corrupted.shape == (len(CORRUPTIONS), 4, first.vectors.shape[1])
    image = torch.from_numpy(source[3].image).permute(2, 0, 1)[None] / 255.0
    assert torch.allclose(first.vectors[3], stage_statistics(network, image), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_decision_says_how_far_the_stream_has_gone_the_way_of_haze(kind: str) -> None:
    network = built(kind)
    watcher = calibrate_from_buffer(network, ReplayBuffer(SourceSet(16), range(16)))
    policy = DriftPolicy(network, watcher, scale=0.5)

    def haze(frame: Tensor) -> float:
        decision = policy.decide(frame, network(frame))
        assert decision.haze is not None
        assert decision.signature is not None
        return decision.haze

    clear, light, heavy = (next(stream(1, haze=share)) for share in (0.0, 0.2, 0.4))
    assert haze(clear) < haze(light) < haze(heavy)
    assert haze(clear) < 0.5 < 1.0 < haze(heavy)
    assert policy.decide(torch.full_like(clear, float("nan")), network(clear)).haze is None


@pytest.mark.parametrize("kind", KINDS)
def test_calibrates_on_few_images_of_either_network(kind: str) -> None:
    network = built(kind)
    watcher = calibrate_from_buffer(network, ReplayBuffer(SourceSet(16), range(16)))

    def distance(haze: float) -> float:
        watcher.reset()
        return [watcher.update(stage_statistics(network, each)).distance for each in stream(8, haze=haze)][-1]

    assert distance(0.0) < 1.0 < distance(0.7)
    assert distance(0.0) < distance(0.4) < distance(0.8)
