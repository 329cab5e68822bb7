"""A tiny network and a source whose classes can be told from their colours."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from online_uda.networks.mit import MiTConfig
from online_uda.networks.segmenter import SegformerConfig, Segmenter, build_segformer
from streams.frame import ClassSet, LabelledImage

CLASSES = ClassSet("four", ("a", "b", "c", "d"), ((0, 0, 0),) * 4)
COLOURS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [200, 200, 40]], np.uint8)


class Blocks:
    """A `LabelledSet`: blocks of four colours; class 3 is rare and only in every fifth image."""

    def __init__(self, length: int = 20, size: tuple[int, int] = (64, 96)) -> None:
        self._length, self._size = length, size

    @property
    def classes(self) -> ClassSet:
        return CLASSES

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> LabelledImage:
        rng = np.random.default_rng(index)
        height, width = self._size
        ids = rng.choice(3, p=(0.6, 0.3, 0.1), size=(height // 16, width // 16))
        label = np.kron(ids, np.ones((16, 16))).astype(np.uint8)
        if index % 5 == 0:
            label[:8, :8] = 3
        noise = rng.integers(-30, 31, (height, width, 3))
        return LabelledImage((COLOURS[label] + noise).clip(0, 255).astype(np.uint8), label)


@pytest.fixture
def blocks() -> Blocks:
    return Blocks()


@pytest.fixture
def tiny_config() -> SegformerConfig:
    encoder = MiTConfig((8, 8, 10, 16), (1, 1, 1, 1), drop_path=0.1)
    return SegformerConfig(encoder, classes=4, head_width=16, light_width=8)


@pytest.fixture
def tiny_network(tiny_config: SegformerConfig) -> Segmenter:
    torch.manual_seed(0)
    return build_segformer(tiny_config)
