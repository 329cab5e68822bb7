"""The console: a progress bar with the live score on stderr, the final table on stdout."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Any, TextIO

from online_uda.reports.record import FrameRecord
from online_uda.reports.table import score, signed, summary_table

QUIET_S = 60.0
"""Without a terminal a visit that lasts, as that of a camera does, has a line so often."""


class ConsoleSink:
    """A progress bar on a terminal, a line a visit and a minute elsewhere; at the end the table of `summary_table`.

    Args:
        total_frames: Frames the run will have, or None if unknown.
        start_frame: Frames that were done before a resume.
        progress: Where the bar or the lines go; standard error by default.
        output: Where the table goes; standard output by default.
    """

    name = "console"

    def __init__(
        self,
        total_frames: int | None = None,
        start_frame: int = 0,
        progress: TextIO | None = None,
        output: TextIO | None = None,
    ) -> None:
        self._total = total_frames
        self._start = start_frame
        self._progress = progress or sys.stderr
        self._output = output or sys.stdout
        self._bar: Any = None
        self._last: FrameRecord | None = None
        self._frames = self._updates = 0
        self._told_s = time.monotonic()

    def __enter__(self) -> ConsoleSink:
        if self._progress.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=self._total, initial=self._start, file=self._progress, unit="frame", dynamic_ncols=True,
                mininterval=0.2,
            )  # fmt: skip
        return self

    def write(self, record: FrameRecord) -> None:
        """Advance the bar, or print the visit that has just ended."""
        if self._last is not None and record.visit != self._last.visit:
            self._visit_line()
        self._last = record
        self._frames += 1
        self._updates += record.updated
        for event in record.guard:
            self._line(f"frame {record.frame}: guard: {event['action']} ({event['cause']}): {event['detail']}")
        if self._bar is not None:
            self._bar.set_postfix_str(
                f"{record.domain} adapted {score(record.visit_miou)} frozen {score(record.visit_miou_frozen)}",
                refresh=False,
            )
            self._bar.update(1)
        elif time.monotonic() - self._told_s >= QUIET_S:
            self._visit_line()

    def _line(self, text: str) -> None:
        """A line above the bar, or among the others where there is none."""
        if self._bar is not None:
            self._bar.write(text, file=self._progress)
        else:
            print(text, file=self._progress, flush=True)

    def _visit_line(self) -> None:
        last = self._last
        if last is not None and self._bar is None and self._frames:
            gain = None
            if last.visit_miou is not None and last.visit_miou_frozen is not None:
                gain = last.visit_miou - last.visit_miou_frozen
            done = f"{last.frame + 1}/{self._total}" if self._total else str(last.frame + 1)
            print(
                f"frame {done}  visit {last.visit + 1} {last.domain}: adapted {score(last.visit_miou)}, "
                f"frozen {score(last.visit_miou_frozen)} ({signed(gain)}), {self._updates} updates "
                f"in {self._frames} frames",
                file=self._progress,
                flush=True,
            )
        self._frames = self._updates = 0
        self._told_s = time.monotonic()

    def finish(self, summary: dict[str, Any]) -> None:
        """Close the bar and print the table."""
        self._visit_line()
        self._last = None
        self._close_bar()
        colour = self._output.isatty() and "NO_COLOR" not in os.environ
        print("\n" + summary_table(summary, colour=colour), file=self._output, flush=True)

    def _close_bar(self) -> None:
        if self._bar is not None:
            bar, self._bar = self._bar, None
            bar.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_bar()
