"""Source replay as a recipe uses it: a bounded buffer, rare-class crops, and the look of the stream on top."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from online_uda.adaptation.replay.buffer import ReplayBuffer
from online_uda.adaptation.replay.sampling import ReplaySampler
from online_uda.adaptation.replay.style import TargetStyle
from online_uda.adaptation.settings import ReplaySettings


def crop_size(size: tuple[int, int], share: tuple[float, float]) -> tuple[int, int]:
    """Crop height and width: ``share`` of each side, in whole steps of 32 pixels, never larger than the image."""
    height, width = (min(side, max(32, round(side * part / 32) * 32)) for side, part in zip(size, share, strict=True))
    return height, width


def frame_to_uint8(frames: Tensor) -> NDArray[np.uint8]:
    """The first of ``frames`` (B, 3, H, W) float32 in [0, 1] as ``(H, W, 3)`` uint8."""
    image = (frames[0] * 255.0 + 0.5).clamp_(0, 255).to(torch.uint8)
    return image.permute(1, 2, 0).cpu().numpy()


class SourceReplay:
    """Draws labelled source crops, dressed as the stream when the settings ask for it.

    Args:
        buffer: The images.
        settings: The replay slot.
        seed: Of every draw.
    """

    def __init__(self, buffer: ReplayBuffer, settings: ReplaySettings, seed: int) -> None:
        self.buffer, self._settings = buffer, settings
        self._generator = torch.Generator().manual_seed(seed)
        self._sampler = ReplaySampler(
            buffer, self._generator, crop_size=crop_size(buffer.size, settings.crop), policy=settings.sampling,
            temperature=settings.temperature,
        )  # fmt: skip
        style = settings.style
        self.style = None
        if style is not None:
            self.style = TargetStyle(
                buffer.images, grid=style.grid, half_life_frames=style.half_life_frames, detail=style.detail,
                strength=style.strength,
            )  # fmt: skip
        self._frame: NDArray[np.uint8] | None = None

    @property
    def crop_size(self) -> tuple[int, int]:
        """Height and width of what `draw` gives."""
        return self._sampler.crop_size

    def observe(self, frames: Tensor, *, changed: bool) -> None:
        """Shows a frame of the stream to the style; ``changed`` says that a domain change was detected on it."""
        if self.style is None:
            return
        self._frame = frame_to_uint8(frames)
        if changed:
            self.style.forget()
        self.style.observe(self._frame)

    def draw(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """A batch of crops: images ``(B, 3, h, w)`` float32 in [0, 1] and labels ``(B, h, w)`` int64."""
        style, frame = self.style, self._frame

        def dress(image: NDArray[np.uint8]) -> NDArray[np.float32]:
            assert style is not None
            assert frame is not None
            return style.dress(image, frame, self._generator)

        dressed = style is not None and frame is not None
        batch = self._sampler.sample(self._settings.batch, device, dress if dressed else None)
        return batch.images, batch.labels

    def state_dict(self) -> dict[str, Any]:
        """Sampler, generator and style; the images are rebuilt from the source set and checked by digest."""
        return {
            "buffer": self.buffer.state_dict(),
            "sampler": self._sampler.state_dict(),
            "style": None if self.style is None else self.style.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`; the buffer must hold the same images.

        Raises:
            UserError: If the source images changed since.
        """
        self.buffer.load_state_dict(state["buffer"])
        self._sampler.load_state_dict(state["sampler"])
        if self.style is not None:
            self.style.load_state_dict(state["style"])
