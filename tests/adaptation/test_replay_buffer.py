"""The bounded source buffer: what it keeps, what it refuses, how it comes back after an interruption."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch

from online_uda.adaptation.replay.buffer import ReplayBuffer
from online_uda.errors import UserError
from streams.classes import CAMVID_11
from streams.frame import ClassSet, LabelledImage

TAIL = 10


class LabelledList:
    """Labelled images in memory that remembers which were read."""

    def __init__(self, items: list[LabelledImage]) -> None:
        self.items = items
        self.read: list[int] = []

    @property
    def classes(self) -> ClassSet:
        return CAMVID_11

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> LabelledImage:
        self.read.append(index)
        return self.items[index]


def make_set(count: int, size: tuple[int, int] = (8, 12), rare_every: int = 5) -> LabelledList:
    """Noise images whose labels are half class 0, half class 1; every ``rare_every``-th one holds the rare class 10."""
    rng = np.random.default_rng(0)
    items = []
    for index in range(count):
        label = np.zeros(size, dtype=np.uint8)
        label[:, size[1] // 2 :] = 1
        label[0] = 255
        if index % rare_every == 0:
            label[-2:] = TAIL
        items.append(LabelledImage(rng.integers(0, 256, (*size, 3), dtype=np.uint8), label))
    return LabelledList(items)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_keeps_the_chosen_images_exactly() -> None:
    source = make_set(40)
    done: list[tuple[int, int]] = []
    buffer = ReplayBuffer.fill(source, rng(), capacity=16, progress=lambda i, n: done.append((i, n)))
    assert len(buffer) == len(set(buffer.indices)) == 16
    assert done == [(i, 16) for i in range(1, 17)]
    assert set(source.read) == set(buffer.indices)
    assert buffer.images.dtype == buffer.labels.dtype == np.uint8
    assert buffer.nbytes == 16 * 8 * 12 * 4
    assert np.shares_memory(buffer.images, buffer._arena)
    assert np.shares_memory(buffer.labels, buffer._arena)
    for slot, index in enumerate(buffer.indices):
        assert np.array_equal(buffer.images[slot], source.items[index].image)
        assert np.array_equal(buffer.labels[slot], source.items[index].label)
        for c in range(11):
            assert buffer.counts[slot, c] == np.count_nonzero(source.items[index].label == c)


def test_capacity_bounds_and_defaults() -> None:
    assert len(ReplayBuffer.fill(make_set(300, (2, 4)), rng())) == 256
    assert sorted(ReplayBuffer.fill(make_set(7), rng()).indices) == list(range(7))
    chosen = {tuple(ReplayBuffer.fill(make_set(40), rng(seed), capacity=5).indices) for seed in range(5)}
    assert len(chosen) == 5


def test_rare_class_fill_prefers_rare_classes() -> None:
    """20 of 100 images hold the rare class: a sharp draw takes all of them first, a uniform one about a tenth."""
    rare = ReplayBuffer.fill(make_set(100), rng(), capacity=30, policy="rare_class")
    uniform = ReplayBuffer.fill(make_set(100), rng(), capacity=30, policy="uniform")
    assert len(set(rare.indices)) == 30
    assert sum(index % 5 == 0 for index in rare.indices) == 20
    assert sum(index % 5 == 0 for index in uniform.indices) < 12
    blind = ReplayBuffer.fill(make_set(100), rng(), capacity=30, policy="rare_class", temperature=1e6)
    assert sum(index % 5 == 0 for index in blind.indices) < 20
    nothing_eligible = ReplayBuffer.fill(make_set(50), rng(), capacity=30, policy="rare_class", min_pixel_share=0.99)
    assert len(set(nothing_eligible.indices)) == 30


def test_resizes_images_smoothly_and_labels_by_nearest() -> None:
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    image[:, 1::2] = 200
    label = np.array([[3, 3, 7, 7]] * 4, dtype=np.uint8)
    source = LabelledList([LabelledImage(image, label)])
    small = ReplayBuffer(source, [0], size=(2, 2))
    assert (small.images == 100).all()
    assert small.labels[0].tolist() == [[3, 7], [3, 7]]
    large = ReplayBuffer(source, [0], size=(8, 8))
    assert set(np.unique(large.labels)) == {3, 7}
    assert len(np.unique(large.images)) > 2


def test_sizes_must_agree_without_a_size() -> None:
    source = make_set(2)
    source.items[1] = make_set(1, (6, 12)).items[0]
    with pytest.raises(UserError, match="source image 1 is"):
        ReplayBuffer(source, [0, 1])
    assert ReplayBuffer(source, [0, 1], size=(6, 12)).size == (6, 12)


def test_state_is_small_and_rebuilds_the_same_buffer() -> None:
    source = make_set(40)
    buffer = ReplayBuffer.fill(source, rng(3), capacity=10, size=(6, 6))
    file = io.BytesIO()
    torch.save(buffer.state_dict(), file)
    assert file.tell() < 3000
    file.seek(0)
    again = ReplayBuffer.restore(source, torch.load(file, weights_only=True))
    assert np.array_equal(again.images, buffer.images)
    assert np.array_equal(again.labels, buffer.labels)
    assert again.state_dict() == buffer.state_dict()


def test_changed_source_is_refused_on_restore() -> None:
    source = make_set(10)
    state = ReplayBuffer.fill(source, rng(), capacity=4).state_dict()
    source.items[state["indices"][2]].image[0, 0, 0] ^= 1
    with pytest.raises(UserError, match="differs from the saved one"):
        ReplayBuffer.restore(source, state)
    with pytest.raises(UserError, match="only 1 images"):
        ReplayBuffer.restore(make_set(1), state)


def test_bad_input() -> None:
    with pytest.raises(UserError, match="no source image"):
        ReplayBuffer.fill(make_set(0), rng())
    with pytest.raises(UserError, match="capacity"):
        ReplayBuffer.fill(make_set(3), rng(), capacity=0)
    bad_policy: Any = "newest"
    with pytest.raises(UserError, match="newest"):
        ReplayBuffer.fill(make_set(3), rng(), policy=bad_policy)
    source = make_set(3)
    source.items[1].label[0, 0] = 40
    with pytest.raises(UserError, match="source image 1: label id 40"):
        ReplayBuffer(source, [0, 1, 2])
    with pytest.raises(UserError, match="source image 1: label id 40"):
        ReplayBuffer.fill(source, rng(), capacity=2, policy="rare_class")


def test_contents_cannot_be_written_by_accident() -> None:
    buffer = ReplayBuffer(make_set(1), [0])
    with pytest.raises(ValueError, match="read-only"):
        buffer.images[0] = 0
