"""Dark Zurich (Sakaridis, Dai, Van Gool 2019): day, twilight and night; labels for 50 night images of val.

Layout: ``rgb_anon/train/{day,twilight,night}/SEQUENCE/NAME_rgb_anon.png``, ``rgb_anon/val/night/...`` and
``gt/val/night/SEQUENCE/NAME_gt_labelTrainIds.png``; reference images of val in ``rgb_anon/val_ref/day`` end in
``_rgb_ref_anon.png``. The archives Dark_Zurich_train_anon.zip and Dark_Zurich_val_anon.zip may stay folders of their
own below one root. Taken from public readers; not seen on real data.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from typing_extensions import Self

from streams.classes import CITYSCAPES_19, CITYSCAPES_IDS
from streams.datasets.base import DatasetSettings, Listing, Sample
from streams.datasets.labels import LabelFormat
from streams.datasets.trees import content, keyed, lone_labels, subfolders
from streams.errors import StreamError

TIMES = ("day", "twilight", "night")
_PLACES = (".", "Dark_Zurich_train_anon", "Dark_Zurich_val_anon", "Dark_Zurich_test_anon")


class DarkZurich(DatasetSettings):
    """Dark Zurich.

    Attributes:
        time: ``day``, ``twilight`` or ``night``; ``val`` and ``test`` have night alone.
        split: ``train`` (no labels), ``val`` (50 labelled images) or ``test`` (no public labels).
        sequence: One recording alone, such as ``GOPR0356``.
    """

    NAME: ClassVar[str] = "dark_zurich"
    TITLE: ClassVar[str] = "Dark Zurich"
    PARTS: ClassVar[tuple[str, ...]] = ("split", "time")

    time: Literal["day", "twilight", "night"] = "night"
    split: Literal["train", "val", "test"] = "val"
    sequence: str | None = None

    def scan(self) -> Listing:
        base = self.base
        if not self._roots(base):
            raise StreamError(f"{base}: no rgb_anon/ in it, so this is not {self.TITLE}; {content(base)}")
        folders = [place / "rgb_anon" / self.split / self.time for place in self._roots(base)]
        folder = next((folder for folder in folders if folder.is_dir()), None)
        if folder is None:
            there = ", ".join(f"{part.split}/{part.time}" for part in self.parts()) or "nothing"
            raise StreamError(f"{folders[0]}: no such folder; there is {there}")
        images = keyed(folder / self.sequence if self.sequence else folder, "_rgb_anon.png")
        if not images:
            raise StreamError(f"{folder}: no *_rgb_anon.png{f' of {self.sequence}' if self.sequence else ''} in it")
        truth = folder.parents[2] / "gt" / self.split / self.time
        labels = keyed(truth, "_gt_labelTrainIds.png")
        form = LabelFormat(CITYSCAPES_19)
        if not labels:
            labels, form = keyed(truth, "_gt_labelIds.png"), LabelFormat(CITYSCAPES_IDS)
        samples = tuple(Sample(name, image, labels.get(name)) for name, image in images.items())
        notes = lone_labels(images, labels) if self.sequence is None else ()
        if not labels:
            notes += ("only night images of val have public labels: frames are not scored",)
        return Listing(f"{self.NAME} {self.split} {self.time}", base, samples, form if labels else None, notes=notes)

    @staticmethod
    def _roots(base: Path) -> list[Path]:
        return [base / place for place in _PLACES if (base / place / "rgb_anon").is_dir()]

    def parts(self) -> tuple[Self, ...]:
        if self.root is None or not self.root.is_dir():
            return ()
        return tuple(
            self.model_copy(update={"split": split, "time": time})
            for split in ("train", "val", "test")
            for time in TIMES
            if any(subfolders(place / "rgb_anon" / split / time) for place in self._roots(self.root))
        )
