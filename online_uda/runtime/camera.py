"""A camera that does not wait: when frames arrive, until when their masks count, and which mask is at hand by then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

MaskT = TypeVar("MaskT")


@dataclass(frozen=True, slots=True)
class Camera:
    """Frame i arrives at ``i / fps`` and its mask is due ``budget_s`` later (specs/protocols.md section 2.2).

    Attributes:
        fps: Frames a second.
        budget_s: Seconds from the arrival of a frame to the moment its mask must be out.
        origin_s: Arrival of frame 0, in the clock's seconds.
    """

    fps: float
    budget_s: float
    origin_s: float = 0.0

    def arrival_s(self, index: int) -> float:
        """When frame ``index`` is there."""
        return self.origin_s + index / self.fps

    def deadline_s(self, index: int) -> float:
        """When the mask of frame ``index`` is due."""
        return self.arrival_s(index) + self.budget_s


@dataclass(frozen=True, slots=True)
class Held(Generic[MaskT]):
    """A finished mask: of which frame, and since when it has been at hand."""

    frame: int
    mask: MaskT
    finished_s: float


class MaskShelf(Generic[MaskT]):
    """The masks that a user holds: at any moment the one that was finished last."""

    def __init__(self) -> None:
        self._held: list[Held[MaskT]] = []

    def put(self, frame: int, mask: MaskT, finished_s: float) -> None:
        """A mask is finished; they come in order of their moments."""
        self._held.append(Held(frame, mask, finished_s))

    def at(self, moment_s: float) -> Held[MaskT] | None:
        """The newest mask that was finished by ``moment_s``; None before the first. Moments come in order."""
        while len(self._held) > 1 and self._held[1].finished_s <= moment_s:
            self._held.pop(0)
        return self._held[0] if self._held and self._held[0].finished_s <= moment_s else None

    def state(self) -> list[Held[MaskT]]:
        """What is held, oldest first."""
        return list(self._held)

    def restore(self, held: list[Held[MaskT]]) -> None:
        """Puts back what `state` gave."""
        self._held = list(held)


class BareTimeline:
    """When the frozen network would have answered: the same camera, its predictions alone, nothing to learn.

    It is the bar of a run with deadlines. Where the camera outruns even this, frozen masks go stale as well.

    Args:
        busy_until_s: When the frame before the first is answered.
    """

    def __init__(self, busy_until_s: float = float("-inf")) -> None:
        self._busy_until_s = busy_until_s

    def take(self, camera: Camera, index: int, predict_ms: float, *, last: bool) -> float | None:
        """When frame ``index`` is answered; None where it is dropped because a newer one has arrived."""
        arrival = camera.arrival_s(index)
        if not last and self._busy_until_s >= camera.arrival_s(index + 1):
            return None
        self._busy_until_s = max(arrival, self._busy_until_s) + predict_ms / 1000.0
        return self._busy_until_s

    def shift(self, seconds: float) -> None:
        """Moves along with a camera whose origin has moved."""
        self._busy_until_s += seconds

    @property
    def busy_until_s(self) -> float:
        """When the last frame taken is answered."""
        return self._busy_until_s
