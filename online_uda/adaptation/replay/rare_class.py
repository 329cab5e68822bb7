"""Rare-class statistics: how common each class is, which images hold it, and how often to ask for it.

Rare-class sampling (specs/hamlet.md 2.9; DAFormer, Hoyer et al. 2022) first draws a class, the rarer the likelier, and
then an image that holds enough of it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from online_uda.errors import UserError
from streams.datasets import DatasetImages
from streams.frame import IGNORE_ID, LabelledSet

MIN_PIXEL_SHARE = 3000 / (1024 * 512)
"""Share of an image that a class must exceed to make the image eligible: 3000 pixels of 1024x512."""

Progress = Callable[[int, int], None]
"""Called with the number of items done and the number of all."""


def count_class_pixels(label: NDArray[np.uint8], num_classes: int) -> NDArray[np.int64]:
    """Pixels of each class.

    Args:
        label: ``(H, W)`` uint8 train ids, 255 = ignore.
        num_classes: Number of classes C.

    Returns:
        ``(C,)`` counts; ignored pixels are not counted.

    Raises:
        UserError: If an id is neither a class nor 255.
    """
    counts = np.bincount(label.ravel(), minlength=256)
    strange = np.flatnonzero(counts[num_classes:IGNORE_ID])
    if strange.size:
        raise UserError(f"label id {num_classes + int(strange[0])} is outside the {num_classes} classes and is not 255")
    return counts[:num_classes].astype(np.int64)


def survey(dataset: LabelledSet, progress: Progress | None = None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Class pixels ``(N, C)`` and areas in pixels ``(N,)`` of all images of a labelled set.

    A set that keeps statistics of its own labels (`streams.datasets.DatasetImages`) is asked for these.

    Raises:
        UserError: A label holds an unknown id; the line names the image.
        StreamError: A label of a data set is faulty; the line names the file.
    """
    if isinstance(dataset, DatasetImages):
        return dataset.class_pixels(progress)
    counts = np.zeros((len(dataset), len(dataset.classes)), dtype=np.int64)
    areas = np.zeros(len(dataset), dtype=np.int64)
    for index in range(len(dataset)):
        label = dataset[index].label
        try:
            counts[index] = count_class_pixels(label, counts.shape[1])
        except UserError as error:
            raise UserError(f"source image {index}: {error}") from None
        areas[index] = label.size
        if progress is not None:
            progress(index + 1, len(dataset))
    return counts, areas


def class_shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share f_c of every class among the labelled pixels: ``(N, C)`` counts to ``(C,)`` shares that add up to 1."""
    totals = counts.sum(axis=0)
    return totals / max(int(totals.sum()), 1)


def rare_class_probabilities(
    shares: NDArray[np.float64], temperature: float, drawable: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Probability of asking for each class: ``P(c) = softmax((1 - f_c) / temperature)``.

    Args:
        shares: ``(C,)`` class shares f_c.
        temperature: Smaller prefers rare classes more strongly; HAMLET uses 0.01.
        drawable: ``(C,)`` classes that some image can serve; the others get 0 and the rest is scaled up. None is all.

    Returns:
        ``(C,)`` probabilities, all 0 if nothing is drawable.
    """
    allowed = np.ones(shares.shape, dtype=bool) if drawable is None else drawable
    if not allowed.any():
        return np.zeros_like(shares)
    scores = (1.0 - shares) / temperature
    powers = np.where(allowed, np.exp(scores - scores[allowed].max(), where=allowed, out=np.zeros_like(scores)), 0.0)
    return powers / powers.sum()


def eligible_images(counts: NDArray[np.int64], areas: NDArray[np.int64], min_pixel_share: float) -> NDArray[np.bool_]:
    """``(N, C)``: whether an image holds more than ``min_pixel_share`` of its area of a class."""
    return counts > min_pixel_share * areas[:, None]


def draw_index(probabilities: NDArray[np.float64], generator: torch.Generator) -> int:
    """Draw an index with the given probabilities, which add up to 1."""
    point = torch.rand((), generator=generator, dtype=torch.float64).item()
    edges = np.cumsum(probabilities)
    index = int(np.searchsorted(edges, point * edges[-1], side="right"))
    return min(index, int(np.flatnonzero(probabilities)[-1]))


def draw_below(bound: int, generator: torch.Generator) -> int:
    """Draw an integer from ``0 .. bound - 1``, all equally likely."""
    return int(torch.randint(bound, (), generator=generator).item())


def choose_uniform(total: int, capacity: int, generator: torch.Generator) -> list[int]:
    """``min(total, capacity)`` distinct indices below ``total``, in random order."""
    return torch.randperm(total, generator=generator)[:capacity].tolist()


def choose_rare_class(
    counts: NDArray[np.int64],
    areas: NDArray[np.int64],
    capacity: int,
    generator: torch.Generator,
    *,
    temperature: float = 0.01,
    min_pixel_share: float = MIN_PIXEL_SHARE,
) -> list[int]:
    """Distinct image indices drawn class first, as rare-class sampling would draw them.

    A class whose eligible images are all taken is no longer asked for; when no class is left, the rest is filled up
    uniformly.

    Args:
        counts: ``(N, C)`` class pixels.
        areas: ``(N,)`` image areas in pixels.
        capacity: Largest number of indices.
        generator: Source of randomness.
        temperature: See `rare_class_probabilities`.
        min_pixel_share: See `eligible_images`.

    Returns:
        ``min(N, capacity)`` distinct indices.
    """
    shares = class_shares(counts)
    open_images = eligible_images(counts, areas, min_pixel_share)
    chosen: list[int] = []
    while len(chosen) < min(capacity, len(counts)) and open_images.any():
        probabilities = rare_class_probabilities(shares, temperature, open_images.sum(axis=0) > 0)
        candidates = np.flatnonzero(open_images[:, draw_index(probabilities, generator)])
        index = int(candidates[draw_below(len(candidates), generator)])
        chosen.append(index)
        open_images[index] = False
    rest = sorted(set(range(len(counts))) - set(chosen))
    fill_up = choose_uniform(len(rest), capacity - len(chosen), generator)
    return chosen + [rest[position] for position in fill_up]
