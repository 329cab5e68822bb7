"""One worker process of a stream: makes the items it is asked for and hands them back (`python -m streams._worker`).

Talks over its standard streams: a pickled setup in, then item numbers in and pickled items out, until the pipe closes.
Whatever is printed meanwhile goes to standard error.
"""

from __future__ import annotations

import os
import pickle
import struct
import sys
from contextlib import suppress
from typing import BinaryIO

LENGTH = struct.Struct("<Q")
READY = b"ready"


def read_message(pipe: BinaryIO) -> bytes:
    """The next message. Raises `EOFError` where the pipe has ended."""
    return _exactly(pipe, LENGTH.unpack(_exactly(pipe, LENGTH.size))[0])


def write_message(pipe: BinaryIO, message: bytes) -> None:
    """Sends a message."""
    pipe.write(LENGTH.pack(len(message)))
    pipe.write(message)
    pipe.flush()


def _exactly(pipe: BinaryIO, count: int) -> bytes:
    data = pipe.read(count)
    if len(data) < count:
        raise EOFError
    return data


def main() -> None:
    """Serve until the other side is gone."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with suppress(EOFError, BrokenPipeError):
        _serve(sys.stdin.buffer, out)


def _serve(requests: BinaryIO, replies: BinaryIO) -> None:
    setup = read_message(requests)
    import cv2

    from streams.stream import Stream

    cv2.setNumThreads(1)  # as many processes as cores are meant to work
    schedule, options = pickle.loads(setup)
    make = Stream(schedule, **options).maker()
    write_message(replies, READY)
    while True:
        index = LENGTH.unpack(read_message(requests))[0]
        try:
            reply = pickle.dumps(make(index), protocol=pickle.HIGHEST_PROTOCOL)
        except Exception:
            reply = b""  # the other side makes this item itself and meets the same fault where it belongs
        write_message(replies, reply)


if __name__ == "__main__":
    main()
