"""The error that a stream raises for a user's mistake: one line with the path or key and what to do."""

from __future__ import annotations


class StreamError(ValueError):
    """Bad stream input: a missing folder, a label that does not fit its image, an unknown weather key."""
