"""``frames.jsonl``: one JSON object a frame (schema ``online_uda.frame/1``), flushed line by line.

A long run starts a new file when the present one is full: ``frames.00050000.jsonl`` holds the lines of frame 50000 and
those after it, ``frames.jsonl`` the newest. The oldest parts are removed when there are too many, so that a run without
end fits a disk.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from online_uda.reports.record import FrameRecord

PART_BYTES = 64 * 2**20
KEPT_PARTS = 15


class JsonlSink:
    """Writes a line a frame, so that a killed run keeps every finished frame.

    Args:
        path: The newest file; its older parts stand beside it.
        resume_frame: First frame that this run will write. Lines of earlier frames are kept; that frame, later ones
            and a torn last line are cut off. None starts a new file.
        part_bytes: Size from which a file is closed and another one begun.
        kept_parts: Closed files to keep.
    """

    name = "jsonl"

    def __init__(
        self,
        path: Path,
        resume_frame: int | None = None,
        part_bytes: int = PART_BYTES,
        kept_parts: int = KEPT_PARTS,
    ) -> None:
        self._path = Path(path)
        self._resume_frame = resume_frame
        self._part_bytes, self._kept_parts = part_bytes, kept_parts
        self._file: BinaryIO | None = None
        self._first_frame: int | None = None

    def __enter__(self) -> JsonlSink:
        if self._resume_frame is None:
            self._file = self._path.open("wb")
            return self
        keep = self._cut_back(self._resume_frame)
        self._file = self._path.open("r+b" if self._path.exists() else "wb")
        self._first_frame = _frame_of(self._file.readline()) if keep else None
        self._file.truncate(keep)
        self._file.seek(keep)
        if keep >= self._part_bytes:
            self._start_part(self._file)
        return self

    def _cut_back(self, resume_frame: int) -> int:
        """Makes the newest file one that holds an earlier frame, if there is any; gives the bytes to keep of it."""
        while True:
            keep = kept_bytes(self._path, resume_frame) if self._path.exists() else 0
            parts = parts_of(self._path)
            if keep or not parts:
                return keep
            os.replace(parts[-1], self._path)

    def write(self, record: FrameRecord) -> None:
        """Append the record and hand it to the operating system."""
        file = self._opened()
        if self._first_frame is None:
            self._first_frame = record.frame
        file.write(json.dumps(record.as_json(), allow_nan=False).encode() + b"\n")
        file.flush()
        if file.tell() >= self._part_bytes:
            self._start_part(file)

    def _start_part(self, full: BinaryIO) -> None:
        full.close()
        os.replace(self._path, self._path.with_suffix(f".{self._first_frame:08d}{self._path.suffix}"))
        self._file, self._first_frame = self._path.open("wb"), None
        for old in parts_of(self._path)[: -self._kept_parts or None]:
            old.unlink(missing_ok=True)

    def sync(self) -> None:
        """Put the lines so far on the disk, where they outlive a loss of power."""
        os.fsync(self._opened().fileno())

    def _opened(self) -> BinaryIO:
        if self._file is None:
            raise ValueError(f"{self._path} is not open")
        return self._file

    def finish(self, summary: dict[str, Any]) -> None:
        """Nothing to add: the summary has a file of its own."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()


def parts_of(path: Path) -> list[Path]:
    """Closed parts of a file of frames, oldest first; ``path`` itself is none of them."""
    name = re.compile(rf"{re.escape(path.stem)}\.([0-9]{{8,}}){re.escape(path.suffix)}")
    found = [(int(match[1]), file) for file in path.parent.iterdir() if (match := name.fullmatch(file.name))]
    return [file for _, file in sorted(found)]


def _frame_of(line: bytes) -> int | None:
    """Index of the frame that a line is about; None where it is no line of this file."""
    try:
        frame = json.loads(line)["frame"]
    except (ValueError, KeyError, TypeError):
        return None
    return frame if isinstance(frame, int) and line.endswith(b"\n") else None


def kept_bytes(path: Path, resume_frame: int) -> int:
    """Length in bytes of the leading whole lines of frames before ``resume_frame``."""
    keep = 0
    with path.open("rb") as lines:
        for line in lines:
            frame = _frame_of(line)
            if frame is None or frame >= resume_frame:
                break
            keep += len(line)
    return keep
