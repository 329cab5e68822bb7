"""A stream of random frames from memory, some of which are missing or black."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np

from benchmarks.tiny_run import SIZE
from streams.classes import CAMVID_11
from streams.frame import Frame, StreamItem, Truth
from streams.stream import VisitPlan


class RandomStream:
    """Frames from memory, a new domain name every ``visit`` frames; some ticks are bad, some images black."""

    classes = CAMVID_11

    def __init__(self, frames: int, visit: int, faults: Mapping[int, str]) -> None:
        self._frames, self._faults = frames, faults
        self.visits = tuple(
            VisitPlan(("day", "dusk")[number % 2], number, first, min(visit, frames - first))
            for number, first in enumerate(range(0, frames, visit))
        )
        self._visit = visit
        generator = np.random.default_rng(0)
        self._images = generator.integers(0, 256, (16, *SIZE, 3), np.uint8)
        self._labels = generator.integers(0, len(CAMVID_11), (16, *SIZE), np.uint8)

    def __len__(self) -> int:
        return self._frames

    @property
    def length(self) -> int:
        """Frames."""
        return self._frames

    def stop(self) -> None:
        """It never waits."""

    def figures(self) -> None:
        """The summary has nothing to say of it."""

    def sources(self) -> list[Any]:
        """Of no data."""
        return []

    def __enter__(self) -> RandomStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing runs beside it."""

    def iterate(self, first: int = 0) -> Iterator[StreamItem]:
        """Items from ``first`` on."""
        for index in range(first, self._frames):
            plan, fault = self.visits[index // self._visit], self._faults.get(index)
            truth = Truth(plan.domain, plan.visit, self._labels[index % 16])
            if fault == "bad_frame":
                yield StreamItem(index, None, replace(truth, label=None), "soak")
                continue
            image = self._images[index % 16] // (1 + plan.visit % 2)
            if fault == "black":
                image = np.zeros_like(image)
            yield StreamItem(index, Frame(index, image, index / 10), truth)
