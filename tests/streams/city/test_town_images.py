"""Labelled town images by index."""

from __future__ import annotations

import numpy as np
import pytest

from streams.city import TownImages
from streams.classes import CITYSCAPES_19
from streams.errors import StreamError

SIZE = (32, 64)


def test_items_are_pure_functions_of_seed_and_index() -> None:
    images = TownImages("train", 3, 10, SIZE)
    first = [images[i] for i in range(4)]
    again = TownImages("train", 3, 99, SIZE)
    for i in (3, 0):
        np.testing.assert_array_equal(again[i].image, first[i].image)
        np.testing.assert_array_equal(again[i].label, first[i].label)


def test_items_differ_by_index_seed_and_split() -> None:
    pictures = [
        TownImages(split, seed, 5, SIZE)[i].image for split in ("train", "val") for seed in (0, 1) for i in (0, 1)
    ]
    for i, first in enumerate(pictures):
        for second in pictures[i + 1 :]:
            assert np.mean(np.abs(first.astype(int) - second)) > 5


def test_behaves_as_a_labelled_set() -> None:
    images = TownImages("val", length=7, size=(33, 50))
    assert len(images) == 7
    assert images.classes is CITYSCAPES_19
    item = images[6]
    assert item.image.shape == (33, 50, 3)
    assert item.label.shape == (33, 50)
    np.testing.assert_array_equal(images[-1].image, item.image)
    for outside in (7, -8):
        with pytest.raises(IndexError):
            images[outside]
    assert sum(1 for _ in images) == 7  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("night", 0, 5), "unknown split"), (("val", 0, 0), "length 0"), (("val", 0, 5, (1, 1)), "out of range")],
)
def test_bad_arguments_fail_at_once(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(StreamError, match=message):
        TownImages(*arguments)  # type: ignore[arg-type]
