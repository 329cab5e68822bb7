"""Colour jitter and Gaussian blur with parameters of their own for every image (specs/hamlet.md 2.6).

Parameters are drawn on the CPU from a `torch.Generator` that the caller owns, so a run repeats on any device; every
image uses the same number of draws whether or not its jitter or blur is applied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from online_uda.adaptation.mixing import Generators, generator_per_image
from online_uda.errors import UserError

_LUMA = (0.2989, 0.587, 0.114)


def to_gray(image: Tensor) -> Tensor:
    """Luma (ITU-R BT.601 weights) of ``(..., 3, H, W)`` RGB as ``(..., 1, H, W)``."""
    red, green, blue = image.unbind(-3)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue).unsqueeze(-3)


def adjust_brightness(image: Tensor, factor: float) -> Tensor:
    """Scale ``(..., 3, H, W)`` float RGB in [0, 1] by ``factor``, clamped."""
    return (image * factor).clamp_(0.0, 1.0)


def adjust_contrast(image: Tensor, factor: float) -> Tensor:
    """Scale the distance to the mean luma of each image by ``factor``, clamped to [0, 1]."""
    mean = to_gray(image).mean(dim=(-3, -2, -1), keepdim=True)
    return torch.lerp(mean.expand_as(image), image, factor).clamp_(0.0, 1.0)


def adjust_saturation(image: Tensor, factor: float) -> Tensor:
    """Scale the distance of every pixel to its own luma by ``factor``, clamped to [0, 1]."""
    return torch.lerp(to_gray(image).expand_as(image), image, factor).clamp_(0.0, 1.0)


def adjust_hue(image: Tensor, turn: float) -> Tensor:
    """Turn the HSV hue of ``(..., 3, H, W)`` RGB in [0, 1] by ``turn`` of a full circle; value and chroma stay.

    With hue h in sextants, value v and chroma c, each channel is ``v - c * clamp(min(k, 4 - k), 0, 1)`` for
    ``k = (n + h) mod 6`` and n = 5, 3, 1 for red, green, blue.
    """
    red, green, blue = image.unbind(-3)
    value = image.amax(dim=-3)
    chroma = value - image.amin(dim=-3)
    unit = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    hue = torch.where(
        value == red,
        (green - blue) / unit,
        torch.where(value == green, 2.0 + (blue - red) / unit, 4.0 + (red - green) / unit),
    )
    offsets = torch.tensor([5.0, 3.0, 1.0], dtype=image.dtype, device=image.device).view(3, 1, 1)
    position = (hue.unsqueeze(-3) + (offsets + 6.0 * turn)).remainder_(6.0)
    share = torch.minimum(position, 4.0 - position).clamp_(0.0, 1.0)
    return (value.unsqueeze(-3) - chroma.unsqueeze(-3) * share).clamp_(0.0, 1.0)


_ADJUSTMENTS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


def blur_kernel_size(side: int) -> int:
    """Odd kernel size of about 10 % of an image side: 51 for 512, 1 (no blur) below 21."""
    tenth = math.ceil(0.1 * side)
    return tenth if tenth % 2 else tenth - 1


def _half_kernel(side: int, sigma: float) -> list[float]:
    """Weights of a normalised Gaussian kernel at the distances 0, 1, 2 ... from its centre."""
    # Beyond 6 sigma a weight is below 2e-8 of the peak and vanishes in float32, so the tail is not computed.
    radius = min((blur_kernel_size(side) - 1) // 2, math.ceil(6.0 * sigma))
    weights = [math.exp(-0.5 * (distance / sigma) ** 2) for distance in range(radius + 1)]
    total = weights[0] + 2.0 * math.fsum(weights[1:])
    return [weight / total for weight in weights]


def _blur_along(padded: Tensor, dim: int, weights: list[float]) -> Tensor:
    """Weighted sum of shifted views along one dimension, which loses its padding; depthwise conv2d is far slower."""
    radius = len(weights) - 1
    length = padded.shape[dim] - 2 * radius
    blurred = padded.narrow(dim, radius, length) * weights[0]
    for distance in range(1, radius + 1):
        blurred.add_(padded.narrow(dim, radius - distance, length), alpha=weights[distance])
        blurred.add_(padded.narrow(dim, radius + distance, length), alpha=weights[distance])
    return blurred


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Blur ``(3, H, W)`` with a Gaussian of standard deviation ``sigma`` pixels, mirrored at the borders."""
    down, across = _half_kernel(image.shape[-2], sigma), _half_kernel(image.shape[-1], sigma)
    y, x = len(down) - 1, len(across) - 1
    padded = F.pad(image.unsqueeze(0), (x, x, y, y), mode="reflect").squeeze(0)
    return _blur_along(_blur_along(padded, -1, across), -2, down)


@dataclass(frozen=True, slots=True)
class PhotometricDraw:
    """What one image gets: adjustments as (0 brightness, 1 contrast, 2 saturation, 3 hue; amount) in order, and sigma.

    No adjustment leaves the colours, and ``blur_sigma`` None the sharpness.
    """

    adjustments: tuple[tuple[int, float], ...]
    blur_sigma: float | None


def apply_draw(image: Tensor, draw: PhotometricDraw) -> Tensor:
    """Apply a draw to ``(3, H, W)`` float RGB in [0, 1]; the input stays as it is."""
    for which, amount in draw.adjustments:
        image = _ADJUSTMENTS[which](image, amount)
    return image if draw.blur_sigma is None else gaussian_blur(image, draw.blur_sigma)


@dataclass(frozen=True, slots=True)
class PhotometricAugmentation:
    """Random colour jitter, then random Gaussian blur; the defaults are HAMLET's.

    Attributes:
        brightness: Factor drawn from [1 - brightness, 1 + brightness].
        contrast: Likewise.
        saturation: Likewise.
        hue: Turn drawn from [-hue, hue], at most 0.5.
        jitter_probability: Probability of the jitter of an image; its four adjustments come in random order.
        blur_probability: Probability of the blur of an image.
        blur_sigma: Range of the blur's standard deviation in pixels.

    Raises:
        UserError: If a value is out of range.
    """

    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.2
    jitter_probability: float = 0.8
    blur_probability: float = 0.5
    blur_sigma: tuple[float, float] = (0.15, 1.15)

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation", "jitter_probability", "blur_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UserError(f"augmentation {name} must lie in [0, 1], got {getattr(self, name)}")
        if not 0.0 <= self.hue <= 0.5:
            raise UserError(f"augmentation hue must lie in [0, 0.5], got {self.hue}")
        if not 0.0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise UserError(f"augmentation blur_sigma needs 0 < low <= high, got {self.blur_sigma}")

    def draw(self, generator: torch.Generator) -> PhotometricDraw:
        """Draw the parameters of one image."""
        points = torch.rand(7, generator=generator, dtype=torch.float64).tolist()
        order = torch.randperm(4, generator=generator).tolist()
        spreads = (self.brightness, self.contrast, self.saturation, self.hue)
        centres = (1.0, 1.0, 1.0, 0.0)
        amounts = [
            centre + spread * (2.0 * u - 1.0) for centre, spread, u in zip(centres, spreads, points[:4], strict=True)
        ]
        low, high = self.blur_sigma
        return PhotometricDraw(
            adjustments=tuple((i, amounts[i]) for i in order) if points[4] >= 1.0 - self.jitter_probability else (),
            blur_sigma=low + (high - low) * points[5] if points[6] >= 1.0 - self.blur_probability else None,
        )

    @torch.no_grad()
    def __call__(self, frames: Tensor, generator: Generators) -> Tensor:
        """Augment every image of a batch with a draw of its own.

        Args:
            frames: ``(B, 3, H, W)`` float32 in [0, 1], RGB; stays as it is.
            generator: CPU source of randomness, one for all images or one an image.

        Returns:
            Augmented frames, same shape and range.
        """
        draws = [self.draw(source) for source in generator_per_image(generator, len(frames))]
        return torch.stack([apply_draw(frame, draw) for frame, draw in zip(frames, draws, strict=True)])
