"""Affine views of a frame with exact inverses: shifted, zoomed, turned and mirrored crops (DA-SAC, ProDA).

Matrices act on homogeneous pixel coordinates ``(x, y, 1)`` of the frame, continuous from 0 to width and height, so that
the same view can be taken of the frame, of logits on a coarser grid, and of labels (specs/seed-systems.md 6 and 7).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class AffineView:
    """Where a view lies in its frame.

    Attributes:
        matrix: ``(3, 3)`` float64, from pixels of the view to pixels of the frame; a view has its frame's size.
        inverse: ``(3, 3)`` float64, from the frame to the view.
    """

    matrix: Tensor
    inverse: Tensor


def _product(*matrices: Tensor) -> Tensor:
    out = torch.eye(3, dtype=torch.float64)
    for matrix in matrices:
        out = out @ matrix
    return out


def _shift(x: float, y: float) -> Tensor:
    return torch.tensor([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]], dtype=torch.float64)


def affine_view(
    size: tuple[int, int], *, dy: float = 0.0, dx: float = 0.0, angle: float = 0.0, zoom: float = 1.0, flip: int = 1
) -> AffineView:
    """The view about the centre of a frame of ``size`` (H, W).

    Args:
        size: Height and width of the frame.
        dy: Rows from the frame's centre to the view's.
        dx: Columns likewise.
        angle: In degrees.
        zoom: Share of each side that the view shows; below 1 it is magnified.
        flip: -1 mirrors left and right.
    """
    y, x = size[0] / 2.0, size[1] / 2.0
    turn = math.radians(angle)
    cos, sin = math.cos(turn), math.sin(turn)
    rotation = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    scale = torch.diag(torch.tensor([zoom * flip, zoom, 1.0], dtype=torch.float64))
    unscale = torch.diag(torch.tensor([flip / zoom, 1.0 / zoom, 1.0], dtype=torch.float64))
    matrix = _product(_shift(x + dx, y + dy), rotation, scale, _shift(-x, -y))
    inverse = _product(_shift(x, y), unscale, rotation.T, _shift(-x - dx, -y - dy))
    return AffineView(matrix, inverse)


def random_view(
    size: tuple[int, int], zoom: tuple[float, float], angle: float, mirror: bool, generator: torch.Generator
) -> AffineView:
    """A crop of the frame at a random place, mirrored half of the time, turned by up to ``angle`` degrees.

    Args:
        size: Height and width of the frame.
        zoom: Range of the share of each side that is shown.
        angle: Largest turn; a turned view may show a little of what lies outside.
        mirror: Whether views are mirrored at all.
        generator: CPU generator; five draws.
    """
    u = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
    share = zoom[0] + (zoom[1] - zoom[0]) * u[0]
    room = (1.0 - share) / 2.0
    return affine_view(
        size, dy=(2.0 * u[1] - 1.0) * room * size[0], dx=(2.0 * u[2] - 1.0) * room * size[1],
        angle=(2.0 * u[3] - 1.0) * angle, zoom=share, flip=-1 if mirror and u[4] < 0.5 else 1,
    )  # fmt: skip


def warp(x: Tensor, matrix: Tensor, size: tuple[int, int], extent: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Looks up ``x`` at where ``matrix`` sends each of its cells, bilinear.

    Args:
        x: ``(B, D, h, w)`` float on a grid of cells over ``extent``.
        matrix: ``(3, 3)``: pixels of the result to pixels of ``x``.
        size: Height and width of the frame; what is looked up outside of it is not valid.
        extent: Height and width in the frame's pixels that the grid spans, padding included.

    Returns:
        ``(B, D, h, w)``, and ``(h, w)`` bool, whether the place lies in the frame.
    """
    height, width = int(x.shape[-2]), int(x.shape[-1])
    step_y, step_x = extent[0] / height, extent[1] / width
    rows = (torch.arange(height, dtype=torch.float64) + 0.5) * step_y
    columns = (torch.arange(width, dtype=torch.float64) + 0.5) * step_x
    y, x_axis = torch.meshgrid(rows, columns, indexing="ij")
    places = torch.stack([x_axis, y, torch.ones_like(y)], -1) @ matrix.T
    found_x, found_y = places[..., 0], places[..., 1]
    slack = 1e-6
    valid = (found_x >= -slack) & (found_x <= size[1] + slack) & (found_y >= -slack) & (found_y <= size[0] + slack)
    grid = torch.stack([2.0 * found_x / extent[1] - 1.0, 2.0 * found_y / extent[0] - 1.0], -1)
    grid = grid.to(dtype=x.dtype, device=x.device).expand(len(x), -1, -1, -1)
    warped = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return warped, valid.to(x.device)
