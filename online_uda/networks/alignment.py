"""A frame's light and haze, row by row, moved part of the way to another look.

Rain, fog and dusk change brightness, contrast and colour. In rain and fog how much follows the distance, and in a
street seen from a car distance follows the height in the picture. So the frame is cut into a coarse grid of rows (and
columns), and the first two moments of luma and chroma of each cell are moved towards those of the wanted look:

    y' = y * exp(s (l0 - l)) + m (1 - exp(s (l0 - l))) + s (m0 - m)

with m and l the mean and the log standard deviation of the frame's cell, m0 and l0 the wanted ones, s the strength;
between the centres of cells the coefficients are interpolated. This is AdaIN (Huang and Belongie, ICCV 2017) on pixels,
by place, and against the usual direction: not the source gets the target's look, but the target the source's. Half the
way leaves room for what really differs between two scenes. Other streets have other things at other heights, too, and
where no veil lies between them and the camera, place says nothing of the light: there the moments of the whole frame
stand for those of every cell (`of_the_whole`). What haze the rows do not explain goes after that:
`online_uda.networks.haze`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from online_uda.networks.haze import ROWS, cleared

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601); chroma are the differences of blue and red to luma."""
BLUE, RED = 1.772, 1.402
SMALLEST_DEVIATION = 0.005
LARGEST_LOG_GAIN = 1.4


Look = tuple[Tensor, Tensor]
"""Means and log standard deviations of cells, each ``(B, 3, rows, columns)`` float32."""


class InputAlignment(nn.Module):
    """Maps frames towards the look of source images; see the module's text.

    Args:
        mean: Source means, ``(1, 3, rows, columns)`` float32 of luma, blue and red difference, RGB in [0, 1].
        log_deviation: Logarithms of the standard deviations, of the same shape.
        strength: Share of the way, in [0, 1]; 0 leaves frames as they are.
        haze: Share of the haze beyond the normal that is taken away, in [0, 1].
        transmission: The normal one by height, ``(1, 1, ROWS, 1)``; None where no haze is taken away.
        by_place: How far cells are moved each by its own moments rather than by the frame's, in [0, 1].
    """

    mean: Tensor
    log_deviation: Tensor
    transmission: Tensor | None

    def __init__(
        self,
        mean: Tensor,
        log_deviation: Tensor,
        strength: float,
        haze: float = 0.0,
        transmission: Tensor | None = None,
        by_place: float = 1.0,
    ) -> None:
        super().__init__()
        self.strength, self.haze, self.by_place = strength, haze, by_place
        # Not persistent: they follow from the source images, and a network's weights keep the names they have without.
        self.register_buffer("mean", mean.clone(), persistent=False)
        self.register_buffer("log_deviation", log_deviation.clone(), persistent=False)
        known = None if transmission is None else transmission.clone()
        self.register_buffer("transmission", known, persistent=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for a file that travels without the source images."""
        values = {
            "strength": self.strength, "by_place": self.by_place,
            "mean": self.mean[0].tolist(), "log_deviation": self.log_deviation[0].tolist(),
        }  # fmt: skip
        if self.transmission is not None:
            values |= {"haze": self.haze, "transmission": self.transmission.flatten().tolist()}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InputAlignment:
        """What `as_dict` gave, on the CPU.

        Raises:
            KeyError: A value is missing.
            TypeError: One is of another type.
            ValueError: The moments are not ``(3, rows, columns)`` numbers of one grid.
        """
        mean, deviation = (torch.tensor(values[key], dtype=torch.float32)[None] for key in ("mean", "log_deviation"))
        if mean.ndim != 4 or mean.shape[1] != 3 or mean.shape != deviation.shape:
            raise ValueError(f"expected moments (3, rows, columns), got {tuple(mean.shape)}, {tuple(deviation.shape)}")
        haze, by_place = float(values.get("haze", 0.0)), float(values.get("by_place", 1.0))
        if haze == 0.0:
            return cls(mean, deviation, float(values["strength"]), by_place=by_place)
        transmission = torch.tensor(values["transmission"], dtype=torch.float32)
        if transmission.shape != (ROWS,):
            raise ValueError(f"expected a transmission at {ROWS} heights, got {tuple(transmission.shape)}")
        return cls(mean, deviation, float(values["strength"]), haze, transmission[None, None, :, None], by_place)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns."""
        return int(self.mean.shape[-2]), int(self.mean.shape[-1])

    @torch.no_grad()
    def forward(self, frames: Tensor) -> Tensor:
        """Aligns ``frames`` (B, 3, H, W) float32 RGB in [0, 1], every frame by its own moments; the same shape."""
        opponent = to_opponent(frames)
        look, wanted = moments(opponent, self.grid), (self.mean, self.log_deviation)
        out = moved(opponent, look, wanted, self.strength, self.by_place)
        return out if self.transmission is None else cleared(out, self.transmission, self.haze)


def mean_look(images: Iterable[NDArray[np.uint8]], grid: tuple[int, int], device: torch.device) -> Look:
    """Mean of the moments of images, each ``(H, W, 3)`` uint8 RGB."""
    means, deviations = [], []
    for image in images:
        mean, deviation = moments(to_opponent(to_frame(image, device)), grid)
        means.append(mean)
        deviations.append(deviation)
    return torch.cat(means).mean(0, keepdim=True), torch.cat(deviations).mean(0, keepdim=True)


def to_frame(image: NDArray[np.uint8], device: torch.device) -> Tensor:
    """``(1, 3, H, W)`` float32 RGB in [0, 1] of an image ``(H, W, 3)`` uint8."""
    return torch.from_numpy(np.array(image)).to(device).permute(2, 0, 1)[None].float() / 255.0


def of_the_whole(look: Look) -> Look:
    """A look whose cells all have the moments of the frame that they make up; of the same shape."""
    mean, deviation = look
    whole = mean.mean((2, 3), keepdim=True)
    variance = ((2.0 * deviation).exp() + mean * mean).mean((2, 3), keepdim=True) - whole * whole
    return whole.expand_as(mean), (0.5 * variance.clamp_min(SMALLEST_DEVIATION**2).log()).expand_as(deviation)


def between(one: Look, other: Look, share: float) -> Look:
    """The look a ``share`` of the way from one to the other."""
    return torch.lerp(one[0], other[0], share), torch.lerp(one[1], other[1], share)


def moved(opponent: Tensor, look: Look, wanted: Look, strength: float, by_place: float = 1.0) -> Tensor:
    """Moves frames from one look towards another.

    Args:
        opponent: ``(B, 3, H, W)`` float32 from `to_opponent`.
        look: Means and log deviations of their cells, each ``(B or 1, 3, rows, columns)``.
        wanted: Those to move to, of the same grid.
        strength: Share of the way.
        by_place: How far each cell goes by its own moments rather than by those of the whole frame, in [0, 1].

    Returns:
        ``(B, 3, H, W)`` float32 RGB in [0, 1].
    """
    if by_place < 1.0:
        look, wanted = (between(of_the_whole(one), one, by_place) for one in (look, wanted))
    size = (int(opponent.shape[-2]), int(opponent.shape[-1]))
    (mean, deviation), (wanted_mean, wanted_deviation) = look, wanted
    gain = (strength * (wanted_deviation - deviation)).clamp(-LARGEST_LOG_GAIN, LARGEST_LOG_GAIN).exp()
    offset = mean * (1.0 - gain) + strength * (wanted_mean - mean)
    return _to_rgb(opponent * _spread(gain, size) + _spread(offset, size)).clamp(0.0, 1.0)


def moments(opponent: Tensor, grid: tuple[int, int]) -> Look:
    """Means and log standard deviations of cells, each ``(B, 3, rows, columns)``; cells as in adaptive pooling."""
    height, width = int(opponent.shape[-2]), int(opponent.shape[-1])
    squares = opponent * opponent
    means, powers = [], []
    # Slices and means alone: an exporter takes them at any size.
    for top, bottom in _bounds(height, grid[0]):
        for left, right in _bounds(width, grid[1]):
            means.append(opponent[..., top:bottom, left:right].mean((2, 3)))
            powers.append(squares[..., top:bottom, left:right].mean((2, 3)))
    mean, power = (torch.stack(part, -1).unflatten(-1, grid) for part in (means, powers))
    variance = (power - mean * mean).clamp_min(SMALLEST_DEVIATION**2)
    return mean, 0.5 * variance.log()


def _bounds(length: int, cells: int) -> list[tuple[int, int]]:
    return [(cell * length // cells, -(-(cell + 1) * length // cells)) for cell in range(cells)]


@lru_cache(maxsize=32)
def _ramps(length: int, cells: int) -> NDArray[np.float32]:
    """Weights ``(cells, length)`` of linear interpolation between the centres of cells, constant beyond the outer."""
    at = (np.arange(length) + 0.5) * cells / length - 0.5
    return np.stack([np.interp(at, np.arange(cells), row) for row in np.eye(cells)]).astype(np.float32)


def _spread(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """Interpolates ``(B, 3, rows, columns)`` to ``(B, 3, H, W)``, or to ``(B, 3, H, 1)`` where there is one column."""
    rows, columns = int(cells.shape[-2]), int(cells.shape[-1])
    down = torch.from_numpy(_ramps(size[0], rows)).to(cells.device)
    out = sum((cells[:, :, row, None, :] * down[row, :, None] for row in range(rows)), torch.zeros(()).to(cells))
    if columns == 1:
        return out
    across = torch.from_numpy(_ramps(size[1], columns)).to(cells.device)
    return sum((out[..., column, None] * across[column] for column in range(columns)), torch.zeros(()).to(cells))


def to_opponent(frames: Tensor) -> Tensor:
    """Luma, blue and red difference of ``frames`` (B, 3, H, W) float32 RGB in [0, 1]; the same shape."""
    # Sums and products, not a matrix: under autocast a matrix product would be rounded to bfloat16.
    red, green, blue = frames.unbind(1)
    luma = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    return torch.stack([luma, (blue - luma) / BLUE, (red - luma) / RED], 1)


def _to_rgb(opponent: Tensor) -> Tensor:
    luma, blue_difference, red_difference = opponent.unbind(1)
    red, blue = luma + RED * red_difference, luma + BLUE * blue_difference
    return torch.stack([red, (luma - LUMA[0] * red - LUMA[2] * blue) / LUMA[1], blue], 1)
