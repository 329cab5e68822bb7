"""Which source image comes next: rare classes first for a part of the draws, any image for the rest."""

from __future__ import annotations

import numpy as np

from online_uda.adaptation.replay.buffer import ReplayBuffer
from online_uda.adaptation.replay.rare_class import class_shares, eligible_images, rare_class_probabilities
from streams.frame import LabelledImage


class SourceDraw:
    """Draws images of a source arena by rare-class sampling (specs/hamlet.md 2.9) or uniformly.

    Args:
        arena: Source images in memory.
        rare_share: Part of the draws that ask for a rare class; the rest is uniform over images.
        temperature: Of the class draw, smaller prefers rare classes more strongly.
        min_pixel_share: Share of an image that a class must exceed for the image to serve that class.
    """

    def __init__(
        self, arena: ReplayBuffer, rare_share: float = 0.5, temperature: float = 0.01, min_pixel_share: float = 5e-4
    ) -> None:
        self._arena = arena
        areas = np.full(len(arena), arena.size[0] * arena.size[1], dtype=np.int64)
        eligible = eligible_images(arena.counts, areas, min_pixel_share)
        self._slots_of = [np.flatnonzero(column) for column in eligible.T]
        self.probabilities = rare_class_probabilities(class_shares(arena.counts), temperature, eligible.sum(axis=0) > 0)
        self._rare_share = rare_share if eligible.any() else 0.0

    def __call__(self, rng: np.random.Generator) -> tuple[LabelledImage, int | None]:
        """An image, and the class it was drawn for (None for a uniform draw)."""
        wanted: int | None = None
        if rng.random() < self._rare_share:
            wanted = int(rng.choice(len(self.probabilities), p=self.probabilities))
            slots = self._slots_of[wanted]
            slot = int(slots[rng.integers(slots.size)])
        else:
            slot = int(rng.integers(len(self._arena)))
        return LabelledImage(self._arena.images[slot], self._arena.labels[slot]), wanted
