"""ACDC (Sakaridis, Dai, Van Gool 2021): fog, night, rain and snow, each with a reference image in clear weather.

Layout: ``rgb_anon/CONDITION/SPLIT/SEQUENCE/NAME_rgb_anon.png`` with reference images in ``SPLIT_ref`` as
``NAME_rgb_ref_anon.png``, and ``gt/CONDITION/SPLIT/SEQUENCE/NAME_gt_labelTrainIds.png`` (also ``_gt_labelIds.png``),
from rgb_anon_trainvaltest.zip and gt_trainval.zip; some copies keep the names of the archives as folders. Labels of
reference images (added in 2024 for 1503 of them) are taken from ``gt/CONDITION/SPLIT_ref``; their names were not seen
on real data.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from typing_extensions import Self

from streams.classes import CITYSCAPES_19, CITYSCAPES_IDS
from streams.datasets.base import DatasetSettings, Listing, Sample
from streams.datasets.labels import LabelFormat
from streams.datasets.trees import first_folder, keyed, lone_labels, require_folder, subfolders
from streams.errors import StreamError

CONDITIONS = ("fog", "night", "rain", "snow")
"""In the order of CoTTA's rounds."""

Condition = Literal["fog", "night", "rain", "snow"]


class Acdc(DatasetSettings):
    """ACDC.

    Attributes:
        condition: One of the four; None plays them one after the other.
        split: Part of the data; ``test`` has no public labels.
        reference: The images of the same places in clear weather.
        sequence: One recording alone, such as ``GOPR0475``.
    """

    NAME: ClassVar[str] = "acdc"
    TITLE: ClassVar[str] = "ACDC"

    condition: Condition | None = None
    split: Literal["train", "val", "test"] = "train"
    reference: bool = False
    sequence: str | None = None

    def scan(self) -> Listing:
        rgb = require_folder(self.base, self.TITLE, "rgb_anon", "rgb_anon_trainvaltest/rgb_anon")
        truth = first_folder(self.base, "gt", "gt_trainval/gt")
        split = f"{self.split}_ref" if self.reference else self.split
        kind = "rgb_ref_anon" if self.reference else "rgb_anon"
        samples: list[Sample] = []
        notes: tuple[str, ...] = ()
        form = LabelFormat(CITYSCAPES_19)
        for condition in CONDITIONS if self.condition is None else (self.condition,):
            folder = rgb / condition / split
            if not folder.is_dir():
                raise StreamError(f"{folder}: no such folder; {rgb}/ has {', '.join(_there(rgb)) or 'no condition'}")
            images = keyed(folder / self.sequence if self.sequence else folder, f"_{kind}.png")
            if not images:
                raise StreamError(f"{folder}: no *_{kind}.png{f' of {self.sequence}' if self.sequence else ''} in it")
            place = None if truth is None else truth / condition / split
            labels = keyed(place, "_gt_labelTrainIds.png", "_gt_ref_labelTrainIds.png")
            if not labels and (labels := keyed(place, "_gt_labelIds.png", "_gt_ref_labelIds.png")):
                form = LabelFormat(CITYSCAPES_IDS)
            samples += [Sample(name, image, labels.get(name)) for name, image in images.items()]
            notes += lone_labels(images, labels) if self.sequence is None else ()
        if self.split == "test":
            notes += ("the annotations of test are not public",)
        elif truth is None:
            notes += ("no gt/ in it: unpack gt_trainval.zip for labels",)
        labelled = any(sample.label for sample in samples)
        what = f"{self.NAME} {self.condition or 'all conditions'} {split}"
        return Listing(what, self.base, tuple(samples), form if labelled else None, sparse=self.reference, notes=notes)

    def parts(self) -> tuple[Self, ...]:
        rgb = None if self.root is None else first_folder(self.root, "rgb_anon", "rgb_anon_trainvaltest/rgb_anon")
        if rgb is None or not set(CONDITIONS) & set(subfolders(rgb)):
            return ()
        return tuple(
            self.model_copy(update={"condition": condition, "split": split, "reference": reference})
            for reference in (False, True)
            for condition in CONDITIONS
            for split in ("train", "val", "test")
            if subfolders(rgb / condition / (f"{split}_ref" if reference else split))
        )

    def for_training(self) -> tuple[Self, Self | None]:
        return self.model_copy(update={"split": "train"}), self.model_copy(update={"split": "val"})


def _there(rgb: Path) -> list[str]:
    return [f"{condition}/{split}" for condition in subfolders(rgb) for split in subfolders(rgb / condition)]
