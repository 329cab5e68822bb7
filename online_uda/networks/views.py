"""Answers put together from several views of a frame: tiles, scales and mirror images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from online_uda.networks.heads import upsample
from online_uda.networks.inference import WHOLE, Box, InferenceSettings, box_size, scaled_size
from online_uda.networks.moments import ChannelMoments
from online_uda.networks.segmenter import Segmentation

Moments = Sequence[tuple[Tensor, Tensor]]
"""Channel means and biased variances ``(C,)`` float32 of the inputs of the watched BatchNorm layers, in their order."""
OnePass = Callable[[Tensor], tuple[Segmentation, Moments]]
"""One forward pass over ``(1, 3, H, W)`` float32 RGB in [0, 1]."""


class Views:
    """Shows a network the views of a frame one by one and averages what it says.

    One pass at a time keeps memory at that of the largest view, and needs nothing of a backend but single passes.

    Args:
        settings: Which views.
    """

    def __init__(self, settings: InferenceSettings = WHOLE) -> None:
        self.settings = settings

    def __call__(self, network: Callable[[Tensor], Segmentation], frames: Tensor) -> Segmentation:
        """`answer` of a network that gives no moments."""
        return self.answer(lambda view: (network(view), ()), frames)[0]

    def answer(self, one_pass: OnePass, frames: Tensor) -> tuple[Segmentation, Moments]:
        """Segments ``frames`` (B, 3, H, W) float32 RGB in [0, 1].

        Returns:
            In one plain pass, what that says. Else logits ``(B, C, H, W)`` float32 at the size of the frames, the mean
            of those of all views, without features; and moments over all passes.
        """
        if self.settings.is_plain:
            return one_pass(frames)
        size = (int(frames.shape[-2]), int(frames.shape[-1]))
        passes = _Passes(one_pass)
        total: Tensor | None = None
        for scale in self.settings.scales:
            scaled = scaled_size(size, scale)
            boxes = self.settings.boxes(scaled, scale, size)
            # Unsmoothed, a frame made smaller shows the network patterns that are not in the scene.
            shown = frames if scaled == size else F.interpolate(frames, scaled, mode="bilinear", antialias=scale < 1.0)
            for flipped in (False, True)[: 1 + self.settings.flip]:
                logits = _stitched(passes, shown.flip(-1) if flipped else shown, boxes)
                logits = upsample(logits, size)
                logits = logits.flip(-1) if flipped else logits
                total = logits if total is None else total + logits  # it may be the frame itself
        assert total is not None
        views = len(self.settings.scales) * (1 + self.settings.flip)
        return Segmentation(total / views, (), size, size, forwards=passes.count), [
            (part.mean, part.variance) for part in passes.moments
        ]


class _Passes:
    """Makes forward passes, counts them and pools their moments."""

    def __init__(self, one_pass: OnePass) -> None:
        self._one_pass = one_pass
        self.count = 0
        self.moments: list[ChannelMoments] = []

    def __call__(self, view: Tensor) -> Tensor:
        """Logits at the size of the view."""
        answer, moments = self._one_pass(view)
        pixels = answer.padded[0] * answer.padded[1]
        found = [ChannelMoments(mean, variance, pixels) for mean, variance in moments]
        self.moments = [a.joined(b) for a, b in zip(self.moments, found, strict=True)] if self.count else found
        self.count += 1
        return answer.full()


def _stitched(passes: _Passes, frames: Tensor, boxes: list[Box]) -> Tensor:
    """Logits of tiles at the size of ``frames``, averaged wherever tiles overlap; exact for any overlap."""
    height, width = frames.shape[-2:]
    if box_size(boxes[0]) == (height, width):
        return passes(frames)
    mean: Tensor | None = None
    seen = torch.zeros(height, width, device=frames.device)
    for top, left, bottom, right in boxes:
        logits = passes(frames[..., top:bottom, left:right])
        if mean is None:
            mean = logits.new_zeros(*logits.shape[:2], height, width)
        here, times = mean[..., top:bottom, left:right], seen[top:bottom, left:right]
        times += 1.0
        here += (logits - here) / times  # a sum of many tiles would lose digits; a running mean of equals does not
    assert mean is not None
    return mean
