"""A list of frames as JSON or YAML: a list of mappings from task to file, as omnigan (ClimateGAN) writes them.

Tasks: ``x`` image, ``s`` class map, ``d`` depth, ``m`` water mask. Paths are relative to the list. Depth is ``.npy``
(float metres) or a PNG of 16 bits, times ``depth_unit_m`` (KITTI's 1/256 m by default), 0 where unknown. A mask is
black and white; with ``truth: m`` it is what frames are scored against, in class set ``water2``.
"""

from __future__ import annotations

import io
import json
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, field_validator
from typing_extensions import Self

from streams._yaml_reader import ConfigError, Reader
from streams.classes import WATER_2
from streams.datasets.base import DatasetSettings, Listing, Sample, absolute_path, checked_classes, named_classes
from streams.datasets.depth import depth_file, read_plane
from streams.datasets.labels import LabelFormat
from streams.errors import StreamError
from streams.sources.files import read_bytes
from streams.sources.images import IMAGE_SUFFIXES

TASKS = {"x": IMAGE_SUFFIXES, "s": (".png",), "d": (".png", ".npy"), "m": (".png",)}
"""What a list may name, and the suffixes that it may have."""

_MOST_BYTES = 64 * 1024 * 1024


class Listed(DatasetSettings):
    """A JSON or YAML list.

    Attributes:
        file: The list.
        truth: What frames are scored against: ``s`` or ``m``.
        label_classes: Class set of the ids in ``s``: a name or a YAML file; None: the schedule's.
        max_samples: At most so many, from the start.
        depth_unit_m: Metres of one step of a depth PNG.
    """

    NAME: ClassVar[str] = "file_list"
    TITLE: ClassVar[str] = "a list of files"
    FOLDERS: ClassVar[tuple[str, ...]] = ("root", "file")

    file: Path | None = None
    truth: Literal["s", "m"] = "s"
    label_classes: str | None = None
    max_samples: int | None = Field(None, ge=1)
    depth_unit_m: float = Field(1 / 256, gt=0)

    @field_validator("file")
    @classmethod
    def _resolve_file(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return absolute_path(path, info)

    @field_validator("label_classes")
    @classmethod
    def _check_classes(cls, name: str | None, info: ValidationInfo) -> str | None:
        return checked_classes(name, info)

    @property
    def _path(self) -> Path:
        path = self.file or self.root  # --data file_list=FILE names the list itself
        if path is None:
            raise StreamError("which list? write 'file: LIST.json', or give --data file_list=LIST.json")
        return path

    def scan(self) -> Listing:
        path = self._path
        entries = read_list(path)[: self.max_samples]
        samples = []
        for index, entry in enumerate(entries):
            files = {task: _file(path, index, task, text) for task, text in entry.items()}
            if "x" not in files:
                raise StreamError(
                    f"{path}: entry {index}: has no 'x', the image; it has {', '.join(files) or 'nothing'}"
                )
            name = f"{index:06d} {files['x'].stem}"
            samples.append(Sample(name, files["x"], files.get(self.truth), files.get("d")))
        has_truth = any(sample.label is not None for sample in samples)
        has_depth = any(sample.depth is not None for sample in samples)
        return Listing(
            f"{self.NAME} {path.name}", path.parent, tuple(samples), self._format() if has_truth else None,
            partial(read_depth, unit_m=self.depth_unit_m) if has_depth else None,
        )  # fmt: skip

    def _format(self) -> LabelFormat:
        if self.truth == "m":
            return LabelFormat(WATER_2, scale=255)
        return LabelFormat(named_classes(self.label_classes), first_channel=True)

    def parts(self) -> tuple[Self, ...]:
        path = self.file or self.root
        return (self,) if path is not None and path.is_file() and path.suffix in (".json", ".yaml", ".yml") else ()


def read_list(path: Path) -> list[dict[str, Any]]:
    """The entries of a list.

    Raises:
        StreamError: No such file, another suffix, not JSON or YAML, or no list of mappings from task to file.
    """
    if path.suffix not in (".json", ".yaml", ".yml"):
        raise StreamError(f"{path}: a list is .json, .yaml or .yml, not {path.suffix or 'a file without suffix'!r}")
    if not path.is_file():
        raise StreamError(f"{path}: no such file")
    if path.stat().st_size > _MOST_BYTES:
        raise StreamError(f"{path}: {path.stat().st_size} bytes is too long for a list of files ({_MOST_BYTES})")
    try:
        text = read_bytes(path).decode("utf-8-sig")
        data = json.loads(text) if path.suffix == ".json" else Reader(str(path), str(path)).read(text)
    except UnicodeDecodeError as error:
        raise StreamError(f"{path}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise StreamError(f"{path}: not JSON: {error}") from None
    if not isinstance(data, list) or not data:
        raise StreamError(f"{path}: expected a list of frames such as [{{x: image.png, s: label.png}}]")
    for index, entry in enumerate(data):
        if not isinstance(entry, dict):
            raise StreamError(f"{path}: entry {index}: expected files by task (x, s, d, m), got {entry!r}")
        for task, text in entry.items():
            if task not in TASKS:
                raise StreamError(f"{path}: entry {index}: unknown task {task!r}; tasks are {', '.join(TASKS)}")
            if not isinstance(text, str):
                raise StreamError(f"{path}: entry {index}: {task}: expected a path, got {text!r}")
    return data


def _file(path: Path, index: int, task: str, text: str) -> Path:
    file = path.parent / Path(text).expanduser()
    if file.suffix.lower() not in TASKS[task]:
        raise StreamError(
            f"{path}: entry {index}: {task}: {text!r} ends in {file.suffix or 'nothing'!r}; "
            f"expected {', '.join(TASKS[task])}"
        )
    if not file.is_file():
        raise StreamError(f"{path}: entry {index}: {task}: {file}: no such file")
    return file


def read_depth(sample: Sample, unit_m: float) -> NDArray[np.float32]:
    """Metres; 0 where unknown.

    Raises:
        StreamError: The file is damaged, or a ``.npy`` is no plane of numbers.
    """
    file = depth_file(sample)
    if file.suffix.lower() != ".npy":
        return (read_plane(file) * unit_m).astype(np.float32)
    try:
        depth = np.load(io.BytesIO(read_bytes(file)), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise StreamError(f"{file}: the depth cannot be read: {error}") from None
    if depth.ndim != 2 or depth.dtype.kind not in "fiu":
        raise StreamError(f"{file}: expected depth (h, w) in metres, got {depth.shape} {depth.dtype}")
    return depth.astype(np.float32)
