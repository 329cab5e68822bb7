"""What every reader gives: samples in order, and how their labels, depth and cameras are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationInfo, field_validator
from typing_extensions import Self

from streams.classes import CLASS_SETS, find_classes
from streams.datasets.labels import LabelFormat
from streams.errors import StreamError
from streams.frame import ClassSet, Intrinsics
from streams.sources.files import File
from streams.yaml_config import ConfigModel


@dataclass(frozen=True, slots=True)
class Sample:
    """One frame of a data set.

    Attributes:
        name: Unique in its listing, such as ``frankfurt_000000_000294``.
        image: RGB image.
        label: Label file; None where there is none.
        depth: Depth or disparity file; None where there is none.
        camera: Calibration file; None where there is none.
    """

    name: str
    image: File
    label: File | None = None
    depth: File | None = None
    camera: File | None = None


@dataclass(frozen=True)
class Listing:
    """The frames that the settings of a reader choose; nothing but names has been read.

    Attributes:
        what: Short, for people: ``cityscapes val``.
        root: Folder that holds them.
        samples: In the order they are played.
        labels: How label files are read; None: the part has no labels by design.
        read_depth: Metric depth of a sample with a depth file: ``(h, w)`` float32 metres, 0 where unknown.
        read_camera: Intrinsics of a sample in pixels of its image; None where unknown.
        sparse: Only some frames have labels, and are meant to.
        notes: What a user should know, a line each.
    """

    what: str
    root: Path
    samples: tuple[Sample, ...]
    labels: LabelFormat | None = None
    read_depth: Callable[[Sample], NDArray[np.float32]] | None = None
    read_camera: Callable[[Sample], Intrinsics | None] | None = None
    sparse: bool = False
    notes: tuple[str, ...] = ()

    @property
    def labelled(self) -> tuple[Sample, ...]:
        """Samples that have a label file."""
        return tuple(sample for sample in self.samples if sample.label is not None)

    @property
    def has_depth(self) -> bool:
        """Whether there is depth for any frame."""
        return self.read_depth is not None and any(sample.depth is not None for sample in self.samples)

    def check_pairs(self) -> None:
        """Refuses a listing of which some labels are missing without design.

        Raises:
            StreamError: Names the first image without a label.
        """
        if self.labels is None or self.sparse or not self.labelled:
            return
        lone = [sample for sample in self.samples if sample.label is None]
        if lone:
            raise StreamError(
                f"{self.root}: {len(self.samples)} images and {len(self.labelled)} labels; "
                f"{len(lone)} image(s) have no label, such as {lone[0].image}"
            )


class DatasetSettings(ConfigModel, ABC):
    """Base of the readers: what a user writes in a schedule, and how it becomes a `Listing`.

    Attributes:
        NAME: Key in schedules, and in ``--data NAME=DIR``.
        TITLE: For people.
        root: Folder of the data as its authors ship it, or ``--data NAME=DIR`` gives it; absolute once loaded.
    """

    NAME: ClassVar[str]
    TITLE: ClassVar[str]
    WEATHER: ClassVar[str | None] = None
    """What made the weather that is in the images; None where they were taken in it."""
    FOLDERS: ClassVar[tuple[str, ...]] = ("root",)
    """Keys that hold folders or files."""
    PARTS: ClassVar[tuple[str, ...]] = ("split",)
    """Keys that tell parts from each other."""

    root: Path | None = None

    @field_validator("root")
    @classmethod
    def _resolve_root(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return absolute_path(path, info)

    @abstractmethod
    def scan(self) -> Listing:
        """Lists the chosen part.

        Raises:
            StreamError: The folder is missing, of another layout, or the part is not in it.
        """
        ...

    @abstractmethod
    def parts(self) -> tuple[Self, ...]:
        """The settings of every part of `root` that is there: splits, conditions, severities."""
        ...

    def for_training(self) -> tuple[Self, Self | None]:
        """The parts that a source network is trained and validated on; None: hold out a part of the first."""
        return self, None

    def words(self) -> str:
        """What tells parts apart and what is not default, as ``key=value`` texts joined by commas; no folders."""
        chosen = self.model_dump(mode="json", exclude=set(self.FOLDERS))
        fields = type(self).model_fields
        return ",".join(
            f"{key}={_word(value)}"
            for key, value in chosen.items()
            if key in self.PARTS or value != fields[key].default
        )

    @property
    def base(self) -> Path:
        """`root`, which a schedule may leave to ``--data``.

        Raises:
            StreamError: It was not given, or there is no such folder.
        """
        if self.root is None:
            raise StreamError(f"where is the data? give --data {self.NAME}=DIR, or write 'root: DIR' in the schedule")
        check_folder(self.root)
        return self.root


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def absolute_path(path: Path | None, info: ValidationInfo) -> Path | None:
    """A path of a schedule, which starts from the schedule's folder."""
    if path is None:
        return None
    with suppress(RuntimeError):  # ~name of nobody on this machine: then it is a folder's own name
        path = path.expanduser()
    return Path((info.context or {}).get("base", ".")).absolute() / path


def checked_classes(name: str | None, info: ValidationInfo) -> str | None:
    """A class set that a schedule names; the path of a YAML file starts from the schedule's folder.

    Raises:
        ValueError: There is none of this name.
    """
    if name is None or name in CLASS_SETS:
        return name
    base = Path((info.context or {}).get("base", "."))
    try:
        find_classes(name, base)
    except StreamError as error:
        raise ValueError(str(error)) from None
    return str((base / Path(name).expanduser()).absolute())


def named_classes(name: str | None) -> ClassSet | None:
    """The class set of a checked name; None stays None."""
    return None if name is None else find_classes(name)


def check_folder(path: Path) -> None:
    """Refuses what is no folder.

    Raises:
        StreamError: With what it is in place of one.
    """
    try:
        if not path.exists():
            raise StreamError(f"{path}: no such folder")
        if not path.is_dir():
            raise StreamError(f"{path}: is a file; give the folder of the data set")
    except OSError as error:
        raise StreamError(f"{path}: cannot be read: {error.strerror or error}") from None


def counted(parts: Mapping[str, int]) -> str:
    """``train 2975, val 500`` for people; ``nothing`` where there is none."""
    return ", ".join(f"{name} {count}" for name, count in parts.items()) or "nothing"
