"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

PAUSE_S = 10.0
"""Between two plain lines of work whose steps are of any length."""


class Progress:
    """Shows how far a piece of work has come.

    Args:
        title: What is being done.
        total: Steps of the whole work.
        start: Steps done already.
        every: Steps between two plain lines; None: a line every ten seconds, and none for what is done sooner.
        stream: Where to write; stderr by default.
    """

    def __init__(
        self, title: str, total: int, start: int = 0, every: int | None = 50, stream: TextIO | None = None
    ) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._title, self._total, self._every = title, total, every
        self._begun_s = time.perf_counter()
        self._bar = (
            tqdm(total=total, initial=start, desc=title, file=self._stream, dynamic_ncols=True)
            if self._stream.isatty()
            else None
        )
        self._mark = (start, time.perf_counter())

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the bar as it is, and the line below it free."""
        if self._bar is not None:
            self._bar.close()

    def update(self, done: int, note: str = "") -> None:
        """Reports that ``done`` steps are done."""
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._bar.n)
        elif self._due(done):
            step, since = self._mark
            now = time.perf_counter()
            pace = (now - since) / max(1, done - step)
            self._mark = (done, now)
            self.say(f"{self._title} {done}/{self._total} {note} {pace:.3f} s/step".replace("  ", " "))

    def _due(self, done: int) -> bool:
        now = time.perf_counter()
        if self._every is None:
            return now - self._mark[1] >= PAUSE_S or (done == self._total and now - self._begun_s >= PAUSE_S)
        return done % self._every == 0 or done == self._total

    def say(self, line: str) -> None:
        """Writes a line without disturbing the bar."""
        if self._bar is not None:
            self._bar.write(line, file=self._stream)
        else:
            print(line, file=self._stream, flush=True)
