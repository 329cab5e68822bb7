"""Rain and fog of known strength over Cityscapes, by Inria (Halder, Lalonde, de Charette, ICCV 2019).

Layout: ``weather_datasets/weather_cityscapes/leftImg8bit/SPLIT/rain/25mm/rainy_image/CITY/NAME_leftImg8bit.png``; fog
stands in ``SPLIT/fog/750m/``. Known from the paths in public configurations (HAMLET, OnDA and others) and from the
output of the authors' renderer; whether fog has a folder of its own below ``750m`` and whether city folders are kept
differs between copies, so that anything below ``25mm`` or ``750m`` is taken, except masks. Labels are Cityscapes'
own: they come from ``labels`` or from beside the images.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator
from typing_extensions import Self

from streams.datasets.base import DatasetSettings, Listing, Sample, absolute_path, check_folder
from streams.datasets.cityscapes import find_labels
from streams.datasets.labels import LabelFormat
from streams.datasets.trees import content, first_folder, keyed, subfolders
from streams.errors import StreamError
from streams.sources.files import File

_PLACES = (".", "weather_cityscapes", "weather_datasets/weather_cityscapes", "weather_datasets")
_UNITS = {"rain": "mm", "fog": "m"}
_PICTURES = {"rain": ("rainy_image",), "fog": ("foggy_image", "fog_image")}


class WeatherCityscapes(DatasetSettings):
    """Inria's rain and fog over Cityscapes; one of ``rain`` and ``fog`` is given.

    Attributes:
        labels: Folder of Cityscapes, which has gtFine; None looks beside and around `root`.
        split: Part of the data.
        rain: Rate in mm/h: 25, 50, 75, 100, 200 and others.
        fog: Visibility in metres: 750, 375, 150, 75 and others.
    """

    NAME: ClassVar[str] = "weather_cityscapes"
    TITLE: ClassVar[str] = "Inria's weather over Cityscapes"
    WEATHER: ClassVar[str | None] = "images rendered by Inria"
    FOLDERS: ClassVar[tuple[str, ...]] = ("root", "labels")

    labels: Path | None = None
    split: Literal["train", "val", "test"] = "val"
    rain: float | None = Field(None, gt=0)
    fog: float | None = Field(None, gt=0)

    @field_validator("labels")
    @classmethod
    def _resolve_labels(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return absolute_path(path, info)

    @model_validator(mode="after")
    def _one_weather(self) -> Self:
        if self.rain is not None and self.fog is not None:
            raise ValueError("give rain (mm/h) or fog (m of visibility), not both")
        return self

    def scan(self) -> Listing:
        images_in = self._images()
        if self.rain is None and self.fog is None:
            raise StreamError(f"{self.base}: which weather? give rain (mm/h) or fog (m); {self._offer()}")
        event = "rain" if self.rain is not None else "fog"
        strength = self.rain if self.rain is not None else self.fog
        folder = images_in / self.split / event / f"{strength:g}{_UNITS[event]}"
        if not folder.is_dir():
            raise StreamError(f"{folder}: no such folder; {self._offer()}")
        pictures = first_folder(folder, *_PICTURES[event]) or folder
        images = {
            name: file
            for name, file in keyed(pictures, "_leftImg8bit.png", ".png").items()
            if not any("mask" in part for part in Path(str(file)).relative_to(pictures).parts)
        }
        if not images:
            raise StreamError(f"{pictures}: no images in it; {content(pictures)}")
        truth, form = self._truth()
        samples = tuple(Sample(name, file, truth.get(name)) for name, file in images.items())
        notes = () if truth else ("no labels: give labels=DIR, the folder of Cityscapes with gtFine",)
        what = f"{self.NAME} {self.split} {event} {strength:g} {'mm/h' if event == 'rain' else 'm'}"
        return Listing(what, self.base, samples, form if truth else None, notes=notes)

    def _truth(self) -> tuple[dict[str, File], LabelFormat]:
        if self.labels is not None:
            check_folder(self.labels)
            truth, form = find_labels(self.labels, self.split)
            if not truth and self.split != "test":
                raise StreamError(f"{self.labels}: no gtFine/{self.split} in it; {content(self.labels)}")
            return truth, form
        for place in (self.base, self._images().parent, *self.base.parents[:2]):
            truth, form = find_labels(place, self.split)
            if truth:
                return truth, form
        return {}, find_labels(self.base, self.split)[1]

    def _images(self) -> Path:
        found = images_of(self.base)
        if found is None:
            raise StreamError(
                f"{self.base}: no leftImg8bit/SPLIT/rain or /fog in it, so this is not {self.TITLE}; "
                f"{content(self.base)}"
            )
        return found

    def _offer(self) -> str:
        there = [part for part in self.parts() if part.split == self.split]
        named = [f"{key}={value:g}" for part in there for key, value in part._weather()]
        return f"{self.split} has {', '.join(named) or 'no weather'}"

    def _weather(self) -> list[tuple[str, float]]:
        return [(key, value) for key, value in (("rain", self.rain), ("fog", self.fog)) if value is not None]

    def parts(self) -> tuple[Self, ...]:
        images = None if self.root is None else images_of(self.root)
        return () if images is None else tuple(
            self.model_copy(update={"split": split, "rain": None, "fog": None, event: float(match[1])})
            for split in ("train", "val", "test")
            for event, unit in _UNITS.items()
            for name in subfolders(images / split / event)
            if (match := re.fullmatch(rf"([0-9.]+){unit}", name))
        )  # fmt: skip

    def for_training(self) -> tuple[Self, Self | None]:
        return self.model_copy(update={"split": "train"}), self.model_copy(update={"split": "val"})


def images_of(root: Path) -> Path | None:
    """The leftImg8bit folder with rain or fog in it, where it is unpacked to; None where there is none."""
    for place in _PLACES:
        folder = root / place / "leftImg8bit"
        if any((folder / split / event).is_dir() for split in ("train", "val", "test") for event in _UNITS):
            return folder
    return None
