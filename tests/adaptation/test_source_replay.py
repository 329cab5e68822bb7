"""Source replay: crops, their labels, and the look of the stream on top."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from recipe_kit import SIZE, SourceSet, stream

from online_uda.adaptation.replay.buffer import ReplayBuffer
from online_uda.adaptation.replay.sampling import ReplaySampler
from online_uda.adaptation.replay.source import SourceReplay, crop_size, frame_to_uint8
from online_uda.adaptation.settings import ReplaySettings
from online_uda.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def buffer() -> ReplayBuffer:
    return ReplayBuffer(SourceSet(), range(8))


def replay_of(buffer: ReplayBuffer, seed: int = 0, **options: Any) -> SourceReplay:
    return SourceReplay(buffer, ReplaySettings.model_validate(options), seed)


@pytest.mark.parametrize(
    ("size", "share", "expected"),
    [
        ((512, 1024), (1.0, 0.5), (512, 512)),  # HAMLET's square crop
        ((256, 512), (1.0, 1.0), (256, 512)),
        ((360, 480), (0.5, 0.5), (192, 256)),
        ((64, 128), (0.01, 0.3), (32, 32)),
        ((20, 500), (1.0, 1.0), (20, 500)),
    ],
)
def test_crop_size(size: tuple[int, int], share: tuple[float, float], expected: tuple[int, int]) -> None:
    assert crop_size(size, share) == expected


def test_frame_to_uint8_rounds_and_keeps_the_frame() -> None:
    frames = torch.tensor([0.0, 0.4999 / 255, 0.501 / 255, 1.0]).view(1, 1, 1, 4).expand(1, 3, 1, 4).clone()
    before = frames.clone()
    assert frame_to_uint8(frames)[0, :, 0].tolist() == [0, 0, 1, 255]
    assert torch.equal(frames, before)


def test_every_byte_survives_the_way_to_float_and_back() -> None:
    image = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 256).expand(1, 3, 1, 256)
    assert np.array_equal(frame_to_uint8(image.float() / 255.0)[0, :, 0], np.arange(256))


@pytest.mark.parametrize("options", [{}, {"crop": [0.5, 0.5], "batch": 3}, {"sampling": "uniform"}])
def test_undressed_it_is_the_sampler(buffer: ReplayBuffer, options: dict[str, Any]) -> None:
    replay = replay_of(buffer, seed=4, **options)
    sampler = ReplaySampler(
        buffer,
        torch.Generator().manual_seed(4),
        crop_size=crop_size(SIZE, options.get("crop", (1.0, 1.0))),
        policy=options.get("sampling", "rare_class"),
    )
    for _ in range(3):
        images, labels = replay.draw(CPU)
        expected = sampler.sample(options.get("batch", 1))
        assert torch.equal(images, expected.images)
        assert torch.equal(labels, expected.labels)


def test_dressed_images_keep_their_own_labels_window_and_mirroring(buffer: ReplayBuffer) -> None:
    """A style that changes nothing shows which pixels were taken: they are those of the label."""
    replay = replay_of(buffer, crop=[0.5, 0.5], batch=4, style={"detail": 0.0})
    assert replay.style is not None
    replay.observe(next(stream(1)), changed=False)
    replay.style.target = replay.style.source
    images, labels = replay.draw(CPU)
    assert images.shape == (4, 3, 32, 64)
    assert labels.shape == (4, 32, 64)
    assert labels.dtype == torch.int64
    for image, label in zip(images, labels, strict=True):
        pair = torch.cat([(image * 255).round().to(torch.uint8), label[None].to(torch.uint8)]).permute(1, 2, 0).numpy()
        found = False
        whole = np.concatenate([buffer.images, buffer.labels[..., None]], axis=3)
        for both in (pair, pair[:, ::-1]):
            windows = np.lib.stride_tricks.sliding_window_view(whole, both.shape, axis=(1, 2, 3))[:, :, :, 0]
            near = np.abs(windows[:, ::1, ::1, ::8, ::8].astype(np.int16) - both[::8, ::8].astype(np.int16))
            found |= bool((near.max((3, 4, 5)) <= 1).any())
        assert found


def test_dressed_images_look_like_the_stream(buffer: ReplayBuffer) -> None:
    replay = replay_of(buffer, style={})
    frame = next(stream(1, haze=0.8))
    plain = replay_of(buffer).draw(CPU)[0].mean()
    replay.observe(frame, changed=False)
    dressed, _ = replay.draw(CPU)
    assert abs(dressed.mean() - frame.mean()) < 0.25 * abs(plain - frame.mean())
    assert float(dressed.min()) >= 0.0
    assert float(dressed.max()) <= 1.0


def test_a_detected_change_starts_the_look_afresh(buffer: ReplayBuffer) -> None:
    looks = []
    for changed in (False, True):
        replay = replay_of(buffer, style={"half_life_frames": 50})
        for frame in stream(4, haze=0.0):
            replay.observe(frame, changed=False)
        replay.observe(next(stream(1, haze=0.9)), changed=changed)
        assert replay.style is not None
        assert replay.style.target is not None
        looks.append(float(replay.style.target.mean[0, 0, 0]))
    assert looks[1] > looks[0] + 5.0


def test_without_a_style_frames_are_not_looked_at(buffer: ReplayBuffer) -> None:
    seen, unseen = replay_of(buffer), replay_of(buffer)
    seen.observe(next(stream(1)), changed=True)
    assert torch.equal(seen.draw(CPU)[0], unseen.draw(CPU)[0])


@pytest.mark.parametrize("temperature", [0.01, 100.0])
def test_temperature_decides_how_often_the_rare_class_is_asked_for(buffer: ReplayBuffer, temperature: float) -> None:
    replay = replay_of(buffer, temperature=temperature)
    rare = sum(bool((replay.draw(CPU)[1] == 9).any()) for _ in range(60))
    assert rare >= 30 if temperature < 1 else rare <= 25


@pytest.mark.parametrize("style", [None, {}])
def test_state_continues_bit_for_bit_through_a_file(buffer: ReplayBuffer, style: Any) -> None:
    first, second = replay_of(buffer, crop=[0.5, 0.5], style=style), replay_of(buffer, 9, crop=[0.5, 0.5], style=style)
    frames = list(stream(3))
    first.observe(frames[0], changed=False)
    first.draw(CPU)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    for frame in frames[1:]:
        for replay in (first, second):
            replay.observe(frame, changed=False)
        for mine, other in zip(first.draw(CPU), second.draw(CPU), strict=True):
            assert torch.equal(mine, other)


def test_other_source_images_are_refused(buffer: ReplayBuffer) -> None:
    other = replay_of(ReplayBuffer(SourceSet(seed=1), range(8)))
    with pytest.raises(UserError, match="same source images"):
        other.load_state_dict(replay_of(buffer).state_dict())
