"""Maximum mean discrepancy between two sets of features with a sum of Gaussian kernels (Gretton et al. 2012).

Deep domain adaptation: Long et al. 2015; as Dual Soft-Paste uses it: specs/seed-systems.md 8.2, fixture F5.
"""

from __future__ import annotations

import torch
from torch import Tensor

WIDTHS = 5


def kernel_distance(x: Tensor, y: Tensor) -> Tensor:
    """``mean(K_xx + K_yy - K_xy - K_yx)``, K a sum of five Gaussians.

    Their widths double from a quarter of the mean squared distance of the joint set on; they are constants: the
    gradient runs through the distances alone.

    Args:
        x: ``(n, D)``.
        y: ``(n, D)``, as many as ``x``.

    Returns:
        Scalar, 0 where both sets are equal.

    Raises:
        ValueError: If the sets differ in size.
    """
    if x.shape != y.shape:
        raise ValueError(f"both sets need the same number of features, got {tuple(x.shape)} and {tuple(y.shape)}")
    joint, count = torch.cat([x, y]), len(x)
    # Written out: the gradient of cdist at distance 0 is not defined, and the diagonal is full of them.
    distances = (joint[:, None] - joint[None]).square().sum(-1)
    total = 2 * count
    width = (distances.detach().sum() / max(total * total - total, 1) / 4.0).clamp(min=torch.finfo(x.dtype).tiny)
    kernel = sum(torch.exp(-distances / (width * 2.0**power)) for power in range(WIDTHS))
    assert isinstance(kernel, Tensor)
    own, cross = kernel[:count, :count] + kernel[count:, count:], kernel[:count, count:] + kernel[count:, :count]
    return (own - cross).mean()


def drawn_cells(features: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` random cells ``(count, D)`` of ``(B, D, h, w)`` features; all of them, in order, where that is all."""
    cells = features.movedim(1, -1).flatten(0, -2)
    if count >= len(cells):
        return cells
    return cells[torch.randperm(len(cells), generator=generator)[:count].to(cells.device)]
