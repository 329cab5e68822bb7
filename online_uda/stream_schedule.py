"""A stream named on the command line, as a schedule of one visit."""

from __future__ import annotations

from online_uda.errors import UserError
from streams.classes import CITYSCAPES_19
from streams.errors import StreamError
from streams.live.feed import Feed, parse_feed
from streams.yaml_config import Located, from_mapping


def named_feed(stream: str) -> Feed:
    """The feed that ``--stream`` names.

    Raises:
        UserError: There is none, or it is a list, of which every line is a run of its own.
    """
    try:
        feed = parse_feed(stream)
    except StreamError as error:
        raise UserError(f"--stream: {error}") from None
    if feed.kind == "list":
        raise UserError(f"--stream: {feed.where} lists streams, and each is a run of its own; name one of its lines")
    return feed


def stream_document(stream: str, classes: str | None) -> Located:
    """The schedule that plays a stream; a folder keeps its labels, if it has any.

    Args:
        stream: As given to ``--stream``.
        classes: What the network was trained on; None takes Cityscapes' classes.

    Raises:
        UserError: As `named_feed`.
    """
    feed = named_feed(stream)
    source = "folder" if feed.kind == "folder" else "stream"
    visit = {"domain": feed.name, source: feed.where}
    return from_mapping({"name": feed.name, "classes": classes or CITYSCAPES_19.name, "visits": [visit]}, "--stream")
