"""The one error a user's mistake may raise: a line that says what was found and what to do."""

from __future__ import annotations

import sys

from streams.errors import StreamError

OK, USER_ERROR, INTERRUPTED = 0, 2, 130
"""Exit statuses of every command."""


class UserError(ValueError):
    """Bad input from the user. The command line prints the message and exits with status 2."""


USER_ERRORS = (UserError, StreamError)


def tell(error: Exception) -> int:
    """Prints a user's mistake to stderr, every line of it by itself, and returns the exit status for it."""
    for line in str(error).splitlines():
        print(f"error: {line}", file=sys.stderr)
    return USER_ERROR
