"""Weather that changes while it lasts: parameters that go from one value to another, or wander between two.

    rain: {from: 0, to: 100}                              over the visit, the first frame 0 and the last 100
    fog: {visibility: {from: 750, to: 75}, mist: true}    evenly in extinction, that is, in 1 / visibility
    rain: {walk: [0, 150], every: 4, step: 0.2}           a random walk on the stream's clock, from the stream's seed

A walk takes a normal step every ``every`` seconds, of ``step`` times the range, is reflected at both ends, and moves
evenly between steps. Its value depends on the seed, the event, the parameter and the time alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from streams.errors import StreamError
from streams.weather.counter_rng import event_key, uniform, uniform_column
from streams.weather.effect import Effect, check_number
from streams.weather.registry import Parameter, WeatherEvent
from streams.weather.view import Moment

RAMP_KEYS, WALK_KEYS = ("from", "to"), ("walk", "every", "step")
_EVERY_S, _STEP = 4.0, 0.2
_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Ramp:
    """From ``start`` at the visit's first frame to ``end`` at its last."""

    start: float
    end: float

    def share(self, moment: Moment, key: np.uint64) -> float:
        """Where between ``start`` (0) and ``end`` (1) the value is."""
        return moment.progress


@dataclass(frozen=True, slots=True)
class Walk:
    """Wandering between ``start`` and ``end``: a step of ``step`` times the range every ``every_s`` seconds."""

    start: float
    end: float
    every_s: float = _EVERY_S
    step: float = _STEP

    def share(self, moment: Moment, key: np.uint64) -> float:
        """Where between ``start`` (0) and ``end`` (1) the value is."""
        position = max(moment.t_seconds, 0.0) / self.every_s
        index = math.floor(position)
        block = _walk_block(int(key), index // _BLOCK, self.step)
        before, after = _reflected(block[index % _BLOCK]), _reflected(block[index % _BLOCK + 1])
        return before + (after - before) * (position - index)


@lru_cache(maxsize=64)
def _walk_block(key: int, block: int, step: float) -> NDArray[np.float64]:
    """``(1025,)`` places of an unbounded walk at steps 1024 block to 1024 (block + 1)."""
    start = float(_walk_block(key, block - 1, step)[-1]) if block else uniform(np.uint64(key), 0, 0, 1)
    steps = step * ndtri(np.clip(uniform_column(np.uint64(key), _BLOCK, block, 2), 1e-12, 1))
    return np.concatenate([[start], start + np.cumsum(steps)])


def _reflected(place: float) -> float:
    """A place on the line folded into [0, 1] as by mirrors at both ends."""
    return 1 - abs(1 - place % 2)


@dataclass(frozen=True, slots=True)
class Changing:
    """An effect whose parameters change.

    Attributes:
        event: What it is.
        fixed: Parameters that stay, by key.
        moving: Parameters that change, by key.
    """

    event: WeatherEvent
    fixed: tuple[tuple[str, object], ...]
    moving: tuple[tuple[str, Ramp | Walk], ...]

    def at(self, moment: Moment) -> Effect:
        """The effect as it is at a moment."""
        return self._build([move.share(moment, self._key(moment.seed, key)) for key, move in self.moving])

    def check(self) -> None:
        """Raise `StreamError` unless the effect can be built at both ends."""
        for end in ("start", "end"):
            self.event.build(dict(self.fixed) | {key: getattr(move, end) for key, move in self.moving})

    def _key(self, seed: int, key: str) -> np.uint64:
        return event_key(seed, f"walk {self.event.name} {key}")

    def _build(self, shares: list[float]) -> Effect:
        options, parameters = dict(self.fixed), {p.key: p for p in self.event.parameters}
        bounds: dict[str, object] = {}
        for (key, move), share in zip(self.moving, shares, strict=True):
            parameter = parameters[key]
            options[key] = _between(move.start, move.end, share, parameter.reciprocal)
            if parameter.ceiling_field:
                bounds[parameter.ceiling_field] = max(move.start, move.end)
        return self.event.build(options, bounds)


def _between(start: float, end: float, share: float, reciprocal: bool) -> float:
    if share in (0.0, 1.0):
        return end if share else start
    if not reciprocal:
        return start + (end - start) * share
    inverse = 1 / start + (1 / end - 1 / start) * share
    return 1 / inverse if inverse > 0 else math.inf


def is_move(options: object) -> bool:
    """Whether a value as a schedule writes it is meant to change."""
    return isinstance(options, Mapping) and bool({"from", "to", "walk"} & set(map(str, options)))


def parse_move(event: str, parameter: Parameter, options: Mapping[object, object]) -> Ramp | Walk:
    """The change written as ``{from: A, to: B}`` or ``{walk: [A, B], every: SECONDS, step: SHARE}``.

    Raises:
        StreamError: The parameter cannot change, a key is missing or unknown, or a value is no number.
    """
    name = parameter.key
    if not parameter.movable:
        raise StreamError(f"weather {event}: {name} cannot change during a visit; give one value")
    known = WALK_KEYS if "walk" in options else RAMP_KEYS
    if unknown := [key for key in options if key not in known]:
        raise StreamError(f"weather {event}: {unknown[0]!r} does not go with {known[0]!r}; known: {', '.join(known)}")
    if "walk" not in options:
        if missing := [key for key in RAMP_KEYS if key not in options]:
            raise StreamError(f"weather {event}: {name} needs both 'from' and 'to', {missing[0]!r} is missing")
        return Ramp(*(_end(event, name, options[key], parameter.reciprocal) for key in RAMP_KEYS))
    ends, every, step = options["walk"], options.get("every", _EVERY_S), options.get("step", _STEP)
    if not isinstance(ends, (list, tuple)) or len(ends) != 2:
        raise StreamError(f"weather {event}: walk must be two values to wander between as in [0, 100], got {ends!r}")
    check_number(event, "every", every, 0.1, 1e6, "s")
    check_number(event, "step", step, 0.001, 1, "of the range")
    low, high = (_end(event, name, end, parameter.reciprocal) for end in ends)
    return Walk(low, high, float(every), float(step))  # type: ignore[arg-type]


def _end(event: str, name: str, value: object, may_be_inf: bool) -> float:
    check_number(event, name, value, -math.inf, math.inf, "")
    assert isinstance(value, (int, float))
    if (math.isinf(value) and not may_be_inf) or (may_be_inf and value <= 0):
        raise StreamError(f"weather {event}: {name} cannot change from or to {value!r}")
    return float(value)
