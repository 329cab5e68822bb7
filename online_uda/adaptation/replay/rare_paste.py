"""Patches of rare classes from source images of their own, to be pasted over replayed images and mixtures (DSP)."""

from __future__ import annotations

import numpy as np
import torch

from online_uda.adaptation.replay.buffer import ReplayBuffer
from online_uda.adaptation.replay.rare_class import draw_below
from online_uda.adaptation.soft_paste import Patch

TRIES = 10


class RarePatches:
    """Draws patches of the rarest classes of a buffer.

    Args:
        buffer: Labelled source images.
        pool: How many classes count as rare: those of the fewest pixels that there are any of.
        size: (h, w) of the images that are pasted over.
    """

    def __init__(self, buffer: ReplayBuffer, pool: int, size: tuple[int, int]) -> None:
        self._buffer, self._size = buffer, size
        totals = buffer.counts.sum(0)
        present = np.flatnonzero(totals)
        self.classes = [int(c) for c in present[np.argsort(totals[present], kind="stable")][:pool]]

    def draw(self, count: int, generator: torch.Generator, device: torch.device) -> list[Patch]:
        """One patch of each of ``count`` different rare classes; every patch shows at least a pixel of its class."""
        order = torch.randperm(len(self.classes), generator=generator)[:count]
        return [self._patch(self.classes[int(row)], generator, device) for row in order]

    def _patch(self, class_id: int, generator: torch.Generator, device: torch.device) -> Patch:
        """The fullest of some random windows; as a last resort one around a pixel of the class."""
        slots = np.flatnonzero(self._buffer.counts[:, class_id])
        slot = int(slots[draw_below(len(slots), generator)])
        label = self._buffer.labels[slot]
        height, width = self._size
        rows, columns = (int(side) - size + 1 for side, size in zip(label.shape, self._size, strict=True))
        best, most = (0, 0), 0
        for _ in range(TRIES):
            top, left = draw_below(rows, generator), draw_below(columns, generator)
            found = int((label[top : top + height, left : left + width] == class_id).sum())
            if found > most:
                best, most = (top, left), found
        if most == 0:
            y, x = np.argwhere(label == class_id)[0]
            best = min(int(y), rows - 1), min(int(x), columns - 1)
        window = (slice(best[0], best[0] + height), slice(best[1], best[1] + width))
        image = torch.tensor(self._buffer.images[slot][window], device=device).permute(2, 0, 1)[None].float() / 255.0
        labels = torch.tensor(label[window], device=device)[None].long()
        return Patch(image, labels, labels == class_id)
