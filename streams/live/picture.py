"""What a feed hands out: a picture with its time, or a reason why there is none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture.

    Attributes:
        image: ``(H, W, 3)`` uint8 RGB, upright.
        at_s: Seconds since the first picture of this source, by the source's own timestamps.
    """

    image: NDArray[np.uint8]
    at_s: float


@dataclass(frozen=True, slots=True)
class Broken:
    """A picture that cannot be used, or a loss of the stream, and why; never to be learned from."""

    reason: str


class FeedLost(Exception):
    """A live source gave no more pictures: it ended, broke off, or fell silent."""


class Source(Protocol):
    """An opened feed."""

    def entries(self) -> Iterator[Picture | Broken]:
        """Pictures in their order; a live source that ends raises `FeedLost`."""
        ...

    def close(self) -> None:
        """Lets go of file, address or device; `entries` ends or raises soon after."""
        ...


def upright(image: NDArray[np.uint8], counterclockwise_deg: int) -> NDArray[np.uint8]:
    """Turns an image by a multiple of 90 degrees; other angles leave it as it is."""
    turns, rest = divmod(counterclockwise_deg, 90)
    if rest or turns % 4 == 0:
        return image
    return np.ascontiguousarray(np.rot90(image, turns % 4))
