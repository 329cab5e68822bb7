"""What the method makes of a frame before the network sees it: moved towards the look of the source, as far as needed.

How a frame is moved: `online_uda.networks.alignment`, and `online_uda.networks.haze` after it. Where to is half the
look of the source images and half the look that this very stream had while it was near the source, since another
street is no weather. How far depends on how far the detector finds the stream from the source: not at all while it is
near, so that clear weather costs nothing. Haze is taken out, and rows are moved each by its own moments, as far as the
stream has gone the way of haze. At dusk and by night there is none: what would be taken for it is contrast of the sky,
and what rows differ in is the street.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from online_uda.adaptation.settings import AlignmentSettings
from online_uda.adaptation.trigger.base import Decision, share_of_far
from online_uda.networks.alignment import InputAlignment, Look, between, moments, moved, to_opponent
from online_uda.networks.haze import cleared, transmission_by_height

NEAR_BELOW = 0.75
"""Distance below which a frame counts as the stream's own look near the source."""
JUMP = 0.2
"""Change of a cell's mean luma, in [0, 1], that is no drift: the frames before say nothing of the look then."""
_NEAR_PRIOR, _NEAR_RATE = 3, 0.03


class StreamLook:
    """Follows the look of the stream and moves frames towards the source's.

    Args:
        source: Mean look of source images.
        settings: The slot.
        transmission: Mean of source images by height, ``(1, 1, ROWS, 1)``; needed where the slot takes haze away.
    """

    def __init__(self, source: Look, settings: AlignmentSettings, transmission: Tensor | None = None) -> None:
        self._source, self._settings, self._clear = source, settings, transmission
        self._grid = (settings.rows, settings.columns)
        self._rate = 1.0 - 0.5 ** (1.0 / settings.half_life_frames)
        self._now: Look | None = None
        self._frames = 0
        self._near: Look = source
        self._near_clear = transmission
        self._near_frames = 0
        self._share = 0.0
        self._hazy: float | None = None
        self._looked_at: tuple[Tensor, Look] | None = None

    @property
    def strength(self) -> float:
        """Share of the way that frames are moved at present."""
        return self._settings.strength * self._share

    @property
    def haze(self) -> float:
        """Share of the haze beyond the normal that is taken away at present."""
        return self._settings.haze * self.veil

    @property
    def veil(self) -> float:
        """How far the stream has gone the way of haze, in [0, 1], and with it how much place says of the light."""
        return min(self._share, share_of_far(self._hazy))

    @property
    def wanted(self) -> Look:
        """Where to."""
        return between(self._source, self._near, self._settings.own)

    @property
    def _normal(self) -> Tensor | None:
        """Transmission by height beyond which nothing counts as haze; None where none is taken away."""
        if self._clear is None or self._near_clear is None or self._settings.haze == 0.0:
            return None
        return torch.lerp(self._clear, self._near_clear, self._settings.own)

    def __call__(self, frames: Tensor) -> Tensor:
        """Moves ``frames`` (B, 3, H, W) float32 RGB in [0, 1] by the look of the stream up to now; the same shape."""
        now = self._now
        if now is None or self._share == 0.0:
            return frames
        with torch.no_grad():
            seen = self._look_at(frames)
            look = seen if _jumped(seen, now) else now
            out = moved(to_opponent(frames), look, self.wanted, self.strength, self.veil)
            normal, haze = self._normal, self.haze
            return out if normal is None or haze == 0.0 else cleared(out, normal, haze)

    @torch.no_grad()
    def watch(self, frames: Tensor, decision: Decision) -> None:
        """Takes a frame of the stream, and what the trigger said to it."""
        seen = self._look_at(frames)
        if decision.confirmed or (self._now is not None and _jumped(seen, self._now)):
            self._frames = 0
        self._frames += 1
        rate = max(self._rate, 1.0 / self._frames)
        self._now = seen if self._now is None else between(self._now, seen, rate)
        distance = decision.distance
        self._share = share_of_far(distance)
        if decision.haze is None:
            self._hazy = None
        else:
            self._hazy = decision.haze if self._hazy is None else self._hazy + rate * (decision.haze - self._hazy)
        if distance is not None and distance < NEAR_BELOW:
            self._near_frames += 1
            rate = max(_NEAR_RATE, 1.0 / (self._near_frames + _NEAR_PRIOR))
            self._near = between(self._near, seen, rate)
            if self._near_clear is not None:
                self._near_clear = torch.lerp(self._near_clear, transmission_by_height(frames), rate)

    def _look_at(self, frames: Tensor) -> Look:
        """Moments of a frame, which is predicted, watched and learned from, once."""
        known = self._looked_at  # read once: a worker learns from a frame while the next is predicted
        if known is None or known[0] is not frames:
            self._looked_at = known = (frames, moments(to_opponent(frames), self._grid))
        return known[1]

    def for_a_file(self) -> dict[str, Any] | None:
        """The step as it stands, for a network that leaves the run; None where frames are not moved."""
        if self._share == 0.0:
            return None
        return InputAlignment(*self.wanted, self.strength, self.haze, self._normal, self.veil).as_dict()

    def state_dict(self) -> dict[str, Any]:
        """The stream's looks; the source's follows from the source images."""
        return {
            "now": None if self._now is None else list(self._now), "frames": self._frames, "near": list(self._near),
            "near_frames": self._near_frames, "near_clear": self._near_clear, "share": self._share, "hazy": self._hazy,
            "file": self.for_a_file(),
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        device = self._source[0].device
        now = state["now"]
        self._now = None if now is None else (now[0].to(device), now[1].to(device))
        self._near = (state["near"][0].to(device), state["near"][1].to(device))
        self._frames, self._near_frames = int(state["frames"]), int(state["near_frames"])
        clear = state["near_clear"]
        self._near_clear = None if clear is None else clear.to(device)
        self._share = float(state["share"])
        self._hazy = None if state["hazy"] is None else float(state["hazy"])


def _jumped(one: Look, other: Look) -> bool:
    return bool((one[0][:, 0] - other[0][:, 0]).abs().max() > JUMP)
