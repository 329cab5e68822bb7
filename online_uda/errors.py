"""The one error a user's mistake may raise: a line that says what was found and what to do."""

from __future__ import annotations

from streams.errors import StreamError


class UserError(ValueError):
    """Bad input from the user. The command line prints the message and exits with status 2."""


USER_ERRORS = (UserError, StreamError)
