"""A plain folder (`streams.sources.folder`) as a listing, so that it can be looked at like the data sets."""

from __future__ import annotations

from typing import ClassVar

from typing_extensions import Self

from streams.datasets.base import DatasetSettings, Listing, Sample
from streams.datasets.labels import LabelFormat
from streams.errors import StreamError
from streams.sources.folder import scan_folder


class PlainFolder(DatasetSettings):
    """``images/`` beside optional ``labels/`` with equal stems, or images alone; schedules know it as ``folder``."""

    NAME: ClassVar[str] = "folder"
    TITLE: ClassVar[str] = "a folder of frames"

    def scan(self) -> Listing:
        files = scan_folder(self.base)
        labels = files.labels or (None,) * len(files.images)
        samples = tuple(Sample(image.stem, image, label) for image, label in zip(files.images, labels, strict=True))
        return Listing(self.NAME, self.base, samples, None if files.labels is None else LabelFormat(None))

    def parts(self) -> tuple[Self, ...]:
        try:
            self.scan()
        except StreamError:
            return ()
        return (self,)
