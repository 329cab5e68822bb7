"""What every trigger answers: may this frame be learned from, how hard, and has the domain changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from online_uda.networks.segmenter import Segmentation


@dataclass(frozen=True, slots=True)
class Decision:
    """A trigger's word on one frame.

    Attributes:
        learn: Whether to take a learning step on this frame.
        learning_rate: Rate of the step; None leaves the optimiser's own.
        mix_ratio: ClassMix ratio; None leaves the near value of the mixing slot.
        relax: Whether the method should go back towards the source network while it rests.
        signal: Domain-distance signal of the frame; None without one.
        detected: Whether a domain change was found at this frame, for people to be told.
        confirmed: Whether it is sure enough to act on; it may follow some frames after `detected`, or never.
        nearer: Whether the confirmed change leads back towards the source.
        distance: How far the stream is from the source, 1 being the limit of its domain; None if nothing tells.
        far: Whether something measures it and finds the stream far.
        haze: How far it is along the way that haze takes the source, in the same unit; None if nothing tells.
        signature: ``(K,)`` where the stream is, seen from the source at the origin, in the same unit; None likewise.
    """

    learn: bool
    learning_rate: float | None = None
    mix_ratio: float | None = None
    relax: bool = False
    signal: float | None = None
    detected: bool = False
    confirmed: bool = False
    nearer: bool = False
    distance: float | None = None
    far: bool = False
    haze: float | None = None
    signature: Tensor | None = field(default=None, compare=False)


FAR_STARTS_AT, FAR_FULL_AT = 0.4, 0.8
"""Distances from which on and at which in full a method treats frames as far from the source."""


def share_of_far(distance: float | None) -> float:
    """How far to go, in [0, 1], at a `Decision.distance`: 0 near the source, 1 far from it or if nothing tells."""
    if distance is None:
        return 1.0
    return min(max((distance - FAR_STARTS_AT) / (FAR_FULL_AT - FAR_STARTS_AT), 0.0), 1.0)


class TriggerPolicy(Protocol):
    """Decides frame by frame; sees the frame and its prediction, never a label or a boundary."""

    def decide(self, frames: Tensor, prediction: Segmentation) -> Decision:
        """Called once a frame, after its prediction, before any learning from it."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything `decide` depends on."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        ...


class EveryFrames:
    """Learns on every ``every``-th frame; ``every`` 0 never learns."""

    def __init__(self, every: int) -> None:
        self.every = every
        self._frames = 0

    def decide(self, frames: Tensor, prediction: Segmentation) -> Decision:
        """See `TriggerPolicy.decide`."""
        self._frames += 1
        return Decision(learn=self.every > 0 and (self._frames - 1) % self.every == 0)

    def state_dict(self) -> dict[str, Any]:
        """See `TriggerPolicy.state_dict`."""
        return {"frames": self._frames}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `TriggerPolicy.load_state_dict`."""
        self._frames = int(state["frames"])
