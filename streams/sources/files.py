"""A file of a data set: on disk, or a member of a zip archive that was never unpacked."""

from __future__ import annotations

import io
import os
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO

from streams.errors import StreamError


@dataclass(frozen=True, slots=True)
class ZippedFile:
    """A member of a zip archive; reads like a file, pickles as two names.

    Attributes:
        archive: The zip file.
        member: Name inside it, with forward slashes.
    """

    archive: Path
    member: str

    @property
    def name(self) -> str:
        return PurePosixPath(self.member).name

    @property
    def stem(self) -> str:
        return PurePosixPath(self.member).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.member).suffix

    def open(self) -> IO[bytes]:
        """The member as a stream that can be read from the start."""
        return _archive(self.archive, os.getpid()).open(self.member)

    def __str__(self) -> str:
        return f"{self.archive}:{self.member}"


File = Path | ZippedFile


def opened(file: File, *, whole: bool = True) -> Path | IO[bytes]:
    """What decoders take: a path, or the bytes of a member; a stream where the head of it is enough."""
    if isinstance(file, Path):
        return file
    stream = file.open()
    return io.BytesIO(stream.read()) if whole else stream


def read_bytes(file: File) -> bytes:
    """All bytes of a file.

    Raises:
        StreamError: It cannot be read.
    """
    try:
        if isinstance(file, Path):
            return file.read_bytes()
        with file.open() as stream:
            return stream.read()
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise StreamError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def file_stamp(file: File) -> tuple[int, int]:
    """Size in bytes and time of the last change, for signatures: the content cannot change and leave both."""
    if isinstance(file, Path):
        status = file.stat()
        return status.st_size, status.st_mtime_ns
    info = _archive(file.archive, os.getpid()).getinfo(file.member)
    return info.file_size, info.CRC


def list_zip(archive: Path) -> list[ZippedFile]:
    """The files of a zip archive, by name.

    Raises:
        StreamError: It is no whole zip archive.
    """
    try:
        names = _archive(archive, os.getpid()).namelist()
    except (OSError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise StreamError(f"{archive}: cannot be read as a zip archive: {reason}; download it again") from None
    return [ZippedFile(archive, name) for name in sorted(names) if not name.endswith("/")]


@lru_cache(maxsize=16)
def _archive(path: Path, process: int) -> zipfile.ZipFile:
    # An open archive must not be shared with a forked process: both would move one file position.
    return zipfile.ZipFile(path)
