"""The small vocabulary that every weather effect shares: its protocol, its record, and its checked parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streams.errors import StreamError
from streams.weather.view import View


@dataclass(frozen=True, slots=True)
class Metadata:
    """What was done to a frame, for reports and tests.

    Attributes:
        event: Registered name of the event, such as ``rain``.
        seed: Seed of the stream's weather.
        extinction_per_km: Extinction coefficient beta.
        visibility_m: Distance at which contrast falls to ``contrast_threshold``; inf for clear air.
        contrast_threshold: Contrast that defines visibility, 0.05 or 0.02.
        airlight: Linear RGB of the scattered light.
        drops: Number of resolved drops whose head is in view.
        cover: Share of pixels covered by streaks, in [0, 1].
        gain: Brightness gain of streaks before its limit; 0 where no streaks are drawn.
    """

    event: str
    seed: int
    extinction_per_km: float
    visibility_m: float
    contrast_threshold: float
    airlight: tuple[float, float, float]
    drops: int = 0
    cover: float = 0.0
    gain: float = 0.0


class Effect(Protocol):
    """A weather effect with its parameters: a frozen dataclass whose `apply` is a pure function of the view."""

    def apply(self, view: View) -> tuple[NDArray[np.float32], Metadata]:
        """Render onto ``view.rgb``.

        Returns:
            ``(H, W, 3)`` float32 sRGB in [0, 1] and the record. At intensity 0 the image equals the input exactly.
        """
        ...


def check_number(event: str, name: str, value: object, low: float, high: float, unit: str) -> None:
    """Raise `StreamError` unless ``value`` is a number (not a bool, not NaN) in [low, high]."""
    allowed = f"from {low:g} to {high:g}" if math.isfinite(high) else f"of at least {low:g}"
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value) or not low <= value <= high:
        raise StreamError(f"weather {event}: {name} must be a number {allowed} {unit}, got {value!r}".rstrip())


def check_flag(event: str, name: str, value: object) -> None:
    """Raise `StreamError` unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise StreamError(f"weather {event}: {name} must be true or false, got {value!r}")
