"""Foggy Cityscapes and Foggy Cityscapes-DBF (Sakaridis, Dai, Van Gool 2018): fog of three densities over Cityscapes.

Layout: ``leftImg8bit_foggy/SPLIT/CITY/NAME_leftImg8bit_foggy_beta_0.02.png`` (DBF: ``leftImg8bit_foggyDBF``), as
Cityscapes' site ships it, below ``leftImg8bit_trainvaltest_foggy`` or ``leftImg8bit_trainval_foggyDBF`` in some
copies. beta is the attenuation coefficient in 1/m: 0.005, 0.01 and 0.02 stand for about 600, 300 and 150 m of
visibility. Labels are Cityscapes' own.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator
from typing_extensions import Self

from streams.datasets.base import DatasetSettings, Listing, Sample, absolute_path
from streams.datasets.cityscapes import find_labels
from streams.datasets.trees import content, first_folder, keyed, subfolders
from streams.errors import StreamError

_ENDING = re.compile(r"_leftImg8bit_foggy_beta_([0-9.]+)\.png$")


class FoggyCityscapes(DatasetSettings):
    """Foggy Cityscapes of one density.

    Attributes:
        labels: Folder of Cityscapes, which has gtFine; None takes `root` itself.
        split: Part of the data.
        beta: Attenuation coefficient in 1/m.
        dbf: The variant that was refined with a dual-reference cross-bilateral filter.
    """

    NAME: ClassVar[str] = "foggy_cityscapes"
    TITLE: ClassVar[str] = "Foggy Cityscapes"
    WEATHER: ClassVar[str | None] = "images rendered by the authors of Foggy Cityscapes"
    FOLDERS: ClassVar[tuple[str, ...]] = ("root", "labels")
    PARTS: ClassVar[tuple[str, ...]] = ("split", "beta")

    labels: Path | None = None
    split: Literal["train", "val", "test"] = "val"
    beta: float = Field(0.02, gt=0)
    dbf: bool = False

    @field_validator("labels")
    @classmethod
    def _resolve_labels(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return absolute_path(path, info)

    def _images(self) -> Path | None:
        assert self.root is not None
        kind = "foggyDBF" if self.dbf else "foggy"
        name = f"leftImg8bit_{kind}"
        wrapped = (f"leftImg8bit_{splits}_{kind}/{name}" for splits in ("trainvaltest", "trainval"))
        return first_folder(self.root, name, *wrapped)

    def scan(self) -> Listing:
        base, folder = self.base, self._images()
        if folder is None:
            raise StreamError(f"{base}: no leftImg8bit_foggy/ in it, so this is not {self.TITLE}; {content(base)}")
        if not (folder / self.split).is_dir():
            raise StreamError(f"{folder / self.split}: no such split; it has {', '.join(subfolders(folder))}")
        images = keyed(folder / self.split, f"_leftImg8bit_foggy_beta_{self.beta:g}.png")
        if not images:
            there = ", ".join(f"{beta:g}" for beta in self._betas(folder / self.split)) or "none"
            raise StreamError(f"{folder / self.split}: no images of beta {self.beta:g}; it has {there}")
        truth, form = find_labels(self.labels or base, self.split)
        has_truth = bool(truth) and self.split != "test"
        samples = tuple(Sample(name, file, truth.get(name) if has_truth else None) for name, file in images.items())
        notes = () if truth else ("no labels: give labels=DIR, the folder of Cityscapes with gtFine",)
        return Listing(
            f"{self.NAME} {self.split} beta {self.beta:g}", base, samples, form if has_truth else None, notes=notes
        )

    @staticmethod
    def _betas(folder: Path) -> list[float]:
        names = [file.name for file in keyed(folder).values()]
        return sorted({float(match[1]) for name in names if (match := _ENDING.search(name))})

    def parts(self) -> tuple[Self, ...]:
        found = []
        for dbf in (False, True):
            variant = self.model_copy(update={"dbf": dbf})
            folder = None if self.root is None else variant._images()
            if folder is None:
                continue
            for split in ("train", "val", "test"):
                found += [
                    variant.model_copy(update={"split": split, "beta": beta}) for beta in self._betas(folder / split)
                ]
        return tuple(found)

    def for_training(self) -> tuple[Self, Self | None]:
        return self.model_copy(update={"split": "train"}), self.model_copy(update={"split": "val"})
