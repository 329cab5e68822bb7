"""Which weathers tuning streams go through: those of the search, and others that only the final validation sees.

A stream is clear, rain, fog and nightfall in an order of its own, the first of these again, and clear: six visits.
Rates, visibilities and darkness of the two roles differ, so that what is found cannot fit them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Role = Literal["search", "held_out"]
ROLES: tuple[Role, ...] = ("search", "held_out")
STREAMS = 2
"""Streams of each role."""


@dataclass(frozen=True)
class Condition:
    """A weather with its name, such as ``rain40``."""

    name: str
    weather: Mapping[str, Any] = field(default_factory=dict)


CLEAR = Condition("clear")


def _conditions(kind: str, *values: float) -> tuple[Condition, ...]:
    return tuple(Condition(f"{kind}{value:g}", {kind: value}) for value in values)


POOLS: dict[Role, dict[str, tuple[Condition, ...]]] = {
    "search": {
        "rain": _conditions("rain", 40, 90, 150),
        "fog": _conditions("fog", 80, 160),
        "night": _conditions("night", 0.2, 0.4),
    },
    "held_out": {
        "rain": _conditions("rain", 60, 120, 200),
        "fog": _conditions("fog", 110, 220),
        "night": _conditions("night", 0.3, 0.5),
    },
}


def draw_visits(role: Role, number: int, seed: int) -> tuple[Condition, ...]:
    """The visits of a tuning stream.

    Args:
        role: Of the stream; the pools of the two roles share nothing but clear weather.
        number: Which stream of the role.
        seed: Of the study.
    """
    # Streams of a role take turns at the pools and begin at other places of one order: no two of them are alike.
    random = np.random.default_rng((seed, ROLES.index(role)))
    pool = POOLS[role]
    drawn = [pool[kind][(number + int(random.integers(len(pool[kind])))) % len(pool[kind])] for kind in pool]
    order = [drawn[i] for i in np.roll(random.permutation(len(drawn)), number)]
    return (CLEAR, *order, order[0], CLEAR)
