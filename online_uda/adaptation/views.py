"""A network's answer averaged over scaled and mirrored views of a frame, on the grid of its native answer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from online_uda.adaptation.objectives.soft import exact
from online_uda.adaptation.pieces import Pieces
from online_uda.adaptation.settings.objectives import ViewSettings
from online_uda.networks.segmenter import Segmentation, Segmenter

Answer = Callable[[Tensor], Segmentation]


def quiet(network: Segmenter, within: Callable[[], AbstractContextManager[Any]]) -> Answer:
    """The network's answer without a graph, within a mode of its norms and autocast."""

    def answer(frames: Tensor) -> Segmentation:
        with torch.no_grad(), within():
            return network(frames)

    return answer


def view_size(size: tuple[int, int], scale: float, divisor: int) -> tuple[int, int]:
    """Height and width of a view, in whole steps of ``divisor``, so that nothing is padded."""
    height, width = (max(divisor, round(side * scale / divisor) * divisor) for side in size)
    return height, width


def fused_probabilities(
    answer: Answer, frames: Tensor, settings: ViewSettings, divisor: int, name: str
) -> Pieces[tuple[Tensor, Tensor]]:
    """Class probabilities of the frame as it is, and their mean over all views (test-time augmentation of CoTTA).

    Args:
        answer: The network.
        frames: ``(1, 3, H, W)`` float32 RGB in [0, 1].
        settings: Scales and mirroring; native scale, not mirrored, is always a view.
        divisor: Sides of scaled views are multiples of it; at least 64 keeps every network from padding.
        name: What the pieces are called after.

    Returns:
        Two tensors ``(1, C, h, w)`` on the grid of the native logits.
    """
    size = (int(frames.shape[-2]), int(frames.shape[-1]))
    yield f"{name}.native"
    own = answer(frames)
    native = exact(own.logits).softmax(1)
    grid = (int(native.shape[-2]), int(native.shape[-1]))
    total, count = native.clone(), 1
    for scale in settings.scales:
        for mirrored in (False, True) if settings.flip else (False,):
            if scale == 1.0 and not mirrored:
                continue
            yield f"{name}.view.{count}"
            view = frames if scale == 1.0 else F.interpolate(
                frames, view_size(size, scale, divisor), mode="bilinear", align_corners=False
            )  # fmt: skip
            other = answer(view.flip(-1) if mirrored else view)
            total += _back(other, mirrored, own, grid)
            count += 1
    return native, total / count


def _back(other: Segmentation, mirrored: bool, own: Segmentation, grid: tuple[int, int]) -> Tensor:
    """A view's probabilities on the grid of the native logits."""
    logits = exact(other.logits)
    if mirrored:
        # Padding lies at the right of the view: what is mirrored is the frame, not the padded frame.
        columns = logits.shape[-1] * other.size[1] / other.padded[1]
        if columns == int(columns):
            inside = logits[..., : int(columns)].flip(-1)
            logits = torch.cat([inside, logits[..., int(columns) :]], dim=-1)
        else:
            logits = other.full().flip(-1)
            logits = F.interpolate(logits, other.logits.shape[-2:], mode="bilinear", align_corners=False)
    if logits.shape[-2:] != grid:
        scale = (own.size[0] / own.padded[0], own.size[1] / own.padded[1])
        height, width = round(grid[0] * scale[0]), round(grid[1] * scale[1])
        logits = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
        rest = (0, grid[1] - width, 0, grid[0] - height)
        logits = F.pad(logits, rest, mode="replicate")
    return logits.softmax(1)
