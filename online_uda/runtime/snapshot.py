"""Everything a run knows as one value, on disk whole or not at all.

A snapshot is a ``torch.save`` file that ``torch.load(weights_only=True)`` reads. Its name holds the next frame and the
start of the content's SHA-256 (``frame-00000120.3fa9c1d2e4b5a687.pt``), so that one rename publishes content and
checksum together.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from online_uda.errors import UserError

SNAPSHOT_SCHEMA = "online_uda.snapshot/2"
KEPT = 2
_PARTIAL = ".partial-"
_NAME = re.compile(r"frame-([0-9]{8,})\.([0-9a-f]{16})\.pt")


@dataclass(frozen=True, slots=True)
class RunState:
    """A run between two frames.

    Attributes:
        next_frame: Stream index of the frame that comes next.
        total_frames: Length of the stream; None where it has no known end.
        config_digest: `RunPlan.digest` of the run.
        network_digest: `weights_digest` of the source network.
        wall_s: Seconds the run has taken so far, over all its parts.
        method: The method's state.
        evaluator: The scorebook's state.
        latency: The latency meter's state.
        pace: What the pace of the run carries from frame to frame.
        rng: State of the process-wide random generators.
    """

    next_frame: int
    total_frames: int | None
    config_digest: str
    network_digest: str
    wall_s: float
    method: dict[str, Any]
    evaluator: dict[str, Any]
    latency: dict[str, Any]
    pace: dict[str, Any]
    rng: dict[str, Any]


class _Hashing:
    """A file to write to that hashes what passes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self._hash.update(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()

    def digest(self) -> str:
        return self._hash.hexdigest()[:16]


def write_snapshot(folder: Path, state: RunState) -> Path:
    """Writes a snapshot and removes all but the newest `KEPT`.

    The new file is on the disk before it has its name, and it has its name before an older one is removed.

    Returns:
        The new file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in folder.glob(f"{_PARTIAL}*"):  # of a run that was killed while it wrote
        left_over.unlink(missing_ok=True)
    content = {"schema": SNAPSHOT_SCHEMA, **{item.name: getattr(state, item.name) for item in fields(state)}}
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=_PARTIAL)
    try:
        with os.fdopen(handle, "wb") as file:
            hashing = _Hashing(file)
            torch.save(content, cast(BinaryIO, hashing))
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        path = folder / f"frame-{state.next_frame:08d}.{hashing.digest()}.pt"
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    with suppress(OSError):  # a file system that cannot sync a folder has renamed all the same
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    for old in snapshots(folder)[:-KEPT]:
        if old != path:
            old.unlink(missing_ok=True)
    return path


def snapshots(folder: Path) -> list[Path]:
    """Snapshot files of a folder, the one that got furthest last; half-written ones are none."""
    found = [path for path in folder.glob("frame-*.pt") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (int(path.name.split("-")[1].split(".")[0]), path.stat().st_mtime_ns))


def read_snapshot(path: Path) -> RunState:
    """Reads a snapshot without running any code in it.

    Raises:
        UserError: The file is damaged, or no snapshot of this version.
    """
    match = _NAME.fullmatch(path.name)
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
        if match is None or not digest.hexdigest().startswith(match[2]):
            raise UserError(f"{path}: damaged: its content does not have the checksum of its name")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: damaged: {' '.join(str(error).split())[:120]}") from None
    if not isinstance(content, dict) or content.pop("schema", None) != SNAPSHOT_SCHEMA:
        raise UserError(f"{path}: not a snapshot of schema {SNAPSHOT_SCHEMA}; resume with the version that wrote it")
    return RunState(**content)


def latest_state(folder: Path) -> RunState | None:
    """State of the snapshot that got furthest; a damaged one is named on stderr and the one before it taken.

    Returns:
        None where there is no snapshot yet.

    Raises:
        UserError: There are snapshots, and all are damaged.
    """
    found = snapshots(folder)
    problems = []
    for path in reversed(found):
        try:
            return read_snapshot(path)
        except UserError as error:
            problems.append(str(error))
            print(f"warning: {error}; trying the snapshot before it", file=sys.stderr)
    if problems:
        raise UserError(f"{folder}: no snapshot can be read: {'; '.join(problems)}")
    return None


def weights_digest(network: torch.nn.Module) -> str:
    """SHA-256 over names and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
