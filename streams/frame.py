"""What travels through the house: frames for the runtime, truth for the evaluator, and the names of classes.

`Frame` and `Truth` are separate types on purpose: the learner is handed a `Frame` and cannot reach a label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

IGNORE_ID = 255


@dataclass(frozen=True, slots=True)
class Intrinsics:
    """Pinhole camera: focal lengths and principal point, in pixels of the image they come with."""

    fx: float
    fy: float
    cx: float
    cy: float


@dataclass(frozen=True, slots=True)
class Frame:
    """What the runtime sees of one moment.

    Attributes:
        index: Position in the stream, counted from 0 over all visits, bad frames included.
        image: ``(H, W, 3)`` uint8, RGB.
        timestamp_s: Seconds since the start of the stream.
    """

    index: int
    image: NDArray[np.uint8]
    timestamp_s: float


@dataclass(frozen=True, slots=True)
class Truth:
    """What only the evaluator sees of one moment.

    Attributes:
        domain: Name of the domain, such as ``rain50``.
        visit: Index of the domain visit in the schedule, from 0.
        label: ``(h, w)`` uint8 train ids with 255 = ignore, at the label's own size; None without labels.
    """

    domain: str
    visit: int
    label: NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True)
class StreamItem:
    """One tick of a stream: a frame with its truth, or a fault that says why there is no frame.

    Exactly one of ``frame`` and ``fault`` is None. A faulty tick is counted and never learned from.
    """

    index: int
    frame: Frame | None
    truth: Truth
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """A labelled source image: ``image`` (H, W, 3) uint8 RGB and ``label`` (H, W) uint8, 255 = ignore."""

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Scene:
    """A rendered or recorded view with everything a weather renderer may need.

    Attributes:
        image: ``(H, W, 3)`` uint8, RGB.
        label: ``(H, W)`` uint8 train ids, 255 = ignore; None where unknown.
        depth_m: ``(H, W)`` float32 metres along the optical axis; 0 or inf where there is no surface (sky).
        intrinsics: Camera of ``image``; None where unknown.
    """

    image: NDArray[np.uint8]
    label: NDArray[np.uint8] | None = None
    depth_m: NDArray[np.float32] | None = None
    intrinsics: Intrinsics | None = None


class LabelledSet(Protocol):
    """Labelled source images by index; `classes` names the ids. Sequences of consecutive frames stay in order."""

    @property
    def classes(self) -> ClassSet: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> LabelledImage: ...


@dataclass(frozen=True, slots=True)
class ClassSet:
    """Names, colours and roles of the classes of a label space.

    Attributes:
        name: Key in the registry `streams.classes.CLASS_SETS`, such as ``cityscapes19``.
        names: Class names; the position is the train id.
        palette: One RGB triple (0-255) a class.
        things: Ids of countable objects (feature distance, rare-class sampling).
        sky: Id of the sky class, or None.
        ground: Ids of classes that lie on the ground plane (road, sidewalk, terrain).
        void: Ids in label files that mean "ignore" beside 255.
        raw: Train id (255 = ignore) of each id in label files, where these are not train ids themselves.
        means: Names of other label spaces that a class stands for, beside its own name.
    """

    name: str
    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    things: tuple[int, ...] = ()
    sky: int | None = None
    ground: tuple[int, ...] = ()
    void: tuple[int, ...] = ()
    raw: tuple[int, ...] = ()
    means: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def __len__(self) -> int:
        return len(self.names)
