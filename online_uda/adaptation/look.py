"""What the method makes of a frame before the network sees it: moved towards the look of the source, as far as needed.

How a frame is moved: `online_uda.networks.alignment`. Where to is half the look of the source images and half the look
that this very stream had while it was near the source, since another street is no weather. How far depends on how far
the detector finds the stream from the source: not at all while it is near, so that clear weather costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from online_uda.adaptation.settings import AlignmentSettings
from online_uda.adaptation.trigger.base import Decision
from online_uda.networks.alignment import InputAlignment, Look, moments, moved, to_opponent

STARTS_AT, FULL_AT = 0.5, 1.0
"""Distances of the detector, 1 being the limit of the source domain, from which on and at which in full frames move."""
NEAR_BELOW = 0.75
"""Distance below which a frame counts as the stream's own look near the source."""
_NEAR_PRIOR, _NEAR_RATE = 3, 0.03


class StreamLook:
    """Follows the look of the stream and moves frames towards the source's.

    Args:
        source: Mean look of source images.
        settings: The slot.
    """

    def __init__(self, source: Look, settings: AlignmentSettings) -> None:
        self._source, self._settings = source, settings
        self._grid = (settings.rows, settings.columns)
        self._rate = 1.0 - 0.5 ** (1.0 / settings.half_life_frames)
        self._now: Look | None = None
        self._frames = 0
        self._near: Look = source
        self._near_frames = 0
        self._strength = 0.0

    @property
    def strength(self) -> float:
        """Share of the way that frames are moved at present."""
        return self._strength

    @property
    def wanted(self) -> Look:
        """Where to."""
        return _between(self._source, self._near, self._settings.own)

    def __call__(self, frames: Tensor) -> Tensor:
        """Moves ``frames`` (B, 3, H, W) float32 RGB in [0, 1] by the look of the stream up to now; the same shape."""
        if self._now is None or self._strength == 0.0:
            return frames
        with torch.no_grad():
            return moved(to_opponent(frames), self._now, self.wanted, self._strength)

    @torch.no_grad()
    def watch(self, frames: Tensor, decision: Decision) -> None:
        """Takes a frame of the stream, and what the trigger said to it."""
        seen = moments(to_opponent(frames), self._grid)
        if decision.detected:
            self._frames = 0
        self._frames += 1
        self._now = seen if self._now is None else _between(self._now, seen, max(self._rate, 1.0 / self._frames))
        distance = decision.distance
        if distance is None:
            self._strength = self._settings.strength
            return
        if distance < NEAR_BELOW:
            self._near_frames += 1
            self._near = _between(self._near, seen, max(_NEAR_RATE, 1.0 / (self._near_frames + _NEAR_PRIOR)))
        share = (distance - STARTS_AT) / (FULL_AT - STARTS_AT)
        self._strength = self._settings.strength * min(max(share, 0.0), 1.0)

    def for_a_file(self) -> dict[str, Any] | None:
        """The step as it stands, for a network that leaves the run; None where frames are not moved."""
        return None if self._strength == 0.0 else InputAlignment(*self.wanted, self._strength).as_dict()

    def state_dict(self) -> dict[str, Any]:
        """The stream's looks; the source's follows from the source images."""
        return {
            "now": None if self._now is None else list(self._now), "frames": self._frames, "near": list(self._near),
            "near_frames": self._near_frames, "strength": self._strength, "file": self.for_a_file(),
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        device = self._source[0].device
        now = state["now"]
        self._now = None if now is None else (now[0].to(device), now[1].to(device))
        self._near = (state["near"][0].to(device), state["near"][1].to(device))
        self._frames, self._near_frames = int(state["frames"]), int(state["near_frames"])
        self._strength = float(state["strength"])


def _between(one: Look, other: Look, share: float) -> Look:
    return torch.lerp(one[0], other[0], share), torch.lerp(one[1], other[1], share)
