"""Files of a tree by what their names have in common, so that images, labels and depth find each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from streams.errors import StreamError
from streams.sources.files import File
from streams.sources.folder import natural_key
from streams.sources.images import IMAGE_SUFFIXES


def first_folder(root: Path, *candidates: str) -> Path | None:
    """The first of the candidates below `root` that is a folder; ``.`` is `root` itself."""
    return next((root / name for name in candidates if (root / name).is_dir()), None)


def require_folder(root: Path, what: str, *candidates: str) -> Path:
    """As `first_folder`.

    Raises:
        StreamError: There is none; says what would have been there.
    """
    found = first_folder(root, *candidates)
    if found is None:
        raise StreamError(f"{root}: no {candidates[0]}/ in it, so this is not {what}; {content(root)}")
    return found


def subfolders(folder: Path | None) -> tuple[str, ...]:
    """Names of the folders in a folder, in natural order; none where there is none that can be read."""
    try:
        with os.scandir(folder or "") as entries:
            names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:
        return ()
    return tuple(sorted(names, key=natural_key))


def content(folder: Path) -> str:
    """What is in a folder, in a few words, for errors."""
    try:
        names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    if not names:
        return "it is empty"
    return "it holds " + ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def keyed(folder: Path | None, *endings: str, key: Callable[[str], str] | None = None) -> dict[str, File]:
    """Files below a folder by their name without its ending, in natural order of their paths.

    Args:
        folder: Searched with everything below it; None or missing gives nothing.
        endings: What names end in, such as ``_leftImg8bit.png``; the first that fits is cut off. None given: any image.
        key: What is made of the rest; None keeps it.

    Raises:
        StreamError: Two files would have the same key.
    """
    if folder is None or not folder.is_dir():
        return {}
    found: dict[str, File] = {}
    try:
        for path in sorted(_files(folder), key=lambda path: natural_key(str(path))):
            stem = cut(path.name, endings)
            if stem is None:
                continue
            stem = stem if key is None else key(stem)
            if stem in found:
                raise StreamError(f"{folder}: {found[stem]} and {path} are both called {stem}; keep one")
            found[stem] = path
    except OSError as error:
        raise StreamError(f"{folder}: cannot be read: {error.strerror or error}") from None
    return found


def cut(name: str, endings: Iterable[str]) -> str | None:
    """A name without the first ending that fits; without its suffix where any image will do; None where none fits."""
    endings = tuple(endings)
    if not endings:
        stem, dot, suffix = name.rpartition(".")
        return stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else None
    return next((name[: -len(ending)] for ending in endings if name.endswith(ending) and len(name) > len(ending)), None)


def lone_labels(images: Mapping[str, File], labels: Mapping[str, File]) -> tuple[str, ...]:
    """A note on labels that no image has, for reports; empty where there is none."""
    lone = [file for key, file in labels.items() if key not in images]
    return (f"{len(lone)} label(s) have no image, such as {lone[0]}",) if lone else ()


def _files(folder: Path) -> list[Path]:
    found: list[Path] = []
    seen: set[str] = set()  # links may lead in a circle
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return found
