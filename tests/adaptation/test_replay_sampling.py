"""Rare-class and uniform draws from the buffer (specs/hamlet.md 2.9; section 9, check 14)."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch

from online_uda.adaptation.replay.buffer import ReplayBuffer
from online_uda.adaptation.replay.rare_class import (
    MIN_PIXEL_SHARE,
    class_shares,
    count_class_pixels,
    rare_class_probabilities,
)
from online_uda.adaptation.replay.sampling import ReplaySampler
from online_uda.errors import UserError
from streams.classes import CAMVID_11
from streams.frame import ClassSet, LabelledImage

SIZE = (16, 32)


class Town:
    """Labelled images in memory that remembers which were read."""

    classes: ClassSet = CAMVID_11

    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels
        self.images = np.random.default_rng(1).integers(0, 256, (*labels.shape, 3), dtype=np.uint8)
        self.read: set[int] = set()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> LabelledImage:
        self.read.add(index)
        return LabelledImage(self.images[index], self.labels[index])


def make_town(count: int = 60) -> Town:
    """Shares near 0.45, 0.35, 0.15, 0.04 and 0.005 for classes 0-4; class 4 never fills enough of an image."""
    labels = np.zeros((count, *SIZE), dtype=np.uint8)
    for index, label in enumerate(labels):
        label[:, 16:] = 1
        label[10:, 4:20] = 2
        if index % 3 == 0:
            label[2:9, 20:29] = 3
        label[15, 31] = 4
        label[0, :5] = 255
    return Town(labels)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_count_class_pixels() -> None:
    label = np.array([[0, 0, 2], [255, 2, 2]], dtype=np.uint8)
    assert count_class_pixels(label, 4).tolist() == [2, 0, 3, 0]
    with pytest.raises(UserError, match="label id 2 "):
        count_class_pixels(label, 2)


def test_class_shares_leave_out_ignored_pixels() -> None:
    assert class_shares(np.array([[2, 0, 3], [1, 0, 4]])).tolist() == [0.3, 0.0, 0.7]
    assert class_shares(np.zeros((2, 3), dtype=np.int64)).tolist() == [0.0, 0.0, 0.0]


def test_probabilities_match_torch_softmax() -> None:
    shares = np.array([0.5, 0.3, 0.15, 0.04, 0.01])
    expected = torch.softmax((1.0 - torch.from_numpy(shares)) / 0.01, dim=0).numpy()
    assert rare_class_probabilities(shares, 0.01) == pytest.approx(expected, rel=1e-9, abs=1e-15)
    drawable = np.array([True, True, False, True, False])
    renormalised = np.where(drawable, expected, 0.0)
    renormalised /= renormalised.sum()
    assert rare_class_probabilities(shares, 0.01, drawable) == pytest.approx(renormalised, rel=1e-9, abs=1e-15)
    assert rare_class_probabilities(shares, 0.01, np.zeros(5, dtype=bool)).tolist() == [0.0] * 5


def test_default_share_is_3000_pixels_of_half_cityscapes() -> None:
    assert pytest.approx(3000) == MIN_PIXEL_SHARE * 1024 * 512


def test_check_14_draws_stay_in_the_buffer() -> None:
    town = make_town()
    buffer = ReplayBuffer.fill(town, rng(), capacity=12)
    town.read.clear()
    sampler = ReplaySampler(buffer, rng(1), crop_size=(8, 16))
    slots = {sampler.draw().slot for _ in range(10_000)}
    assert slots <= set(range(12))
    assert len({buffer.indices[slot] for slot in slots}) <= 12
    batch = sampler.sample(64)
    assert town.read == set()
    for image, label, crop in zip(batch.images, batch.labels, batch.crops, strict=True):
        original = town.images[buffer.indices[crop.slot]][crop.top : crop.top + 8, crop.left : crop.left + 16]
        original_label = town.labels[buffer.indices[crop.slot]][crop.top : crop.top + 8, crop.left : crop.left + 16]
        if crop.flip:
            original, original_label = original[:, ::-1], original_label[:, ::-1]
        assert np.array_equal((image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy(), original)
        assert np.array_equal(label.numpy(), original_label)
    assert {crop.flip for crop in batch.crops} == {True, False}


@pytest.mark.parametrize("temperature", [0.01, 0.3])
def test_check_14_class_frequencies_within_three_sigma(temperature: float) -> None:
    buffer = ReplayBuffer.fill(make_town(), rng(), capacity=30)
    sampler = ReplaySampler(buffer, rng(2), crop_size=(8, 16), temperature=temperature)
    shares = class_shares(buffer.counts)
    weights = np.exp((1.0 - shares) / temperature)
    weights[4:] = 0.0  # class 4 has one pixel an image, the others do not occur
    expected = weights / weights.sum()
    draws = 6000
    counts = np.bincount(
        [crop.class_id for crop in (sampler.draw() for _ in range(draws)) if crop.class_id is not None], minlength=11
    )
    sigma = np.sqrt(draws * expected * (1.0 - expected))
    assert (np.abs(counts - draws * expected) <= 3.0 * sigma + 1e-9).all()
    assert counts[4:].sum() == 0


def test_check_14_crops_hold_half_of_the_wanted_pixels() -> None:
    share = 0.1
    buffer = ReplayBuffer.fill(make_town(), rng(), capacity=30)
    sampler = ReplaySampler(buffer, rng(3), crop_size=(8, 16), min_pixel_share=share, flip_probability=0.0)
    single = ReplaySampler(buffer, rng(3), crop_size=(8, 16), min_pixel_share=share, flip_probability=0.0, max_tries=1)
    assert share_of_good_crops(sampler, share) >= 0.9
    assert share_of_good_crops(single, share) < 0.8


def share_of_good_crops(sampler: ReplaySampler, share: float) -> float:
    batch = sampler.sample(400)
    wanted = [
        int((label == crop.class_id).sum()) > 0.5 * share * SIZE[0] * SIZE[1]
        for label, crop in zip(batch.labels, batch.crops, strict=True)
    ]
    return float(np.mean(wanted))


def test_eligibility_follows_the_share() -> None:
    """7x9 pixels of class 3 are 12.3 % of an image: eligible below that share, not asked for above."""
    buffer = ReplayBuffer(make_town(), range(30))
    below = ReplaySampler(buffer, rng(), min_pixel_share=0.12)
    above = ReplaySampler(buffer, rng(), min_pixel_share=0.13)
    assert below.probabilities[3] > 0.99
    assert above.probabilities[3] == 0.0


def test_rare_class_images_hold_the_class() -> None:
    sampler = ReplaySampler(ReplayBuffer(make_town(), range(30)), rng())
    crops = [sampler.draw() for _ in range(300)]
    assert {crop.slot % 3 for crop in crops if crop.class_id == 3} == {0}


def test_uniform_policy_draws_all_images_alike() -> None:
    buffer = ReplayBuffer(make_town(), range(10))
    sampler = ReplaySampler(buffer, rng(4), crop_size=(8, 16), policy="uniform")
    crops = [sampler.draw() for _ in range(3000)]
    assert {crop.class_id for crop in crops} == {None}
    counts = np.bincount([crop.slot for crop in crops], minlength=10)
    assert (np.abs(counts - 300) <= 4.0 * np.sqrt(3000 * 0.1 * 0.9)).all()
    assert {crop.top for crop in crops} == set(range(9))
    assert {crop.left for crop in crops} == set(range(17))
    assert sum(crop.flip for crop in crops) == pytest.approx(1500, abs=120)


def test_batch_format_and_whole_images() -> None:
    sampler = ReplaySampler(ReplayBuffer(make_town(), range(5)), rng(), flip_probability=0.0)
    batch = sampler.sample(3)
    assert batch.images.shape == (3, 3, *SIZE)
    assert batch.images.dtype == torch.float32
    assert 0.0 <= batch.images.min() < 0.05
    assert 0.95 < batch.images.max() <= 1.0
    assert batch.labels.dtype == torch.int64
    assert batch.labels.max() == 255
    assert not any(crop.flip for crop in batch.crops)


def test_interrupted_run_continues_bit_for_bit() -> None:
    buffer = ReplayBuffer(make_town(), range(20))
    first, second = ReplaySampler(buffer, rng(7), crop_size=(8, 16)), ReplaySampler(buffer, rng(0), crop_size=(8, 16))
    first.sample(5)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(4):
        one, two = first.sample(3), second.sample(3)
        assert one.crops == two.crops
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.labels, two.labels)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"crop_size": (17, 8)}, "does not fit"),
        ({"policy": "newest"}, "newest"),
        ({"temperature": 0.0}, "temperature"),
        ({"max_tries": 0}, "max_tries"),
        ({"flip_probability": 1.1}, "flip_probability"),
        ({"min_pixel_share": 0.9}, "lower min_pixel_share"),
    ],
)
def test_bad_settings(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ReplaySampler(ReplayBuffer(make_town(), range(5)), rng(), **bad)
    if "min_pixel_share" in bad:
        ReplaySampler(ReplayBuffer(make_town(), range(5)), rng(), policy="uniform", **bad)
