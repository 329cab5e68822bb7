"""Each range of the augmentation changes what it names, and image and label stay together."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_uda.training.augment import Augmentation, augment, photometric
from streams.frame import IGNORE_ID, LabelledImage

PLAIN = Augmentation(
    crop=(32, 48), scale=(1.0, 1.0), flip=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0,
    largest_class_share=1.0,
)  # fmt: skip


def coded(height: int = 64, width: int = 96, classes: int = 8) -> LabelledImage:
    """Blocks of 8 pixels whose colour tells their class, so that a crop can be checked against its label."""
    rng = np.random.default_rng(0)
    label = np.kron(rng.integers(0, classes, (height // 8, width // 8)), np.ones((8, 8))).astype(np.uint8)
    image = np.stack([label * 20 + 40, 255 - label * 20, np.full_like(label, 128)], axis=2)
    return LabelledImage(image, label)


def draws(spec: Augmentation, count: int = 30, sample: LabelledImage | None = None) -> list[LabelledImage]:
    sample = sample if sample is not None else coded()
    return [augment(sample, spec, np.random.default_rng(seed)) for seed in range(count)]


def test_without_ranges_a_crop_is_an_exact_window() -> None:
    sample = coded()
    windows = {sample.image[t : t + 32, x : x + 48].tobytes() for t in range(33) for x in range(49)}
    crops = draws(PLAIN)
    assert all(crop.image.tobytes() in windows for crop in crops)
    assert len({crop.image.tobytes() for crop in crops}) > 20
    for crop in crops:
        assert np.array_equal(crop.image[..., 0], crop.label * 20 + 40)


def test_flip_mirrors_image_and_label_together() -> None:
    spec = replace(PLAIN, crop=(64, 96), flip=1.0)
    crop = draws(spec, 1)[0]
    assert np.array_equal(crop.image, coded().image[:, ::-1])
    assert np.array_equal(crop.label, coded().label[:, ::-1])
    half = draws(replace(spec, flip=0.5), 200)
    mirrored = sum(np.array_equal(crop.label, coded().label[:, ::-1]) for crop in half)
    assert 70 < mirrored < 130


def test_scale_resizes_within_its_range() -> None:
    rng = np.random.default_rng(0)
    sample = LabelledImage(rng.integers(0, 256, (64, 96, 3), np.uint8), np.zeros((64, 96), np.uint8))
    widths = []
    for crop in draws(replace(PLAIN, crop=(128, 192), scale=(0.5, 2.0)), 60, sample):
        valid = crop.label != IGNORE_ID
        height, width = valid.any(1).sum(), valid.any(0).sum()
        assert abs(width / height - 1.5) < 0.05
        assert valid.sum() == height * width  # padding lies below and to the right, as one block
        widths.append(width)
    assert min(widths) >= 48
    assert max(widths) <= 192
    assert np.median(widths) == pytest.approx(96, rel=0.25)  # log-uniform: half of the draws shrink
    assert len(set(widths)) > 30


def test_small_images_are_padded_with_ignored_pixels() -> None:
    crop = draws(replace(PLAIN, crop=(80, 112)), 1)[0]
    assert crop.image.shape == (80, 112, 3)
    assert (crop.label[64:] == IGNORE_ID).all()
    assert (crop.label[:, 96:] == IGNORE_ID).all()
    assert np.array_equal(crop.label[:64, :96], coded().label)


def test_wanted_class_is_in_the_crop() -> None:
    label = np.zeros((64, 96), np.uint8)
    label[60, 90] = 5
    sample = LabelledImage(np.zeros((64, 96, 3), np.uint8), label)
    rngs = [np.random.default_rng(seed) for seed in range(40)]
    assert all((augment(sample, PLAIN, rng, wanted=5).label == 5).any() for rng in rngs)
    without = sum((augment(sample, PLAIN, rng).label == 5).any() for rng in rngs)
    assert without < 20


def test_crops_of_one_class_are_drawn_again() -> None:
    label = np.zeros((64, 96), np.uint8)
    label[:, 60:] = np.arange(36) // 6 + 1
    sample = LabelledImage(np.zeros((64, 96, 3), np.uint8), label)

    def dull(share: float) -> int:
        crops = draws(replace(PLAIN, crop=(32, 32), largest_class_share=share), 60, sample)
        return sum(np.bincount(crop.label.ravel()).max() > 0.75 * crop.label.size for crop in crops)

    assert dull(0.75) < 0.3 * dull(1.0)


def test_an_unlabelled_image_still_gives_a_crop() -> None:
    sample = LabelledImage(np.zeros((64, 96, 3), np.uint8), np.full((64, 96), IGNORE_ID, np.uint8))
    assert (augment(sample, PLAIN, np.random.default_rng(0), wanted=3).label == IGNORE_ID).all()


def hsv(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)


IMAGE = np.random.default_rng(1).integers(90, 166, (24, 24, 3), np.uint8)


def photometric_draws(**ranges: float) -> list[np.ndarray]:
    spec = replace(PLAIN, **ranges)
    return [photometric(IMAGE, spec, np.random.default_rng(seed)) for seed in range(60)]


def test_no_photometric_range_changes_nothing_visible() -> None:
    for image in photometric_draws():
        assert np.abs(image.astype(int) - IMAGE).max() <= 1


def test_brightness_adds() -> None:
    shifts = [np.unique(image.astype(int) - IMAGE) for image in photometric_draws(brightness=0.2)]
    assert all(np.ptp(shift) <= 2 for shift in shifts)
    means = [shift.mean() for shift in shifts]
    assert min(means) < -25
    assert max(means) > 25
    assert max(map(abs, means)) <= 52


def test_contrast_scales() -> None:
    gains = [image.astype(float).mean() / IMAGE.mean() for image in photometric_draws(contrast=0.4)]
    assert 0.59 < min(gains) < 0.75
    assert 1.25 < max(gains) < 1.41


def test_saturation_keeps_the_grey() -> None:
    spread = np.ptp(IMAGE.astype(float), axis=2).mean()
    ratios = []
    for image in photometric_draws(saturation=0.5):
        assert np.abs(image.mean(axis=2) - IMAGE.mean(axis=2)).max() < 1.5
        ratios.append(np.ptp(image.astype(float), axis=2).mean() / spread)
    assert min(ratios) < 0.7
    assert max(ratios) > 1.3


def test_hue_turns_and_keeps_value() -> None:
    turned = []
    for image in photometric_draws(hue=0.1):
        assert np.abs(hsv(image)[..., 2] - hsv(IMAGE)[..., 2]).max() < 0.02
        turn = (hsv(image)[..., 0] - hsv(IMAGE)[..., 0] + 180) % 360 - 180
        turned.append(np.median(turn))
    assert min(turned) < -15
    assert max(turned) > 15
    assert max(map(abs, turned)) < 38


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.integers(8, 90), st.integers(8, 130))
def test_any_draw_has_the_crop_size_and_only_known_labels(seed: int, height: int, width: int) -> None:
    spec = Augmentation(crop=(height, width))
    crop = augment(coded(), spec, np.random.default_rng(seed), wanted=3)
    assert crop.image.shape == (height, width, 3)
    assert crop.image.dtype == crop.label.dtype == np.uint8
    assert set(np.unique(crop.label)) <= {*range(8), IGNORE_ID}
    again = augment(coded(), spec, np.random.default_rng(seed), wanted=3)
    assert np.array_equal(crop.image, again.image)
