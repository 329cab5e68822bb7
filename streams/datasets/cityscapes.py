"""Cityscapes (Cordts et al. 2016): leftImg8bit, gtFine or gtCoarse, disparity, camera.

Layout of the authors (README of cityscapesScripts): ``ROOT/TYPE/SPLIT/CITY/CITY_SEQ_FRAME_TYPE.EXT``; archives are
unpacked into one folder. A pixel p > 0 of ``disparity`` stands for (p - 1) / 256 pixels of disparity; 0 is no
measurement. Without camera files the calibration of most training cities stands in: baseline 0.209313 m, focal
lengths 2262.52 and 2265.30 pixels, principal point (1096.98, 513.137).
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from streams.classes import CITYSCAPES_19, CITYSCAPES_IDS
from streams.datasets.base import DatasetSettings, Listing, Sample
from streams.datasets.depth import depth_file, disparity_to_depth
from streams.datasets.labels import LabelFormat
from streams.datasets.trees import keyed, lone_labels, require_folder, subfolders
from streams.errors import StreamError
from streams.frame import Intrinsics
from streams.sources.files import File, read_bytes

BASELINE_M = 0.209313
CAMERA = Intrinsics(fx=2262.52, fy=2265.3017905988554, cx=1096.98, cy=513.137)

_SPLITS = ("train", "val", "test", "train_extra", "demoVideo")
_NO_TRUTH = "the annotations of test are not public: its label files hold the car and the borders alone"


class Cityscapes(DatasetSettings):
    """Cityscapes as unpacked.

    Attributes:
        split: Part of the data; ``test`` has no public labels.
        labels: ``fine`` (gtFine) or ``coarse`` (gtCoarse, all there is for train_extra).
        sequence: The 30-frame snippets (leftImg8bit_sequence), of which one frame in 30 has a label.
        city: One city alone.
    """

    NAME: ClassVar[str] = "cityscapes"
    TITLE: ClassVar[str] = "Cityscapes"

    split: Literal["train", "val", "test", "train_extra", "demoVideo"] = "val"
    labels: Literal["fine", "coarse"] = "fine"
    sequence: bool = False
    city: str | None = None

    @property
    def _type(self) -> str:
        return "leftImg8bit_sequence" if self.sequence else "leftImg8bit"

    def scan(self) -> Listing:
        folder = require_folder(self.base, self.TITLE, self._type) / self.split
        if not folder.is_dir():
            raise StreamError(f"{folder}: no such split; {self._type}/ has {', '.join(subfolders(folder.parent))}")
        images = keyed(self._within(folder), "_leftImg8bit.png")
        if not images:
            raise StreamError(f"{folder}: no *_leftImg8bit.png{f' of {self.city}' if self.city else ''} in it")
        labels, form = find_labels(self.base, self.split, self.labels)
        has_truth = bool(labels) and self.split != "test"
        kind = "_sequence" if self.sequence else ""
        depths = keyed(self.base / f"disparity{kind}" / self.split, "_disparity.png")
        cameras = keyed(self.base / f"camera{kind}" / self.split, "_camera.json") or keyed(
            self.base / "camera" / self.split, "_camera.json"
        )
        samples = tuple(
            Sample(name, image, labels.get(name) if has_truth else None, depths.get(name), cameras.get(name))
            for name, image in images.items()
        )
        notes: tuple[str, ...] = (_NO_TRUTH,) if self.split == "test" else ()
        if not labels:
            notes += (f"no {'gtFine' if self.labels == 'fine' else 'gtCoarse'}/{self.split}: frames are not scored",)
        if depths and not cameras:
            notes += (f"no camera/ in it: depth takes the usual calibration (baseline {BASELINE_M} m)",)
        if has_truth and not self.sequence and self.city is None:
            notes += lone_labels(images, labels)
        return Listing(
            f"{self.NAME} {self.split}", self.base, samples, form if has_truth else None,
            read_depth if depths else None, partial(_camera_of), self.sequence, notes,
        )  # fmt: skip

    def _within(self, folder: Path) -> Path:
        return folder if self.city is None else folder / self.city

    def parts(self) -> tuple[Self, ...]:
        if self.root is None or not any(
            (self.root / kind).is_dir() for kind in ("leftImg8bit", "leftImg8bit_sequence")
        ):
            return ()
        found = [
            self.model_copy(update={"split": split, "sequence": sequence})
            for sequence, kind in ((False, "leftImg8bit"), (True, "leftImg8bit_sequence"))
            for split in _SPLITS
            if any(keyed(self.root / kind / split, "_leftImg8bit.png"))
        ]
        return tuple(part.model_copy(update={"labels": "coarse"}) if part._only_coarse() else part for part in found)

    def _only_coarse(self) -> bool:
        assert self.root is not None
        return not (self.root / "gtFine" / self.split).is_dir() and (self.root / "gtCoarse" / self.split).is_dir()

    def for_training(self) -> tuple[Self, Self | None]:
        return self.model_copy(update={"split": "train"}), self.model_copy(update={"split": "val"})


def find_labels(root: Path, split: str, kind: str = "fine") -> tuple[dict[str, File], LabelFormat]:
    """Label files by the name of their frame, and how to read them: label ids as shipped, else train ids."""
    folder = root / ("gtFine" if kind == "fine" else "gtCoarse") / split
    ids = keyed(folder, f"_{folder.parent.name}_labelIds.png")
    if ids:
        return ids, LabelFormat(CITYSCAPES_IDS)
    return keyed(folder, f"_{folder.parent.name}_labelTrainIds.png"), LabelFormat(CITYSCAPES_19)


def read_depth(sample: Sample) -> NDArray[np.float32]:
    """Metric depth from disparity and camera.

    Raises:
        StreamError: One of the files is damaged; names it.
    """
    camera, baseline_m = calibration(sample.camera)
    return disparity_to_depth(depth_file(sample), baseline_m, camera.fx)


def calibration(file: File | None) -> tuple[Intrinsics, float]:
    """Intrinsics and baseline of a camera file; the usual ones without a file.

    Raises:
        StreamError: The file is damaged, or a number is missing.
    """
    if file is None:
        return CAMERA, BASELINE_M
    try:
        data = json.loads(read_bytes(file))
        inside, outside = data["intrinsic"], data["extrinsic"]
        camera = Intrinsics(*(float(inside[key]) for key in ("fx", "fy", "u0", "v0")))
        baseline_m = float(outside["baseline"])
    except StreamError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StreamError(
            f"{file}: not a camera file of Cityscapes: {error!r}; unpack camera_trainvaltest.zip"
        ) from None
    if not (camera.fx > 0 and camera.fy > 0 and baseline_m > 0):
        raise StreamError(
            f"{file}: focal lengths and baseline must be above 0, got {camera.fx}, {camera.fy}, {baseline_m}"
        )
    return camera, baseline_m


def _camera_of(sample: Sample) -> Intrinsics | None:
    return calibration(sample.camera)[0]
