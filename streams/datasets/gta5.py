"""GTA5, "Playing for Data" (Richter et al. 2016): 24 966 frames of a game with Cityscapes' classes.

Layout: ``images/00001.png`` and ``labels/00001.png``, unpacked from ten archives each into one folder. Label files
are palette images of Cityscapes' label ids; copies that were opened and saved hold the colours. By colour a group of
poles cannot be told from a pole, nor a licence plate from a car. Some labels are one size, their images another:
these are refused by name. The split of ``split.mat`` is not read; the field trains on all frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from typing_extensions import Self

from streams.classes import GTA_19
from streams.datasets.base import DatasetSettings, Listing, Sample
from streams.datasets.labels import Colour, LabelFormat
from streams.datasets.trees import content, keyed, lone_labels
from streams.errors import StreamError

COLOURS: tuple[tuple[Colour, int], ...] = (
    ((0, 0, 0), 0), ((111, 74, 0), 5), ((81, 0, 81), 6), ((128, 64, 128), 7), ((244, 35, 232), 8), ((250, 170, 160), 9),
    ((230, 150, 140), 10), ((70, 70, 70), 11), ((102, 102, 156), 12), ((190, 153, 153), 13), ((180, 165, 180), 14),
    ((150, 100, 100), 15), ((150, 120, 90), 16), ((153, 153, 153), 17), ((250, 170, 30), 19), ((220, 220, 0), 20),
    ((107, 142, 35), 21), ((152, 251, 152), 22), ((70, 130, 180), 23), ((220, 20, 60), 24), ((255, 0, 0), 25),
    ((0, 0, 142), 26), ((0, 0, 70), 27), ((0, 60, 100), 28), ((0, 0, 90), 29), ((0, 0, 110), 30), ((0, 80, 100), 31),
    ((0, 0, 230), 32), ((119, 11, 32), 33),
)  # fmt: skip
"""Colours of cityscapesScripts' labels.py and the label ids that they stand for."""


class Gta5(DatasetSettings):
    """GTA5, all frames."""

    NAME: ClassVar[str] = "gta5"
    TITLE: ClassVar[str] = "GTA5"

    def scan(self) -> Listing:
        images, labels = keyed(self.base / "images", ".png"), keyed(self.base / "labels", ".png")
        if not images:
            raise StreamError(
                f"{self.base}: no images/ with PNG files in it, so this is not GTA5; {content(self.base)}"
            )
        samples = tuple(Sample(name, image, labels.get(name)) for name, image in images.items())
        form = LabelFormat(GTA_19, colours=COLOURS) if labels else None
        return Listing(self.NAME, self.base, samples, form, notes=lone_labels(images, labels))

    def parts(self) -> tuple[Self, ...]:
        return (self,) if self.root is not None and _names_are_numbers(self.root) else ()


def _names_are_numbers(root: Path) -> bool:
    """Whether images/ and labels/ are there and all their names are five digits: other data has such folders too."""
    names = [path.stem for kind in ("images", "labels") for path in keyed(root / kind, ".png").values()]
    return bool(names) and (root / "labels").is_dir() and all(len(name) == 5 and name.isdecimal() for name in names)
