"""What was found out about data once, kept for the next time: arrays by a signature of what they came from.

The folder is ``.online_uda`` in the data where that can be written, else ``$XDG_CACHE_HOME/online_uda``
(``~/.cache``). A file is whole or not there: it is written beside and moved into place. One that cannot be read
counts as missing.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = ".online_uda"


def cache_folder(root: Path) -> Path:
    """Where things about the data in `root` are kept; made when something is stored."""
    beside = root / FOLDER
    if os.access(beside if beside.is_dir() else root, os.W_OK):
        return beside
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "online_uda" / signature([str(root.absolute())])


def signature(parts: Iterable[object]) -> str:
    """A short name for a sequence of things, by their text."""
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        digest.update(f"{part}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def load(root: Path, name: str, *keys: str) -> dict[str, NDArray[Any]] | None:
    """The arrays stored under a name, or those of `keys` that are there; None where there are none that can be read."""
    try:
        with np.load(cache_folder(root) / f"{name}.npz", allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files if not keys or key in keys}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def store(root: Path, name: str, **arrays: NDArray[Any]) -> bool:
    """Stores arrays under a name; False where a disk that is full or closed to writing does not take them."""
    target = cache_folder(root) / f"{name}.npz"
    with suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=target.parent, suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
            os.replace(partial, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(partial)
            raise
        return True
    return False
