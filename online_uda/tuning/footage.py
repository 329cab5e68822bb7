"""Labelled frames that tuning streams are made of, and those that are left to be replayed: never the same ones.

The town's are drives through its validation split, which no network was trained on and no stream schedule drives
through; replayed are images of the training split, as in a run. A folder is cut into stretches of consecutive frames:
half are replayed, a quarter is searched on, a quarter is held out.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from online_uda.errors import UserError
from online_uda.tuning.conditions import ROLES, Role
from streams.frame import ClassSet, LabelledImage, LabelledSet, Scene
from streams.sources.folder import FolderImages
from streams.sources.labelled import TOWN, open_labelled
from streams.sources.town import TOWN_SIZE, TownSource

LEAST_FRAMES = 24
MOST_STRETCHES = 16
_TOWN_IMAGES = 256
_TOWN_FPS = 4.0
_FIRST_DRIVE = 10
_STRETCH_FRAMES = 12


class Footage(Protocol):
    """Clear frames in temporal order, by role, stream, visit and index.

    Attributes:
        size: Height and width of frames.
        replayed: Images that a method may replay.
        fps: Frames a second, the clock of the weather.
        speed_mps: Forward speed of the camera.
    """

    size: tuple[int, int]
    replayed: LabelledSet
    fps: float
    speed_mps: float

    def frames_of_visit(self, wanted: int) -> int:
        """How many of ``wanted`` frames a visit can have."""
        ...

    def read(self, role: Role, stream: int, visit: int, index: int) -> tuple[Scene, NDArray[np.uint8]]:
        """A clear frame and its label at the frame's size."""
        ...


class Remembered:
    """Some images of a labelled set, each read once; a method asks for all of them in every trial.

    Args:
        images: The set.
        indices: Which of its images.
    """

    def __init__(self, images: LabelledSet, indices: Sequence[int]) -> None:
        self._images, self._indices = images, tuple(indices)
        self._read: dict[int, LabelledImage] = {}

    @property
    def classes(self) -> ClassSet:
        return self._images.classes

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> LabelledImage:
        place = self._indices[index]
        if place not in self._read:
            self._read[place] = self._images[place]
        return self._read[place]


class TownFootage:
    """Drives through the town's validation split, one a stream; visits follow each other along the way.

    Args:
        classes: Class set of the network.
        size: Height and width of frames; None takes the town's own.
        seed: Of the study; drives of two studies differ.

    Raises:
        StreamError: The town is not labelled in these classes.
    """

    def __init__(self, classes: ClassSet, size: tuple[int, int] | None, seed: int) -> None:
        self.size, self.fps = size or TOWN_SIZE, _TOWN_FPS
        images = open_labelled(None, classes, self.size, seed=seed, length=_TOWN_IMAGES)
        self.replayed: LabelledSet = Remembered(images, range(_TOWN_IMAGES))
        self._seed = _FIRST_DRIVE + 64 * seed
        self._drive: tuple[int, TownSource] | None = None
        self.speed_mps = self._source(0).speed_mps

    def frames_of_visit(self, wanted: int) -> int:
        """The town has no end."""
        return wanted

    def read(self, role: Role, stream: int, visit: int, index: int) -> tuple[Scene, NDArray[np.uint8]]:
        """See `Footage.read`."""
        scene, label = self._source(len(ROLES) * stream + ROLES.index(role)).read(1000 * visit + index)
        assert label is not None
        return scene, label

    def _source(self, drive: int) -> TownSource:
        if self._drive is None or self._drive[0] != drive:
            self._drive = drive, TownSource((self._seed + drive) % 2**31, self.size, self.fps, split="val")
        return self._drive[1]


class FolderFootage:
    """A labelled folder cut into stretches; see the module's docstring. Weather has no depth and a standing camera.

    Args:
        path: Folder with ``images/`` and ``labels/``.
        classes: Class set of the labels.
        size: Height and width that frames are brought to; None keeps their own.

    Raises:
        UserError: The folder has too few frames.
        StreamError: It is faulty.
    """

    fps, speed_mps = 10.0, 0.0

    def __init__(self, path: Path, classes: ClassSet, size: tuple[int, int] | None) -> None:
        self._images = FolderImages(path, classes, size)
        self.size = self._images.size
        count = len(self._images)
        if count < LEAST_FRAMES:
            raise UserError(
                f"{path}: {count} labelled frames; tune needs {LEAST_FRAMES}: half are replayed, a quarter is searched "
                f"on, a quarter held out"
            )
        stretches = 4 * max(1, min(MOST_STRETCHES // 4, count // (4 * _STRETCH_FRAMES)))
        cuts = [round(i * count / stretches) for i in range(stretches + 1)]
        self._stretches: dict[Role, list[range]] = {role: [] for role in ROLES}
        replayed: list[int] = []
        for i, (first, end) in enumerate(itertools.pairwise(cuts)):
            if i % 2 == 0:
                replayed += range(first, end)
            else:
                self._stretches[ROLES[i // 2 % 2]].append(range(first, end))
        self.replayed: LabelledSet = Remembered(self._images, replayed)

    def indices(self, role: Role) -> set[int]:
        """Frames that the streams of a role are made of."""
        return {index for stretch in self._stretches[role] for index in stretch}

    def frames_of_visit(self, wanted: int) -> int:
        """No more than the shortest stretch has."""
        return min(wanted, *(len(stretch) for stretches in self._stretches.values() for stretch in stretches))

    def read(self, role: Role, stream: int, visit: int, index: int) -> tuple[Scene, NDArray[np.uint8]]:
        """See `Footage.read`; visits take the stretches of their role in turn."""
        stretches = self._stretches[role]
        pair = self._images[stretches[(visit + stream) % len(stretches)][index]]
        return Scene(image=pair.image), pair.label


def open_footage(source: str | None, classes: ClassSet, size: tuple[int, int] | None, seed: int) -> Footage:
    """The footage that ``--source`` names: a labelled folder, or the built-in town.

    Raises:
        UserError: Too few frames.
        StreamError: A faulty folder, or the town asked for labels that it does not have.
    """
    if source is None or source == TOWN:
        return TownFootage(classes, size, seed)
    return FolderFootage(Path(source).expanduser(), classes, size)
