"""Draws training crops from a replay buffer: rare classes first, or all images alike (specs/hamlet.md 2.9)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from online_uda.adaptation.replay.buffer import ReplayBuffer
from online_uda.adaptation.replay.rare_class import (
    MIN_PIXEL_SHARE,
    class_shares,
    draw_below,
    draw_index,
    eligible_images,
    rare_class_probabilities,
)
from online_uda.errors import UserError

Dress = Callable[[NDArray[np.uint8]], NDArray[Any]]
"""An image ``(H, W, 3)`` uint8 RGB to one of the same size: uint8, or float32 in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Crop:
    """One draw: which image of the buffer, which window of it, mirrored or not, and for which class (None: uniform)."""

    slot: int
    top: int
    left: int
    flip: bool
    class_id: int | None

    def cut(self, array: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
        """This window, of ``size`` (h, w), of an image or label ``(H, W, ...)``, mirrored where the draw says so."""
        window = array[self.top : self.top + size[0], self.left : self.left + size[1]]
        return window[:, ::-1] if self.flip else window


@dataclass(frozen=True, slots=True)
class ReplayBatch:
    """Labelled source crops for one training step.

    Attributes:
        images: ``(B, 3, h, w)`` float32 in [0, 1], RGB.
        labels: ``(B, h, w)`` int64 train ids, 255 = ignore.
        crops: Where they come from.
    """

    images: Tensor
    labels: Tensor
    crops: tuple[Crop, ...]


class ReplaySampler:
    """Draws crops from a replay buffer, and from nothing else.

    The ``rare_class`` policy draws a class with probability softmax((1 - share) / temperature), then one of the images
    with more than ``min_pixel_share`` of it, then up to ``max_tries`` windows until one holds more than half of that
    number of pixels; if none does, the window with most of them is taken. Classes that no image holds enough of are not
    asked for.

    Args:
        buffer: Images to draw from.
        generator: CPU source of all randomness; it belongs to the sampler from now on and is part of its state.
        crop_size: (h, w) of the crops; None takes whole images.
        policy: ``rare_class`` or ``uniform``.
        temperature: Of the class draw.
        min_pixel_share: Share of an image's area; the default is HAMLET's 3000 pixels of 1024x512.
        max_tries: Windows to try for one draw, at least 1.
        flip_probability: Probability of mirroring a crop left to right.

    Raises:
        UserError: If the crop exceeds the images, a setting is out of range, or no image is eligible for any class.
    """

    def __init__(
        self,
        buffer: ReplayBuffer,
        generator: torch.Generator,
        *,
        crop_size: tuple[int, int] | None = None,
        policy: Literal["rare_class", "uniform"] = "rare_class",
        temperature: float = 0.01,
        min_pixel_share: float = MIN_PIXEL_SHARE,
        max_tries: int = 10,
        flip_probability: float = 0.5,
    ) -> None:
        height, width = buffer.size
        self.crop_size = crop_size if crop_size is not None else (height, width)
        if not (1 <= self.crop_size[0] <= height and 1 <= self.crop_size[1] <= width):
            raise UserError(f"replay crop_size {self.crop_size} does not fit images of {buffer.size}")
        if policy not in ("rare_class", "uniform"):
            raise UserError(f"replay policy must be 'rare_class' or 'uniform', got {policy!r}")
        if temperature <= 0.0 or max_tries < 1 or not 0.0 <= flip_probability <= 1.0:
            raise UserError(
                "replay needs temperature > 0, max_tries >= 1 and flip_probability in [0, 1], got "
                f"{temperature}, {max_tries}, {flip_probability}"
            )
        self._buffer = buffer
        self._generator = generator
        self._max_tries = max_tries
        self._flip_probability = flip_probability
        self._min_pixels = min_pixel_share * height * width
        areas = np.full(len(buffer), height * width, dtype=np.int64)
        eligible = eligible_images(buffer.counts, areas, min_pixel_share)
        self._slots_of = [np.flatnonzero(column) for column in eligible.T]
        self.probabilities = rare_class_probabilities(
            class_shares(buffer.counts), temperature, eligible.sum(axis=0) > 0
        )
        self._rare = policy == "rare_class"
        if self._rare and not eligible.any():
            raise UserError(
                f"no replay image holds more than {min_pixel_share:.4g} of its area of any class: "
                "lower min_pixel_share or use the uniform policy"
            )

    def draw(self) -> Crop:
        """Draw one crop."""
        generator = self._generator
        class_id = slot = None
        if self._rare:
            class_id = draw_index(self.probabilities, generator)
            slots = self._slots_of[class_id]
            slot = int(slots[draw_below(len(slots), generator)])
        else:
            slot = draw_below(len(self._buffer), generator)
        top, left = self._window(slot, class_id)
        flip = torch.rand((), generator=generator, dtype=torch.float64).item() < self._flip_probability
        return Crop(slot=slot, top=top, left=left, flip=flip, class_id=class_id)

    def _window(self, slot: int, class_id: int | None) -> tuple[int, int]:
        """Top left corner of a window; of the fullest one tried if a class is wanted and never half there."""
        height, width = self.crop_size
        label = self._buffer.labels[slot]
        best, most = (0, 0), -1
        for _ in range(1 if class_id is None else self._max_tries):
            top = draw_below(label.shape[0] - height + 1, self._generator)
            left = draw_below(label.shape[1] - width + 1, self._generator)
            if class_id is None:
                return top, left
            pixels = int(np.count_nonzero(label[top : top + height, left : left + width] == class_id))
            if pixels > most:
                best, most = (top, left), pixels
            if pixels > 0.5 * self._min_pixels:
                break
        return best

    def sample(
        self, batch_size: int = 1, device: torch.device | str = "cpu", dress: Dress | None = None
    ) -> ReplayBatch:
        """Draw a batch of crops and move them to a device.

        Args:
            batch_size: Crops.
            device: Where to.
            dress: What images go through before they are cut, each after its own draw; labels stay.
        """
        crops, images, labels = [], [], []
        for _ in range(batch_size):
            crop = self.draw()
            image = self._buffer.images[crop.slot]
            images.append(crop.cut(image if dress is None else dress(image), self.crop_size))
            labels.append(crop.cut(self._buffer.labels[crop.slot], self.crop_size))
            crops.append(crop)
        frames = torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2)
        if frames.dtype == torch.uint8:  # moved as bytes, a quarter of the way to a GPU
            frames = frames.contiguous().float().div_(255.0)
        return ReplayBatch(frames, torch.from_numpy(np.stack(labels)).to(device).long(), tuple(crops))

    def state_dict(self) -> dict[str, Any]:
        """State of the generator: which crops come next."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self._generator.set_state(state["generator"].cpu())
