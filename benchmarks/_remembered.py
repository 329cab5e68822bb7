"""Inputs of a run that are made once and kept, for benchmarks that play the same stream many times."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from streams.frame import LabelledImage, StreamItem


class RememberedStream:
    """A stream whose items are all made before the first one is played: nothing is drawn beside the clock."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        with stream:
            self._items: list[StreamItem] = list(stream.iterate(0))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __len__(self) -> int:
        return len(self._items)

    def __enter__(self) -> RememberedStream:
        return self

    def __exit__(self, *error: Any) -> None:
        """Nothing runs beside it."""

    def iterate(self, start: int = 0) -> Iterator[StreamItem]:
        """Items from ``start`` on."""
        yield from self._items[start:]


class RememberedSource:
    """Labelled images that are made when they are asked for the first time."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.classes = source.classes
        self._made: dict[int, LabelledImage] = {}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> LabelledImage:
        if index not in self._made:
            self._made[index] = self._source[index]
        return self._made[index]
