"""The field's usual training augmentation on one labelled image: scale, crop, flip, photometric distortion."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from streams.frame import IGNORE_ID, LabelledImage

_CROP_TRIES = 10


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Ranges of the augmentation.

    Attributes:
        crop: Height and width of the training crop, pixels.
        scale: Smallest and largest resize factor of the image before cropping (log-uniform).
        flip: Probability of a horizontal flip.
        brightness: Largest additive change, in [0, 1] units.
        contrast: Largest relative change of contrast.
        saturation: Largest relative change of saturation.
        hue: Largest hue shift, in turns.
        largest_class_share: A crop in which one class fills more than this is drawn again, up to 10 times.
    """

    crop: tuple[int, int]
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    brightness: float = 0.125
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 0.05
    largest_class_share: float = 0.75


def augment(
    sample: LabelledImage, spec: Augmentation, rng: np.random.Generator, wanted: int | None = None
) -> LabelledImage:
    """Draws one training crop of ``spec.crop`` size from ``sample``; labels outside the image are 255.

    Args:
        sample: The labelled image, any size.
        spec: Ranges to draw from.
        rng: Source of every random number.
        wanted: A class id the crop shall hold a pixel of, wherever the scaled image has one.
    """
    factor = float(np.exp(rng.uniform(np.log(spec.scale[0]), np.log(spec.scale[1]))))
    height, width = sample.label.shape
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    image = cv2.resize(sample.image, size, interpolation=interpolation)
    label = cv2.resize(sample.label, size, interpolation=cv2.INTER_NEAREST_EXACT)
    image, label = _pad(image.astype(np.uint8, copy=False), label.astype(np.uint8, copy=False), spec.crop)
    image, label = _crop(image, label, spec, rng, wanted)
    if rng.random() < spec.flip:
        image, label = image[:, ::-1], label[:, ::-1]
    return LabelledImage(photometric(image, spec, rng), np.ascontiguousarray(label))


def _pad(
    image: NDArray[np.uint8], label: NDArray[np.uint8], crop: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    bottom, right = max(0, crop[0] - label.shape[0]), max(0, crop[1] - label.shape[1])
    if bottom or right:
        image = np.pad(image, ((0, bottom), (0, right), (0, 0)), mode="edge")
        label = np.pad(label, ((0, bottom), (0, right)), constant_values=IGNORE_ID)
    return image, label


def _crop(
    image: NDArray[np.uint8],
    label: NDArray[np.uint8],
    spec: Augmentation,
    rng: np.random.Generator,
    wanted: int | None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Tries windows at random, or random windows around a random pixel of the wanted class."""
    height, width = spec.crop
    last_top, last_left = label.shape[0] - height, label.shape[1] - width
    pixels = np.flatnonzero(label.ravel() == wanted) if wanted is not None else np.empty(0, np.int64)
    for _ in range(_CROP_TRIES):
        top_range, left_range = (0, last_top), (0, last_left)
        if pixels.size:
            row, column = divmod(int(pixels[rng.integers(pixels.size)]), label.shape[1])
            top_range = (max(0, row - height + 1), min(row, last_top))
            left_range = (max(0, column - width + 1), min(column, last_left))
        top = int(rng.integers(top_range[0], top_range[1] + 1))
        left = int(rng.integers(left_range[0], left_range[1] + 1))
        window = label[top : top + height, left : left + width]
        counts = np.bincount(window.ravel(), minlength=IGNORE_ID + 1)[:IGNORE_ID]
        if 0 < counts.max() <= spec.largest_class_share * counts.sum():
            break
    return image[top : top + height, left : left + width], window


def photometric(image: NDArray[np.uint8], spec: Augmentation, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Brightness, contrast, saturation and hue, each with probability 1/2; ``image`` is (H, W, 3) uint8 RGB."""
    x = image.astype(np.float32) / 255.0
    if rng.random() < 0.5:
        x = x + np.float32(rng.uniform(-spec.brightness, spec.brightness))
    if rng.random() < 0.5:
        x = x * np.float32(rng.uniform(1 - spec.contrast, 1 + spec.contrast))
    if rng.random() < 0.5:
        grey = x.mean(axis=2, keepdims=True)
        x = grey + (x - grey) * np.float32(rng.uniform(1 - spec.saturation, 1 + spec.saturation))
    x = np.clip(x, 0, 1)
    if rng.random() < 0.5:
        hsv = cv2.cvtColor(np.ascontiguousarray(x), cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0] + 360 * rng.uniform(-spec.hue, spec.hue)) % 360
        x = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32, copy=False)
    return (np.clip(x, 0, 1) * 255 + 0.5).astype(np.uint8)
