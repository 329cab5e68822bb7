"""A bounded store of labelled source images: one arena of uint8 in memory, filled once, never grown.

The released HAMLET draws from the whole source set whatever its buffer holds (specs/hamlet.md 2.9); this one keeps no
reference to the set, so nothing outside the buffer can be replayed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from online_uda.adaptation.replay.rare_class import (
    MIN_PIXEL_SHARE,
    Progress,
    choose_rare_class,
    choose_uniform,
    count_class_pixels,
    survey,
)
from online_uda.errors import UserError
from streams.frame import LabelledImage, LabelledSet

DEFAULT_CAPACITY = 256


def resized(item: LabelledImage, size: tuple[int, int]) -> LabelledImage:
    """Resize to ``size`` = (H, W): the image by area when it shrinks and bilinearly else, the label by nearest."""
    height, width = size
    if item.image.shape[:2] == size and item.label.shape == size:
        return item
    shrinks = height <= item.image.shape[0] and width <= item.image.shape[1]
    image = cv2.resize(item.image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    label = cv2.resize(item.label, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return LabelledImage(image=image.astype(np.uint8), label=label.astype(np.uint8))


class ReplayBuffer:
    """Labelled source images of one size, in one block of memory.

    Use `fill` to choose the images, or this constructor when they are chosen already.

    Args:
        dataset: Labelled source images; read once and not kept.
        indices: Images to take, in this order.
        size: (H, W) to resize to; None keeps the size, which all images must share.
        progress: Called after every image.

    Attributes:
        images: ``(N, H, W, 3)`` uint8, RGB. Not to be written to.
        labels: ``(N, H, W)`` uint8 train ids, 255 = ignore. Not to be written to.
        counts: ``(N, C)`` int64 pixels of every class.
        indices: Position of every image in the source set.

    Raises:
        UserError: If there is no image, sizes differ, or a label holds an unknown id; the line names the image.
    """

    def __init__(
        self,
        dataset: LabelledSet,
        indices: Sequence[int],
        *,
        size: tuple[int, int] | None = None,
        progress: Progress | None = None,
    ) -> None:
        if not indices:
            raise UserError("the replay buffer has no source image: give a source with labelled images")
        first = dataset[indices[0]]
        height, width = size if size is not None else first.image.shape[:2]
        self.indices = list(indices)
        self.num_classes = len(dataset.classes)
        pixels = len(self.indices) * height * width
        self._arena = np.empty(4 * pixels, dtype=np.uint8)
        self.images: NDArray[np.uint8] = self._arena[: 3 * pixels].reshape(-1, height, width, 3)
        self.labels: NDArray[np.uint8] = self._arena[3 * pixels :].reshape(-1, height, width)
        self.counts = np.zeros((len(self.indices), self.num_classes), dtype=np.int64)
        for slot, index in enumerate(self.indices):
            item = first if slot == 0 else dataset[index]
            self._store(slot, item if size is None else resized(item, size))
            if progress is not None:
                progress(slot + 1, len(self.indices))
        self.images.flags.writeable = self.labels.flags.writeable = False
        self._digest = hashlib.blake2b(self._arena.data, digest_size=16).hexdigest()

    @classmethod
    def fill(
        cls,
        dataset: LabelledSet,
        generator: torch.Generator,
        *,
        capacity: int = DEFAULT_CAPACITY,
        policy: Literal["uniform", "rare_class"] = "uniform",
        size: tuple[int, int] | None = None,
        temperature: float = 0.01,
        min_pixel_share: float = MIN_PIXEL_SHARE,
        progress: Progress | None = None,
    ) -> ReplayBuffer:
        """Choose at most ``capacity`` distinct images of a set and store them.

        Args:
            dataset: Labelled source images.
            generator: Source of randomness of the choice.
            capacity: Largest number of images.
            policy: ``uniform`` takes a random subset; ``rare_class`` draws classes first, which reads all labels once
                when the set is larger than the buffer.
            size: (H, W) to resize to, or None.
            temperature: Of the ``rare_class`` draw.
            min_pixel_share: Of the ``rare_class`` draw.
            progress: Called while storing, and while reading the labels before it.

        Raises:
            UserError: As the constructor, and for a capacity below 1 or an unknown policy.
        """
        if capacity < 1:
            raise UserError(f"replay capacity must be at least 1 image, got {capacity}")
        if policy not in ("uniform", "rare_class"):
            raise UserError(f"replay fill policy must be 'uniform' or 'rare_class', got {policy!r}")
        if policy == "uniform" or len(dataset) <= capacity:
            indices = choose_uniform(len(dataset), capacity, generator)
        else:
            counts, areas = survey(dataset, progress)
            indices = choose_rare_class(
                counts, areas, capacity, generator, temperature=temperature, min_pixel_share=min_pixel_share
            )
        return cls(dataset, indices, size=size, progress=progress)

    @classmethod
    def restore(cls, dataset: LabelledSet, state: Mapping[str, Any], progress: Progress | None = None) -> ReplayBuffer:
        """Build the buffer of a `state_dict` again from its source set.

        Raises:
            UserError: If the set no longer holds the same images.
        """
        if max(state["indices"], default=0) >= len(dataset):
            raise UserError(f"the source set has only {len(dataset)} images now: resume with the source of the run")
        buffer = cls(dataset, state["indices"], size=(state["height"], state["width"]), progress=progress)
        buffer.load_state_dict(state)
        return buffer

    def _store(self, slot: int, item: LabelledImage) -> None:
        index, size = self.indices[slot], self.images.shape[1:3]
        if item.image.shape[:2] != size or item.label.shape != size:
            raise UserError(
                f"source image {index} is {item.image.shape[:2]} with a label of {item.label.shape}, the buffer holds "
                f"{size}: give a size to resize to"
            )
        try:
            self.counts[slot] = count_class_pixels(item.label, self.num_classes)
        except UserError as error:
            raise UserError(f"source image {index}: {error}") from None
        self.images[slot] = item.image
        self.labels[slot] = item.label

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the images."""
        return self.labels.shape[1], self.labels.shape[2]

    @property
    def nbytes(self) -> int:
        """Memory of the arena in bytes."""
        return self._arena.nbytes

    def state_dict(self) -> dict[str, Any]:
        """Which images the buffer holds and a digest of them: enough to build it again, small enough to save often."""
        height, width = self.size
        return {"indices": list(self.indices), "height": height, "width": width, "digest": self._digest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that this buffer is the one the state describes.

        Raises:
            UserError: If it holds other images or pixels.
        """
        if dict(state) != self.state_dict():
            raise UserError(
                "the replay buffer differs from the saved one: resume with the same source images and replay settings"
            )
