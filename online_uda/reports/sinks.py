"""Where the results of a run go: the sink protocol and a group that keeps one failing sink from stopping a run."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Protocol

from online_uda.errors import UserError
from online_uda.reports.record import FrameRecord


class Sink(Protocol):
    """A context manager that takes a record a frame and the summary at the end.

    A sink whose lines a resumed run must find may have a method ``sync()`` that puts them on the disk. Entering opens
    files and raises `UserError` if that is impossible. Leaving closes them, also after an exception.
    """

    name: str

    def __enter__(self) -> Any: ...

    def write(self, record: FrameRecord) -> None:
        """Take one frame."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Take the summary of the run (schema ``online_uda.summary/1``)."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class SinkFailure:
    """A sink that was dropped: its name, what it was doing, the last frame it was offered, and the error."""

    sink: str
    doing: str
    frame: int | None
    error: str


class SinkGroup:
    """Fans records out to sinks. A sink that cannot open stops the run; one that fails later is dropped and reported.

    Args:
        sinks: The sinks, opened in this order.
    """

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self._waiting = list(sinks)
        self._open: list[Sink] = []
        self._frame: int | None = None
        self.failures: list[SinkFailure] = []

    def __enter__(self) -> SinkGroup:
        for sink in self._waiting:
            try:
                sink.__enter__()
            except BaseException as error:
                self._close(type(error), error, error.__traceback__)
                if isinstance(error, OSError):
                    raise UserError(f"cannot open the {sink.name} report: {error}") from error
                raise
            self._open.append(sink)
        return self

    def write(self, record: FrameRecord) -> None:
        """Offer a record to every sink that still works."""
        self._frame = record.frame
        for sink in list(self._open):
            try:
                sink.write(record)
            except Exception as error:
                self._drop(sink, "write", error)

    def sync(self) -> None:
        """Put on the disk what a resumed run must find: a snapshot follows."""
        for sink in list(self._open):
            try:
                getattr(sink, "sync", lambda: None)()
            except Exception as error:
                self._drop(sink, "sync", error)

    def finish(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Offer the summary to every sink.

        Returns:
            The summary with ``sink_failures`` (list of {sink, doing, frame, error}), failures of this very call
            included; write it to ``summary.json``.
        """
        for sink in list(self._open):
            try:
                sink.finish(self._with_failures(summary))
            except Exception as error:
                self._drop(sink, "finish", error)
        return self._with_failures(summary)

    def _with_failures(self, summary: dict[str, Any]) -> dict[str, Any]:
        return {**summary, "sink_failures": [asdict(failure) for failure in self.failures]}

    def _drop(self, sink: Sink, doing: str, error: Exception) -> None:
        self._open.remove(sink)
        self._report(sink, doing, error)
        try:
            sink.__exit__(type(error), error, error.__traceback__)
        except Exception as again:
            self._report(sink, "close", again)

    def _report(self, sink: Sink, doing: str, error: Exception) -> None:
        self.failures.append(SinkFailure(sink.name, doing, self._frame, f"{type(error).__name__}: {error}"))
        print(f"warning: the {sink.name} report failed ({doing}: {error}); the run goes on without it", file=sys.stderr)

    def _close(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._open:
            sink = self._open.pop()
            try:
                sink.__exit__(kind, error, trace)
            except Exception as failed:
                self._report(sink, "close", failed)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(kind, error, trace)
