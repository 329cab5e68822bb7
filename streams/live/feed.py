"""What ``--stream`` may name: a camera, an address, a video file, images, or a list of these."""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from streams.errors import StreamError
from streams.sources.folder import natural_key
from streams.sources.images import IMAGE_SUFFIXES

Kind = Literal["camera", "address", "file", "folder", "images", "list"]

SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp", "srt", "rtp")
_LIVE_SCHEMES = ("rtsp", "rtsps", "rtmp", "udp", "tcp", "srt", "rtp")
FORMS = "a camera's number, an address such as rtsp://HOST/PATH, a video file, a folder, 'GLOB*.png' or a .txt list"


@dataclass(frozen=True, slots=True)
class Feed:
    """One source of pictures.

    Attributes:
        kind: What it is.
        where: Camera number, address, absolute path or absolute pattern, as text; what `parse_feed` takes again.
        name: Short name for reports; holds no password.
        paths: Files of ``images``.
    """

    kind: Kind
    where: str
    name: str
    paths: tuple[Path, ...] = ()

    @property
    def is_live(self) -> bool:
        """Whether pictures come when they come, and are lost when nobody takes them."""
        return self.kind == "camera" or (self.kind == "address" and urlsplit(self.where).scheme in _LIVE_SCHEMES)


def parse_feed(text: str, base: Path | None = None) -> Feed:
    """The feed that a text names.

    Args:
        text: See `FORMS`.
        base: Folder that relative paths start from; the working directory by default.

    Raises:
        StreamError: No such file, folder or scheme, or a pattern that fits nothing.
    """
    text = text.strip()
    if not text:
        raise StreamError(f"a stream is {FORMS}; got nothing")
    if re.fullmatch(r"[0-9]{1,3}", text):
        return Feed("camera", str(int(text)), f"camera{int(text)}")
    if "://" in text:
        return _address(text)
    return _path(text, base or Path.cwd())


def _address(text: str) -> Feed:
    scheme = text.partition("://")[0].lower()
    if scheme == "file":
        return _path(text.partition("://")[2], Path.cwd())
    if scheme not in SCHEMES:
        raise StreamError(f"{text}: cannot read {scheme}://; addresses start with {', '.join(SCHEMES)}")
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise StreamError(f"{hidden(text)}: no address: {error}") from None
    if not host:
        raise StreamError(f"{hidden(text)}: the address names no host; write {scheme}://HOST/PATH")
    last = [part for part in parts.path.split("/") if part][-1:]
    return Feed("address", text, file_name("-".join([host, *last])))


def _path(text: str, base: Path) -> Feed:
    try:
        path = base.absolute() / Path(text).expanduser()
        if path.is_dir():
            return Feed("folder", str(path), file_name(path.name))
        if path.is_file():
            return _file(path)
        if not glob.has_magic(text):
            raise StreamError(f"{path}: no such file or folder; a stream is {FORMS}")
        found = [Path(name) for name in glob.glob(str(path), recursive=True)]
    except (RuntimeError, OSError, ValueError) as error:
        if isinstance(error, StreamError):
            raise
        raise StreamError(f"{text}: cannot be read: {error}") from None
    images = [name for name in found if name.suffix.lower() in IMAGE_SUFFIXES and name.is_file()]
    if not images:
        raise StreamError(f"{path}: fits no image ({', '.join(IMAGE_SUFFIXES)})")
    images.sort(key=lambda name: natural_key(str(name)))
    return Feed("images", str(path), file_name(path.parent.name or "images"), tuple(images))


def _file(path: Path) -> Feed:
    suffix = path.suffix.lower()
    if suffix == ".txt":
        return Feed("list", str(path), file_name(path.stem))
    if suffix in IMAGE_SUFFIXES:
        return Feed("images", str(path), file_name(path.stem), (path,))
    return Feed("file", str(path), file_name(path.stem))


def read_list(feed: Feed) -> tuple[Feed, ...]:
    """The feeds of a list: one a line, ``#`` starts a comment, relative paths start from the list's folder.

    Raises:
        StreamError: The list cannot be read, is empty, or a line is faulty; names the line.
    """
    path = Path(feed.where)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StreamError(f"{path}: cannot be read as a list of streams: {error}") from None
    found: list[Feed] = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            entry = parse_feed(text, path.parent)
        except StreamError as error:
            raise StreamError(f"{path}:{number}: {error}") from None
        if entry.kind == "list":
            raise StreamError(f"{path}:{number}: a list in a list; write its lines here")
        found.append(entry)
    if not found:
        raise StreamError(f"{path}: lists no stream; write one a line: {FORMS}")
    return tuple(found)


def hidden(text: str) -> str:
    """An address without user and password.

    >>> hidden("rtsp://me:secret@10.0.0.7/cam")
    'rtsp://***@10.0.0.7/cam'
    """
    return re.sub(r"://[^/\s]*@", "://***@", text)


def file_name(text: str) -> str:
    """A text as part of a file name: letters, digits and ``._+-`` only, never empty."""
    return re.sub(r"[^\w.+-]+", "_", text).strip("._") or "stream"
