"""The small vocabulary that every weather effect shares: its protocol, its record, and its checked parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from streams.errors import StreamError
from streams.weather.view import SceneStatistics, View


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
        strength: Strength of events that are given as a share of their fullest, in [0, 1].
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
    strength: float = 0.0


class Effect(Protocol):
    """A weather effect with its parameters: a frozen dataclass whose `apply` is a pure function of the view."""

    def apply(self, view: View) -> tuple[NDArray[np.float32], Metadata]:
        """Render onto ``view.rgb``.

        Returns:
            ``(H, W, 3)`` float32 sRGB in [0, 1] and the record. At intensity 0 the image equals the input exactly.
        """
        ...


@runtime_checkable
class Relights(Protocol):
    """An effect that changes the light of the scene, so that what is applied after it meets another airlight."""

    def relight(self, statistics: SceneStatistics) -> SceneStatistics:
        """The segment's statistics as later effects shall see them."""
        ...


@runtime_checkable
class Relabels(Protocol):
    """An effect that hides what a label names."""

    def relabel(self, view: View, label: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The label ``(h, w)`` as it shall be scored; the label given is not written."""
        ...


@runtime_checkable
class Finishes(Protocol):
    """An effect with a part in the camera, which comes after everything in front of it, the last written first."""

    def finish(self, view: View) -> NDArray[np.float32]:
        """``(H, W, 3)`` float32 sRGB in [0, 1] of ``view.rgb``, which holds all effects of the frame."""
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


def check_choice(event: str, name: str, value: object, choices: Sequence[str]) -> None:
    """Raise `StreamError` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise StreamError(f"weather {event}: {name} must be {' or '.join(choices)}, got {value!r}")
