"""Haze beyond what source images have, taken out of a frame: the dark channel prior, measured against them.

Rain and fog lay a veil over what is far: ``I = J t + A (1 - t)`` with the airlight A and the transmission t
(Koschmieder; specs/weather.md). In a clear picture every patch has something dark in one of the channels (He, Sun and
Tang, CVPR 2009), so

    t = 1 - w min over patch and channels (I / A),

smoothed along the picture's edges by a guided filter (He, Sun and Tang, ECCV 2010) on a coarse grid (He and Sun, 2015).
The prior finds haze in white walls and grey sky too. Source images know how much of that is normal at which height of
the picture; only the excess over it is taken away:

    r = min(t / t0, 1),    J = (I - A) / (1 - s + s r) + A.

Under a clear sky r is close to 1 and frames stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 16
"""Heights at which the source's transmission is known."""
_KEPT = 0.95
"""w: a little haze is left to what is far, as He et al. do."""
_COLUMNS, _BLOCK_COLUMNS = 64, 16
"""Width of the coarse grid, and of the blocks that the airlight is looked for in."""
_UPPER = 5 / 8
_PATCH, _WINDOW, _EDGE = 3, 7, 1e-3
_LEAST_TRANSMISSION, _LEAST_RATIO, _LEAST_LIGHT = 0.15, 0.2, 0.2
_BRIGHTEST_BLOCKS = 4


def airlight(frames: Tensor) -> Tensor:
    """Colour that distance fades to: of the bright, even blocks in the upper part (after Kim et al., 2013).

    Args:
        frames: ``(B, 3, H, W)`` float32 RGB in [0, 1].

    Returns:
        ``(B, 3, 1, 1)`` float32.
    """
    upper = frames[..., : max(int(frames.shape[-2] * _UPPER), 1), :]
    # Averaged before deviations are taken, so that streaks of rain do not make a sky uneven.
    upper = F.avg_pool2d(upper, _step(upper, 8 * _BLOCK_COLUMNS), ceil_mode=True)
    block = _step(upper, _BLOCK_COLUMNS)
    mean, power = (F.avg_pool2d(part, block, ceil_mode=True) for part in (upper, upper * upper))
    deviation = (power - mean * mean).clamp_min(0.0).sqrt()
    score = (mean - deviation).mean(1).flatten(1)
    best = score.topk(min(_BRIGHTEST_BLOCKS, int(score.shape[1])), 1).indices
    return mean.flatten(2).gather(2, best[:, None].expand(-1, 3, -1)).mean(2)[..., None, None]


def transmission(frames: Tensor, light: Tensor) -> Tensor:
    """Share of a place's own light that reaches the camera, on a coarse grid.

    Args:
        frames: ``(B, 3, H, W)`` float32 RGB in [0, 1].
        light: `airlight` of them.

    Returns:
        ``(B, 1, h, w)`` float32 in [0.15, 1], about 64 columns.
    """
    step = _step(frames, _COLUMNS)
    dark = -F.max_pool2d(-(frames / light.clamp_min(_LEAST_LIGHT)).amin(1, keepdim=True), step, ceil_mode=True)
    dark = -F.max_pool2d(-dark, _PATCH, 1, _PATCH // 2)
    guide = F.avg_pool2d(frames.mean(1, keepdim=True), step, ceil_mode=True)
    return _guided(guide, 1.0 - _KEPT * dark).clamp(_LEAST_TRANSMISSION, 1.0)


def transmission_by_height(frames: Tensor) -> Tensor:
    """Mean `transmission` of ``frames`` (B, 3, H, W) at `ROWS` heights, ``(B, 1, ROWS, 1)``."""
    rows = transmission(frames, airlight(frames)).mean(3, keepdim=True)
    return F.interpolate(rows, (ROWS, 1), mode="bilinear", align_corners=False)


def mean_transmission(frames: Iterable[Tensor]) -> Tensor:
    """Mean over frames, each ``(1, 3, H, W)``, of `transmission_by_height`: ``(1, 1, ROWS, 1)``."""
    return torch.cat([transmission_by_height(frame) for frame in frames]).mean(0, keepdim=True)


def cleared(frames: Tensor, normal: Tensor, share: float) -> Tensor:
    """Takes ``share`` of the haze beyond the normal out of frames.

    Args:
        frames: ``(B, 3, H, W)`` float32 RGB in [0, 1].
        normal: Transmission of clear images by height, ``(1, 1, ROWS, 1)``.
        share: In [0, 1]; 0 leaves frames as they are.

    Returns:
        ``(B, 3, H, W)`` float32 in [0, 1].
    """
    light = airlight(frames)
    through = transmission(frames, light)
    rows = F.interpolate(normal, (int(through.shape[-2]), 1), mode="bilinear", align_corners=False)
    ratio = (through / rows).clamp(_LEAST_RATIO, 1.0)
    size = (int(frames.shape[-2]), int(frames.shape[-1]))
    ratio = F.interpolate(ratio, size, mode="bilinear", align_corners=False)
    return ((frames - light) / (1.0 - share + share * ratio) + light).clamp(0.0, 1.0)


def _step(frames: Tensor, columns: int) -> int:
    return max(int(frames.shape[-1]) // columns, 1)


def _guided(guide: Tensor, signal: Tensor) -> Tensor:
    """Guided filter: locally a linear function of the guide."""
    guide_mean, mean = _box(guide), _box(signal)
    slope = (_box(guide * signal) - guide_mean * mean) / (_box(guide * guide) - guide_mean * guide_mean + _EDGE)
    level = mean - slope * guide_mean
    return _box(slope) * guide + _box(level)


def _box(values: Tensor) -> Tensor:
    return F.avg_pool2d(values, _WINDOW, 1, _WINDOW // 2, count_include_pad=False)
