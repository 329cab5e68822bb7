"""CamVid (Brostow, Fauqueur, Cipolla 2009) in the three forms it is found in.

* As the authors ship it: ``701_StillsRaw_full/NAME.png`` and ``LabeledApproved_full/NAME_L.png``, colours of 32
  classes (label_colors.txt); also as ``{train,val,test}/`` beside ``{train,val,test}_labels/``.
* SegNet's tutorial: ``{train,val,test}/NAME.png`` and ``{train,val,test}annot/NAME.png``, ids 0 to 10 and 11 = void.
* fast.ai: ``images/NAME.png`` and ``labels/NAME_P.png``, ids 0 to 31 in the order of codes.txt (30 = Void).

Which of them a folder is, its names tell. Sequences are the beginnings of names: 0001TP (dusk), 0006R0, 0016E5,
Seq05VD.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from typing_extensions import Self

from streams.classes import CAMVID_11, CAMVID_32
from streams.datasets.base import DatasetSettings, Listing, Sample
from streams.datasets.labels import LabelFormat
from streams.datasets.trees import content, first_folder, keyed, lone_labels
from streams.errors import StreamError
from streams.sources.files import File
from streams.sources.images import read_ids

_SPLITS = ("train", "val", "test")
_RAW_ID_OF = tuple(index for index in range(32) if index != 30)
COLOURS = (*zip(CAMVID_32.palette, _RAW_ID_OF, strict=True), ((0, 0, 0), 30))
"""Colour and id of the 32 classes, Void among them."""


class CamVid(DatasetSettings):
    """CamVid.

    Attributes:
        split: ``train``, ``val``, ``test`` where the folder has them; ``all`` takes everything.
        sequence: Beginning of names, such as ``0001TP``; None takes all.
    """

    NAME: ClassVar[str] = "camvid"
    TITLE: ClassVar[str] = "CamVid"

    split: Literal["train", "val", "test", "all"] = "all"
    sequence: str | None = None

    def scan(self) -> Listing:
        splits = self._splits(self.base)
        if not splits:
            raise StreamError(
                f"{self.base}: no 701_StillsRaw_full/, train/ or images/ in it, so this is not {self.TITLE}; "
                f"{content(self.base)}"
            )
        chosen = splits if self.split == "all" else {self.split: splits[self.split]} if self.split in splits else {}
        if not chosen:
            raise StreamError(f"{self.base}: no split {self.split!r}; it has {', '.join(splits)}")
        samples: list[Sample] = []
        notes: tuple[str, ...] = ()
        for images_in, labels_in in chosen.values():
            images = {name: file for name, file in keyed(images_in).items() if name.startswith(self.sequence or "")}
            labels = keyed(labels_in, "_L.png", "_P.png", ".png")
            samples += [Sample(name, image, labels.get(name)) for name, image in images.items()]
            notes += lone_labels(images, labels) if self.sequence is None else ()
        if not samples:
            raise StreamError(f"{self.base}: no images{f' of {self.sequence}' if self.sequence else ''} in it")
        what = " ".join(filter(None, (self.NAME, self.split, self.sequence)))
        first = next((sample.label for sample in samples if sample.label is not None), None)
        return Listing(what, self.base, tuple(samples), None if first is None else _format(first), notes=notes)

    @staticmethod
    def _splits(root: Path) -> dict[str, tuple[Path, Path | None]]:
        """Folders of images and of labels by split."""
        found = {
            split: (root / split, first_folder(root, f"{split}annot", f"{split}_labels"))
            for split in _SPLITS
            if (root / split).is_dir()
        }
        if any(labels for _, labels in found.values()):
            return dict(found)
        stills = first_folder(root, "701_StillsRaw_full")
        if stills is not None:
            return {"all": (stills, first_folder(root, "LabeledApproved_full"))}
        if (root / "images").is_dir() and any(keyed(root / "labels", "_P.png", "_L.png")):
            return {"all": (root / "images", root / "labels")}
        return {}

    def parts(self) -> tuple[Self, ...]:
        splits = {} if self.root is None or not self.root.is_dir() else self._splits(self.root)
        return tuple(self.model_copy(update={"split": split}) for split in splits)

    def for_training(self) -> tuple[Self, Self | None]:
        if self.root is None or "train" not in self._splits(self.root) or self.split != "all":
            return self, None
        val = self.model_copy(update={"split": "val"}) if "val" in self._splits(self.root) else None
        return self.model_copy(update={"split": "train"}), val


def _format(label: File) -> LabelFormat:
    """From the first label: colours, ids of fast.ai (its names end in ``_P``), else ids of SegNet's 11 classes."""
    if read_ids(label).ndim == 3:
        return LabelFormat(CAMVID_32, colours=COLOURS)
    return LabelFormat(CAMVID_32 if label.stem.endswith(("_P", "_L")) else CAMVID_11)
