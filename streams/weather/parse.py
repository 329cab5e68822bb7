"""Weather as a schedule writes it: ``{rain: 50}``, ``{fog: 150, rain: {rate: 50, match_mean: false}}``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from streams.errors import StreamError
from streams.weather.effect import Effect
from streams.weather.registry import EVENTS


@dataclass(frozen=True, slots=True)
class Weather:
    """Effects in the order in which they are applied; none is clear weather."""

    effects: tuple[Effect, ...] = ()


CLEAR = Weather()


def parse_effect(event: str, options: object = None) -> Effect:
    """One effect from its name and either a number (its first parameter) or a mapping of parameters.

    Args:
        event: Key in `streams.weather.EVENTS`.
        options: Number, mapping, or None for all defaults. An effect that is already built is passed through.

    Raises:
        StreamError: Unknown event or parameter (with near matches), or a value out of range.
    """
    if not isinstance(event, str) or event not in EVENTS:
        raise StreamError(f"weather: unknown event {event!r}{_hint(str(event), EVENTS)}; known: {', '.join(EVENTS)}")
    registered = EVENTS[event]
    if isinstance(registered.factory, type) and isinstance(options, registered.factory):
        return cast(Effect, options)
    keys = [parameter.key for parameter in registered.parameters]
    if options is None:
        given: Mapping[object, object] = {}
    elif isinstance(options, Mapping):
        given = options
    else:
        given = {keys[0]: options}
    for key in given:
        if key not in keys:
            raise StreamError(
                f"weather {event}: unknown parameter {key!r}{_hint(str(key), keys)}; known: {', '.join(keys)}"
            )
    return registered.build({str(key): value for key, value in given.items()})


def parse_weather(mapping: Mapping[str, object] | None) -> Weather:
    """Weather from the mapping under ``weather:`` in a schedule; its order is the order of application.

    Args:
        mapping: Event name to number or to a mapping of parameters. None or empty is clear weather.

    Raises:
        StreamError: Names the offending key and near matches.
    """
    if mapping is None:
        return CLEAR
    if not isinstance(mapping, Mapping):
        raise StreamError(f"weather: expected a mapping such as {{rain: 50}}, got {mapping!r}")
    effects = []
    for event, options in mapping.items():
        if options is None:
            raise StreamError(f"weather {event}: no value given; write a number as in {{{event}: 50}}")
        effects.append(parse_effect(event, options))
    return Weather(tuple(effects))


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name.lower(), list(known), n=2, cutoff=0.5)
    return f" (did you mean {' or '.join(near)}?)" if near else ""
