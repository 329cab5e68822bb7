"""Where labelled source images come from: the built-in town or a labelled folder, split into seen and unseen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from online_uda.errors import UserError
from streams.classes import CITYSCAPES_19, CLASS_SETS, find_classes
from streams.datasets import DatasetImages, looks_like_spec, parse_spec
from streams.errors import StreamError
from streams.frame import ClassSet, LabelledImage, LabelledSet

TOWN = "town"
_HELD_OUT = 0.1


@dataclass(frozen=True)
class Span:
    """Images ``first`` to ``last - 1`` of a labelled set, itself a `LabelledSet`."""

    images: LabelledSet
    first: int
    last: int

    @property
    def classes(self) -> ClassSet:
        return self.images.classes

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> LabelledImage:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.images[self.first + index]


def spread(count: int, most: int) -> list[int]:
    """Up to ``most`` of the indices below ``count``, evenly spread."""
    taken = min(count, most)
    return [index * count // taken for index in range(taken)]


def class_set(name: str | None) -> ClassSet:
    """The class set ``name``; Cityscapes' 19 classes when it is None.

    Raises:
        UserError: For an unknown name.
    """
    if name is None:
        return CITYSCAPES_19
    try:
        return find_classes(name)
    except StreamError as error:
        raise UserError(f"--classes {name}: {error}; known are {', '.join(sorted(CLASS_SETS))}") from None


def open_source(
    data: str, classes: str | None, size: tuple[int, int], images: int, val_images: int
) -> tuple[LabelledSet, LabelledSet]:
    """Opens training and validation images.

    Args:
        data: ``town``; ``NAME=DIR`` of a data set, which is validated on its own validation part where it has one; or a
            folder with ``images/`` and ``labels/``. Without validation part the last tenth is held out.
        classes: Name of the class set of the labels; None is Cityscapes' 19 classes.
        size: Height and width of the images.
        images: Training images wanted; a folder may hold fewer or more.
        val_images: Validation images wanted, likewise.

    Raises:
        UserError: For an unknown class set, or a folder that cannot be split.
        StreamError: For a folder that is missing, empty, or inconsistent.
    """
    names = class_set(classes)
    if data == TOWN:
        from streams.city import TownImages

        train, val = TownImages("train", length=images, size=size), TownImages("val", length=val_images, size=size)
        if names != train.classes:
            raise UserError(f"--classes {names.name}: the town is labelled with {train.classes.name}; leave it out")
        return train, val
    folder: LabelledSet
    if looks_like_spec(data):
        settings = parse_spec(data)
        part, held_out = (settings, None) if "split" in settings.model_fields_set else settings.for_training()
        folder = DatasetImages(part.scan(), names, size)
        if held_out is not None:
            return folder, DatasetImages(held_out.scan(), names, size)
    else:
        from streams.sources.folder import FolderImages

        folder = FolderImages(Path(data), names, size)
    seen = len(folder) - max(1, round(_HELD_OUT * len(folder)))
    if seen < 1:
        raise UserError(f"{data}: holds {len(folder)} labelled images; training and validation need at least 2")
    return Span(folder, 0, seen), Span(folder, seen, len(folder))
