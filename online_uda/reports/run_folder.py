"""The folder of a run: resolved configuration, environment and summary, each written whole or not at all."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from online_uda.errors import UserError
from online_uda.evaluation.summary import json_safe


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old or the new content, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def default_folder(schedule: str, method: str, now: datetime | None = None, root: Path = Path("runs")) -> Path:
    """``runs/<schedule>-<method>-<timestamp>``, with a number behind it if that exists; schedule files by their stem.

    >>> default_folder("storms/dusk.yaml", "tent", datetime(2026, 11, 21, 8, 5, 9)).as_posix()
    'runs/dusk-tent-20261121-080509'
    """
    parts = [
        re.sub(r"[^\w.+-]+", "_", Path(name).stem if name.endswith((".yaml", ".yml")) else name)
        for name in (schedule, method)
    ]
    name = f"{parts[0]}-{parts[1]}-{now or datetime.now():%Y%m%d-%H%M%S}"
    folder, number = root / name, 1
    while folder.exists():
        number += 1
        folder = root / f"{name}-{number}"
    return folder


class RunFolder:
    """Paths and writers of a run folder. Make one with `create` or `reopen`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.environment = path / "environment.json"
        self.summary = path / "summary.json"
        self.frames = path / "frames.jsonl"
        self.tensorboard = path / "tensorboard"
        self.snapshots = path / "snapshots"

    @staticmethod
    def check_new(path: Path) -> None:
        """Look, without touching the disk, whether `create` could make this folder.

        Raises:
            UserError: The folder holds something, is a file, or its place cannot be written.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file; give --out a folder that does not exist yet")
        if path.is_dir() and _entries(path):
            raise UserError(f"{path} is not empty; choose another --out, or continue that run with --resume {path}")
        place = next(place for place in (path, *path.absolute().parents) if place.exists())
        if not place.is_dir():
            raise UserError(f"cannot make the run folder {path}: {place} is a file; choose another --out")
        if not os.access(place, os.W_OK | os.X_OK):
            raise UserError(f"cannot make the run folder {path}: {place} cannot be written; choose another --out")

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """Make a new run folder; an existing empty folder will do.

        Raises:
            UserError: As `check_new`, or the folder cannot be made after all.
        """
        path = Path(path)
        cls.check_new(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the run folder {path}: {error.strerror}; choose another --out") from error
        _check_writable(path)
        _sweep(path)
        return cls(path)

    @classmethod
    def reopen(cls, path: Path) -> RunFolder:
        """Open the folder of an earlier run to continue it.

        Raises:
            UserError: There is no run in it, or it cannot be written.
        """
        folder = cls(Path(path))
        if not folder.config.is_file():
            raise UserError(
                f"{path} is no run folder: it has no {folder.config.name}; give --resume the folder of a run"
            )
        _check_writable(folder.path)
        _sweep(folder.path)
        return folder

    def write_config(self, config: Mapping[str, Any], command: str) -> None:
        """Write the resolved configuration as YAML under a comment with the command that repeats the run."""
        body = yaml.safe_dump(json_safe(config), sort_keys=False, allow_unicode=True, width=120)
        header = "".join(
            f"# {line}\n" for line in ("Resolved configuration of one run; repeat it with", *command.splitlines())
        )
        write_atomically(self.config, header + body)

    def read_config(self) -> dict[str, Any]:
        """The configuration that `write_config` wrote.

        Raises:
            UserError: The file is not a YAML mapping.
        """
        try:
            config = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise UserError(f"{self.config} is damaged: {' '.join(str(error).split())}") from error
        if not isinstance(config, dict):
            raise UserError(f"{self.config} is damaged: expected a mapping of keys, found {type(config).__name__}")
        return config

    def write_environment(self, environment: Mapping[str, Any]) -> Path:
        """Write the environment; a resumed run keeps the first and adds ``environment-2.json`` and so on."""
        path, number = self.environment, 1
        while path.exists():
            number += 1
            path = self.environment.with_name(f"environment-{number}.json")
        _write_json(path, environment)
        return path

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json`` atomically."""
        _write_json(self.summary, summary)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(json_safe(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def _is_half_written(path: Path) -> bool:
    """Whether a file is what `write_atomically` leaves in a run folder if it is killed."""
    return re.fullmatch(r"\.(config\.yaml|environment(-[0-9]+)?\.json|summary\.json)\..*", path.name) is not None


def _sweep(path: Path) -> None:
    for left_over in filter(_is_half_written, path.iterdir()):
        left_over.unlink(missing_ok=True)


def _entries(path: Path) -> bool:
    try:
        return not all(map(_is_half_written, path.iterdir()))
    except OSError as error:
        raise UserError(f"cannot read the run folder {path}: {error.strerror}; choose another --out") from error


def _check_writable(path: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"cannot write into the run folder {path}: {error.strerror}; choose another --out") from error
