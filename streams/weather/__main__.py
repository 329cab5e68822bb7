"""python -m streams.weather preview IMAGE --event night --out sheet.jpg     (and: python -m streams.weather list)"""

from __future__ import annotations

import sys

from streams.arguments import OneLineParser
from streams.errors import StreamError
from streams.weather import preview
from streams.weather.registry import EVENTS


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status; a user's mistake is one line on stderr."""
    parser = OneLineParser(prog="python -m streams.weather", description="Weather on pictures.")
    commands = parser.add_subparsers(dest="command", required=True)
    preview.add_arguments(commands.add_parser("preview", help="a contact sheet of one event on an image"))
    commands.add_parser("list", help="all events and their parameters")
    options = parser.parse_args(arguments)
    try:
        if options.command == "list":
            print_events()
        else:
            preview.run(options)
    except StreamError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def print_events() -> None:
    """Every event with its parameters, the main one first."""
    for event in EVENTS.values():
        print(f"{event.name}: {event.description}")
        for parameter in event.parameters:
            unit = f" ({parameter.unit})" if parameter.unit else ""
            moves = "; may change over a visit" if parameter.movable else ""
            print(f"  {parameter.key:12} {parameter.description}{unit}{moves}")


if __name__ == "__main__":
    sys.exit(main())
