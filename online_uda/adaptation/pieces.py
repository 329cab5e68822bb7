"""Learning in pieces: a step as a generator that names each piece of work before it is done.

Whoever drives it may stop between any two pieces and predict frames meanwhile. ``next`` runs the piece that was named
last and answers with the name of the one after it; nothing runs before the first ``next``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import torch

from online_uda.adaptation.replay.rare_class import draw_below

T = TypeVar("T")
Pieces: TypeAlias = Generator[str, None, T]
"""Names of pieces such as ``replay.backward.3``; returns the result of the work."""

CROP_GRID = 32


@dataclass(frozen=True, slots=True)
class Effort:
    """How much of a step is taken; the default is all of it.

    Attributes:
        crop: Share of the width of the images that a step learns from, in (0, 1].
        first_stage: Stages before this one (counted from 1) keep their weights, so that nothing is propagated to them.
    """

    crop: float = 1.0
    first_stage: int = 1


FULL = Effort()


def finish(pieces: Pieces[T]) -> T:
    """Runs all that is left of `pieces` and returns their result."""
    while True:
        try:
            next(pieces)
        except StopIteration as done:
            result: T = done.value
            return result


def around(pieces: Pieces[T], within: Callable[[], AbstractContextManager[Any]]) -> Pieces[T]:
    """The same pieces, each of them run inside a context that is entered anew, and left before the next is named."""
    while True:
        with within():
            try:
                name = next(pieces)
            except StopIteration as done:
                result: T = done.value
                return result
        yield name


def window(width: int, share: float, generator: torch.Generator) -> slice:
    """A random window of ``share`` of ``width`` columns, in steps of `CROP_GRID`; all of them, undrawn, for share 1.

    Full height is kept: what stands where in a street scene depends on the row.
    """
    columns = min(width, max(CROP_GRID, round(width * share / CROP_GRID) * CROP_GRID))
    if share >= 1.0 or columns == width:
        return slice(None)
    left = draw_below(width - columns + 1, generator)
    return slice(left, left + columns)
