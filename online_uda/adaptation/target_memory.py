"""A bounded memory of the stream's frames, balanced over categories, that drops what is old or unsure (CSTU).

Yuan et al. 2023; specs/methods.md 3. Each category has room for its share of the memory. What leaves is the frame of
the largest score ``1 / (1 + exp(-age / N)) + H / ln C``: of the newcomer's category where that is full, else of the
fullest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(slots=True)
class Remembered:
    """A frame: ``(3, H, W)`` uint8, its category, its mean entropy in shares of ln C, and how many came after it."""

    image: Tensor
    category: int
    uncertainty: float
    age: int = 0


class TargetMemory:
    """Keeps up to ``size`` frames of ``categories`` categories."""

    def __init__(self, size: int, categories: int) -> None:
        self._size, self._room = size, size / categories
        self.items: list[Remembered] = []

    def score(self, item: Remembered) -> float:
        """How much there is to say for dropping it."""
        return 1.0 / (1.0 + math.exp(-item.age / self._size)) + item.uncertainty

    def offer(self, item: Remembered) -> bool:
        """Shows a new frame; tells whether it was kept. Every frame that is held ages by one."""
        kept = self._make_room(item)
        if kept:
            self.items.append(item)
        for held in self.items:
            held.age += 1
        return kept

    def _make_room(self, item: Remembered) -> bool:
        counts: dict[int, int] = {}
        for held in self.items:
            counts[held.category] = counts.get(held.category, 0) + 1
        own = counts.get(item.category, 0)
        if own < self._room and len(self.items) < self._size:
            return True
        if own >= self._room and own > 0:
            among = {item.category}
        else:
            fullest = max(counts.values())
            among = {category for category, count in counts.items() if count == fullest}
        worst = max((held for held in self.items if held.category in among), key=self.score)
        if self.score(worst) <= self.score(item):
            return False
        self.items = [held for held in self.items if held is not worst]
        return True

    def clear(self) -> None:
        """Nothing is remembered."""
        self.items = []

    def state_dict(self) -> dict[str, Any]:
        """All that is held, in order."""
        return {"items": [(item.image, item.category, item.uncertainty, item.age) for item in self.items]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self.items = [Remembered(image, int(c), float(u), int(a)) for image, c, u, a in state["items"]]
