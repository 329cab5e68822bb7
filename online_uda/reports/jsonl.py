"""``frames.jsonl``: one JSON object a frame (schema ``online_uda.frame/1``), flushed line by line."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from online_uda.reports.record import FrameRecord


class JsonlSink:
    """Writes a line a frame, so that a killed run keeps every finished frame.

    Args:
        path: The file.
        resume_frame: First frame that this run will write. Lines of earlier frames are kept; that frame, later ones
            and a torn last line are cut off. None starts a new file.
    """

    name = "jsonl"

    def __init__(self, path: Path, resume_frame: int | None = None) -> None:
        self._path = Path(path)
        self._resume_frame = resume_frame
        self._file: BinaryIO | None = None

    def __enter__(self) -> JsonlSink:
        if self._resume_frame is None or not self._path.exists():
            self._file = self._path.open("wb")
        else:
            keep = kept_bytes(self._path, self._resume_frame)
            self._file = self._path.open("r+b")
            self._file.truncate(keep)
            self._file.seek(keep)
        return self

    def write(self, record: FrameRecord) -> None:
        """Append the record and hand it to the operating system."""
        if self._file is None:
            raise ValueError(f"{self._path} is not open")
        self._file.write(json.dumps(record.as_json(), allow_nan=False).encode() + b"\n")
        self._file.flush()

    def finish(self, summary: dict[str, Any]) -> None:
        """Nothing to add: the summary has a file of its own."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()


def kept_bytes(path: Path, resume_frame: int) -> int:
    """Length in bytes of the leading whole lines of frames before ``resume_frame``."""
    keep = 0
    with path.open("rb") as lines:
        for line in lines:
            try:
                frame = json.loads(line)["frame"]
            except (ValueError, KeyError, TypeError):
                break
            if not line.endswith(b"\n") or not isinstance(frame, int) or frame >= resume_frame:
                break
            keep += len(line)
    return keep
