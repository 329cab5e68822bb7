"""The command lines of the project: a mistake in one is one line, as all others are."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn


class OneLineParser(argparse.ArgumentParser):
    """Tells a mistake in one line with exit status 2; argparse would print the usage before it."""

    def error(self, message: str) -> NoReturn:
        """See `argparse.ArgumentParser.error`."""
        print(f"error: {message}; --help shows all options", file=sys.stderr)
        raise SystemExit(2)
