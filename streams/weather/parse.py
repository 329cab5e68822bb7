"""Weather as a schedule writes it: ``{rain: 50}``, ``{fog: 150, rain: {rate: 50, match_mean: false}}``.

Effects are applied in the order in which they are written. A camera sees them best in the order of the light: what
lies on the ground (flood, settled snow), then night, then what hangs in the air (fog, smog, snow, rain), then wildfire.
Night dims whatever is written after it, and sensor noise comes last wherever night stands.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from streams.errors import StreamError
from streams.weather.effect import Effect
from streams.weather.moving import Changing, is_move, parse_move
from streams.weather.registry import EVENTS
from streams.weather.view import Moment


@dataclass(frozen=True, slots=True)
class Weather:
    """Effects in the order in which they are applied; none is clear weather."""

    effects: tuple[Effect | Changing, ...] = ()

    def at(self, moment: Moment) -> tuple[Effect, ...]:
        """The effects as they are at a moment of the segment."""
        return tuple(effect.at(moment) if isinstance(effect, Changing) else effect for effect in self.effects)


CLEAR = Weather()


def parse_effect(event: str, options: object = None) -> Effect | Changing:
    """One effect from its name and a number (its first parameter), a mapping of parameters, or a change of either.

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
    elif isinstance(options, Mapping) and not is_move(options):
        given = options
    else:
        given = {keys[0]: options}
    for key in given:
        if key not in keys:
            raise StreamError(
                f"weather {event}: unknown parameter {key!r}{_hint(str(key), keys)}; known: {', '.join(keys)}"
            )
    moving = {str(key): value for key, value in given.items() if is_move(value)}
    fixed = {str(key): value for key, value in given.items() if key not in moving}
    if not moving:
        return registered.build(fixed)
    parameters = {parameter.key: parameter for parameter in registered.parameters}
    moves = tuple(
        (key, parse_move(event, parameters[key], cast(Mapping[object, object], value))) for key, value in moving.items()
    )
    changing = Changing(registered, tuple(fixed.items()), moves)
    changing.check()
    return changing


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
