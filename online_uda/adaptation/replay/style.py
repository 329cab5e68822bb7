"""Target-styled replay: labelled source images dressed in the light, haze and grain of the stream.

Labels of the source are true whatever the weather, so a source image that looks like the stream teaches without
pseudo-labels. Two parts of the look are carried over, both from frames alone:

* colour: channel moments in CIE Lab, on a coarse grid or as one cell. A source image is mapped so that the source
  set's mean moments become the stream's recent ones. Moments are averaged over frames, never matched image by image:
  what moves is the domain, the content stays. This is AdaIN (Huang and Belongie, ICCV 2017) on pixels, with averaged
  domain moments as in GTTA (specs/methods.md 3).
* detail: what a median filter removes from the current frame (streaks, flakes, sensor noise) is added on top, shifted
  and flipped at random.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from online_uda.adaptation.replay.rare_class import draw_below

Array = NDArray[np.float32]
MEDIAN_SHARE = 7 / 360
"""Side of the median filter over the image height; thin streaks vanish, objects stay."""
GAIN_RANGE = (0.2, 3.0)
_SMALLEST_VARIANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Moments:
    """First and second raw moments in CIE Lab, each ``(rows, columns, 3)`` float32."""

    mean: Array
    square: Array

    @property
    def variance(self) -> Array:
        """``(rows, columns, 3)`` float32, not negative."""
        return np.maximum(self.square - self.mean * self.mean, _SMALLEST_VARIANCE)

    def towards(self, other: Moments, share: float) -> Moments:
        """A linear step of ``share`` to ``other``."""
        return Moments(
            self.mean + np.float32(share) * (other.mean - self.mean),
            self.square + np.float32(share) * (other.square - self.square),
        )


def lab_moments(image: NDArray[np.uint8], grid: tuple[int, int]) -> Moments:
    """Moments of ``image`` (H, W, 3) uint8 RGB over a partition into ``grid`` = (rows, columns) cells."""
    lab = _to_lab(image)
    mean, square = (cv2.resize(part, grid[::-1], interpolation=cv2.INTER_AREA) for part in (lab, lab * lab))
    shape = (*grid, 3)
    return Moments(np.asarray(mean, np.float32).reshape(shape), np.asarray(square, np.float32).reshape(shape))


def _to_lab(image: NDArray[np.uint8]) -> Array:
    return np.asarray(cv2.cvtColor(image.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2LAB), np.float32)


def transfer_moments(image: NDArray[np.uint8], source: Moments, target: Moments) -> Array:
    """Maps ``image`` so that pixels with moments ``source`` get moments ``target``.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        source: Mean moments of the domain of ``image``.
        target: Mean moments of the domain to look like, same grid.

    Returns:
        ``(H, W, 3)`` float32 RGB in [0, 1].
    """
    size = (image.shape[1], image.shape[0])

    def spread(cells: Array) -> Array:
        if cells.shape[:2] == (1, 1):
            return cells
        return np.asarray(cv2.resize(cells, size, interpolation=cv2.INTER_CUBIC), np.float32)

    lab = (_to_lab(image) - spread(source.mean)) * spread(_gain(source, target)) + spread(target.mean)
    return np.clip(cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB), 0.0, 1.0)


def _gain(source: Moments, target: Moments) -> Array:
    return np.clip(np.sqrt(target.variance / source.variance), *GAIN_RANGE).astype(np.float32)


def fine_detail(image: NDArray[np.uint8]) -> Array:
    """What a median filter takes away from ``image``: ``(H, W, 3)`` float32 in [-1, 1]."""
    side = max(3, round(image.shape[0] * MEDIAN_SHARE) // 2 * 2 + 1)
    smooth = cv2.medianBlur(np.ascontiguousarray(image), side)
    return (image.astype(np.float32) - smooth.astype(np.float32)) / np.float32(255)


class TargetStyle:
    """Follows the look of the stream and dresses source images in it.

    Args:
        images: The replay buffer's images, ``(N, H, W, 3)`` uint8 RGB: they define the source look.
        grid: Rows and columns of the moment grid; (1, 1) is one global transform. Rows follow what weather does with
            distance, because distance grows towards the horizon; columns follow mostly what stands there.
        half_life_frames: Half-life of the stream's moments.
        detail: Factor on the carried-over detail, 0 = none.
        strength: Range of the share of the way from the source look to the stream's. It is drawn anew for every image,
            for colour and for detail apart: the network learns the whole path and keeps what it knew at its start,
            where a fixed full strength would also teach the scenes that the stream happens to show.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        *,
        grid: tuple[int, int],
        half_life_frames: float,
        detail: float,
        strength: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self.grid, self.detail, self.strength = grid, detail, strength
        self._rate = 1.0 - 0.5 ** (1.0 / half_life_frames)
        each = [lab_moments(image, grid) for image in images]
        self.source = Moments(
            np.mean([m.mean for m in each], axis=0, dtype=np.float32),
            np.mean([m.square for m in each], axis=0, dtype=np.float32),
        )
        self.target: Moments | None = None
        self._frames = 0

    def observe(self, image: NDArray[np.uint8]) -> None:
        """Folds a frame of the stream, ``(H, W, 3)`` uint8 RGB, into the target look."""
        seen = lab_moments(image, self.grid)
        self._frames += 1
        rate = max(self._rate, 1.0 / self._frames)
        self.target = seen if self.target is None else self.target.towards(seen, rate)

    def forget(self) -> None:
        """Starts the target look afresh at the next frame: the domain has changed."""
        self._frames = 0

    def dress(self, image: NDArray[np.uint8], frame: NDArray[np.uint8], generator: torch.Generator) -> Array:
        """A source image in the look of the stream.

        Args:
            image: ``(H, W, 3)`` uint8 RGB source image.
            frame: ``(h, w, 3)`` uint8 RGB, the current frame, which lends its detail; resized where sizes differ.
            generator: CPU generator of both strengths and of the shift and flip of the detail.

        Returns:
            ``(H, W, 3)`` float32 RGB in [0, 1].
        """
        low, high = self.strength
        colour, fine = (low + (high - low) * torch.rand(2, generator=generator)).tolist()
        flip = draw_below(2, generator) == 1
        shift = draw_below(image.shape[1], generator)
        if self.target is None:
            return image.astype(np.float32) / np.float32(255)
        styled = transfer_moments(image, self.source, self.source.towards(self.target, colour))
        amount = fine * self.detail
        if amount > 0.0:
            detail = fine_detail(frame)
            if detail.shape != styled.shape:
                height, width, _ = styled.shape
                detail = np.asarray(cv2.resize(detail, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
            detail = np.roll(detail[:, ::-1] if flip else detail, shift, axis=1)
            styled = np.clip(styled + np.float32(amount) * detail, 0.0, 1.0)
        return styled

    def state_dict(self) -> dict[str, Any]:
        """The target look; the source look follows from the buffer."""
        target = (
            None if self.target is None else [torch.from_numpy(self.target.mean), torch.from_numpy(self.target.square)]
        )
        return {"frames": self._frames, "target": target}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self._frames = int(state["frames"])
        target = state["target"]
        self.target = None if target is None else Moments(*(part.cpu().numpy().copy() for part in target))
