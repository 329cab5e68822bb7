"""BDD100K (Yu et al. 2020), the 10 000 images with semantic labels.

Layout: ``images/10k/SPLIT/NAME.jpg`` and ``labels/sem_seg/masks/SPLIT/NAME.png`` (bdd100k_images_10k.zip,
bdd100k_sem_seg_labels_trainval.zip), often below a folder ``bdd100k``; the first release has ``seg/images/SPLIT`` and
``seg/labels/SPLIT/NAME_train_id.png``. Ids are Cityscapes' train ids, 255 = ignore.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from typing_extensions import Self

from streams.classes import CITYSCAPES_19
from streams.datasets.base import DatasetSettings, Listing, Sample
from streams.datasets.labels import LabelFormat
from streams.datasets.trees import content, keyed, lone_labels, subfolders
from streams.errors import StreamError

_LAYOUTS = (("images/10k", "labels/sem_seg/masks"), ("seg/images", "seg/labels"))
_SPLITS = ("train", "val", "test")


class Bdd100k(DatasetSettings):
    """BDD100K's semantic segmentation.

    Attributes:
        split: Part of the data; ``test`` has no public labels.
    """

    NAME: ClassVar[str] = "bdd100k"
    TITLE: ClassVar[str] = "BDD100K"

    split: Literal["train", "val", "test"] = "val"

    def scan(self) -> Listing:
        found = self._layout(self.base)
        if found is None:
            raise StreamError(f"{self.base}: no images/10k/ in it, so this is not {self.TITLE}; {content(self.base)}")
        images_in, labels_in = found
        if not (images_in / self.split).is_dir():
            raise StreamError(f"{images_in / self.split}: no such split; it has {', '.join(subfolders(images_in))}")
        images = keyed(images_in / self.split)
        if not images:
            raise StreamError(f"{images_in / self.split}: no images in it")
        labels = keyed(labels_in / self.split, "_train_id.png", ".png")
        samples = tuple(Sample(name, image, labels.get(name)) for name, image in images.items())
        notes = lone_labels(images, labels)
        if not labels:
            notes += (f"no labels: {labels_in / self.split} is not there",)
        form = LabelFormat(CITYSCAPES_19) if labels else None
        return Listing(f"{self.NAME} {self.split}", self.base, samples, form, notes=notes)

    @staticmethod
    def _layout(root: Path) -> tuple[Path, Path] | None:
        for place in (root, root / "bdd100k"):
            for images, labels in _LAYOUTS:
                if any((place / images / split).is_dir() for split in _SPLITS):
                    return place / images, place / labels
        return None

    def parts(self) -> tuple[Self, ...]:
        found = None if self.root is None else self._layout(self.root)
        return () if found is None else tuple(
            self.model_copy(update={"split": split}) for split in _SPLITS if (found[0] / split).is_dir()
        )  # fmt: skip

    def for_training(self) -> tuple[Self, Self | None]:
        return self.model_copy(update={"split": "train"}), self.model_copy(update={"split": "val"})
