"""Opens the labelled source images that replay draws from: a folder, or the built-in town's training split."""

from __future__ import annotations

from pathlib import Path

from streams.classes import CITYSCAPES_19
from streams.datasets import DatasetImages, looks_like_spec
from streams.datasets.registry import training_part
from streams.errors import StreamError
from streams.frame import ClassSet, LabelledSet
from streams.sources.folder import FolderImages
from streams.sources.town import TOWN_SIZE

TOWN = "town"


def open_labelled(
    spec: str | Path | None,
    classes: ClassSet,
    size: tuple[int, int] | None = None,
    *,
    seed: int = 0,
    length: int = 512,
    split: str = "train",
) -> LabelledSet:
    """The labelled source set that `spec` names.

    Args:
        spec: Folder with ``images/`` and ``labels/``; ``NAME=DIR`` of a data set (its training part, unless a key
            says otherwise); ``town`` or None for the built-in town.
        classes: Class set that the ids must be of.
        size: Height and width of images and labels; None: a folder's own, the town's 256 x 512.
        seed: Chooses the town's streets; a folder has none to choose.
        length: Images of the town; a folder is taken whole.
        split: Split of the town, ``train`` or ``val``; ``stream`` is what streams drive through.

    Raises:
        StreamError: Missing or faulty folder, or the town asked for labels it does not have.
    """
    if spec is not None and looks_like_spec(str(spec)):
        return DatasetImages(training_part(str(spec)).scan(), classes, size)
    if spec is not None and str(spec) != TOWN:
        return FolderImages(Path(spec).expanduser(), classes, size)
    if classes.name != CITYSCAPES_19.name:
        raise StreamError(
            f"the built-in town is labelled in {CITYSCAPES_19.name}, not {classes.name}; "
            f"give --source DIR, a folder with images/ and labels/"
        )
    from streams.city import TownImages  # compiled code: only where there is a town

    return TownImages(split, seed, length, size or TOWN_SIZE)
