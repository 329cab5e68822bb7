"""Images and labels by two patterns: what ``*`` stands for in an image's path finds its label.

``{images: "day/*/rgb/*.jpg", labels: "day/*/truth/*_ids.png"}``: the first star of one pattern is the first of the
other.
"""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import ClassVar

from pydantic import ValidationInfo, field_validator, model_validator
from typing_extensions import Self

from streams.datasets.base import DatasetSettings, Listing, Sample, checked_classes, named_classes
from streams.datasets.labels import LabelFormat
from streams.errors import StreamError
from streams.sources.folder import natural_key


class Globbed(DatasetSettings):
    """Frames by patterns below `root`.

    Attributes:
        images: Pattern of the images, with ``*`` (within a name) but without ``**``.
        labels: Pattern of the labels with as many stars; None: frames are not scored.
        label_classes: Class set of the ids in labels: a name or a YAML file; None: the schedule's.
    """

    NAME: ClassVar[str] = "files"
    TITLE: ClassVar[str] = "files by pattern"

    images: str = "*.png"
    labels: str | None = None
    label_classes: str | None = None

    @field_validator("label_classes")
    @classmethod
    def _check_classes(cls, name: str | None, info: ValidationInfo) -> str | None:
        return checked_classes(name, info)

    @model_validator(mode="after")
    def _stars_agree(self) -> Self:
        for pattern in filter(None, (self.images, self.labels)):
            if "**" in pattern or "?" in pattern or "[" in pattern:
                raise ValueError(f"{pattern!r}: only * is understood here")
            if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
                raise ValueError(f"{pattern!r}: patterns are below 'root'")
        if self.labels is not None and self.images.count("*") != self.labels.count("*"):
            raise ValueError(
                f"{self.images!r} has {self.images.count('*')} stars, {self.labels!r} {self.labels.count('*')}; "
                f"what a star stands for in an image finds its label"
            )
        return self

    def scan(self) -> Listing:
        images = self._found(self.images)
        if not images:
            raise StreamError(f"{self.base / self.images}: fits no file")
        labels = {} if self.labels is None else self._found(self.labels)
        if self.labels is not None and not labels:
            raise StreamError(f"{self.base / self.labels}: fits no file")
        samples = tuple(
            Sample(str(file.relative_to(self.base)), file, labels.get(stars)) for stars, file in images.items()
        )
        form = LabelFormat(named_classes(self.label_classes), first_channel=True) if labels else None
        lone = [file for stars, file in labels.items() if stars not in images]
        notes = (f"{len(lone)} label(s) have no image, such as {lone[0]}",) if lone else ()
        return Listing(f"{self.NAME} {self.images}", self.base, samples, form, notes=notes)

    def _found(self, pattern: str) -> dict[tuple[str, ...], Path]:
        expression = re.compile("([^/]*)".join(re.escape(part) for part in pattern.split("*")))
        names = sorted(glob.glob(pattern, root_dir=self.base), key=natural_key)
        return {
            match.groups(): path
            for name in names
            if (match := expression.fullmatch(name)) and (path := self.base / name).is_file()
        }

    def parts(self) -> tuple[Self, ...]:
        return ()
