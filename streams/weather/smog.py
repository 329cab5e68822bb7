"""Smog: yellow haze by relative distance, after the description in specs/weather.md, section 7."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streams.weather.colour import decode, encode
from streams.weather.effect import Metadata, check_choice, check_number
from streams.weather.view import View

BETA = 2.0
AIRLIGHT = 0.76
YELLOW = (224.0, 192.0, 29.0)
YELLOW_SHARE = 20 / 255
MODES = ("video", "climategan")
_NEAREST = 0.1


@dataclass(frozen=True, slots=True)
class Smog:
    """Smog of a given strength.

    Attributes:
        strength: 1 is the published look, beta = 2 over the range; scales beta and the yellow. 0 leaves the frame
            untouched.
        range_m: Distance from which on smog is at its fullest.
        mode: ``video`` measures distance in metres, so that consecutive frames agree; ``climategan`` stretches the
            inverse depth of every frame to its own range, as the publication does.
    """

    strength: float = 1.0
    range_m: float = 150.0
    mode: str = "video"

    def __post_init__(self) -> None:
        check_number("smog", "strength", self.strength, 0, 3, "")
        check_number("smog", "range", self.range_m, 1, 255, "m")
        check_choice("smog", "mode", self.mode, MODES)

    def distance(self, depth_m: NDArray[np.float32]) -> NDArray[np.float32]:
        """``(H, W)`` float32 relative distance in [0.1, 1]."""
        if self.mode == "climategan":
            inverse = 1 / depth_m.astype(np.float64)
            squeezed = _stretched(inverse, 0.3)
            return _stretched(1 / squeezed, _NEAREST).astype(np.float32)
        return _NEAREST + np.float32((1 - _NEAREST) / self.range_m) * np.minimum(depth_m, np.float32(self.range_m))

    def apply(self, view: View) -> tuple[NDArray[np.float32], Metadata]:
        """Blend towards grey by distance, then a little yellow; see `streams.weather.effect.Effect.apply`."""
        light = np.array(view.statistics.light)
        per_km = BETA * self.strength * (1 - _NEAREST) / self.range_m * 1000
        airlight = AIRLIGHT * light
        record = Metadata(
            "smog", view.moment.seed, per_km, -math.log(0.05) / per_km * 1000 if per_km else math.inf, 0.05,
            (float(airlight[0]), float(airlight[1]), float(airlight[2])), strength=float(self.strength),
        )  # fmt: skip
        if self.strength == 0:
            return view.rgb, record
        # By day the light is 1 and the yellow is exactly the published one.
        yellow = (np.array(YELLOW) / 255 * light ** (1 / 2.2)).astype(np.float32)
        rgb = _blend(
            np.ascontiguousarray(view.rgb), self.distance(view.depth_m), np.float32(BETA * self.strength),
            airlight.astype(np.float32), yellow, np.float32(min(1.0, YELLOW_SHARE * self.strength)),
        )  # fmt: skip
        return rgb, record


def _stretched(values: NDArray[np.float64], low: float) -> NDArray[np.float64]:
    """Values brought linearly to [low, 1] by their own range; all ``low`` where there is no range."""
    least, most = values.min(), values.max()
    return low + (1 - low) * (values - least) / max(most - least, 1e-12)


@njit(cache=True)
def _blend(
    rgb: NDArray[np.float32], distance: NDArray[np.float32], beta: np.float32, airlight: NDArray[np.float32],
    yellow: NDArray[np.float32], share: np.float32,
) -> NDArray[np.float32]:  # fmt: skip
    out = np.empty_like(rgb)
    rows, columns = distance.shape
    for row in range(rows):
        for column in range(columns):
            t = math.exp(-beta * distance[row, column])
            for c in range(3):
                hazy = encode(np.float32(airlight[c] + (decode(rgb[row, column, c]) - airlight[c]) * t))
                out[row, column, c] = hazy + (yellow[c] - hazy) * share
    return out
