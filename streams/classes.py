"""The label spaces the project knows, a YAML file for one's own, and which classes of two spaces mean the same."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator
from typing_extensions import Self

from streams.errors import StreamError
from streams.frame import IGNORE_ID, ClassSet
from streams.yaml_config import ConfigModel, KeyedError, build, load_yaml, unknown_name

CITYSCAPES_19 = ClassSet(
    name="cityscapes19",
    names=(
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
        "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    ),
    palette=(
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153),
        (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0),
        (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
    ),
    things=(6, 7, 11, 12, 13, 14, 15, 16, 17, 18),
    sky=10,
    ground=(0, 1, 9),
)  # fmt: skip

CAMVID_11 = ClassSet(
    name="camvid11",
    names=(
        "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
    ),
    palette=(
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (0, 0, 192), (128, 128, 0), (192, 128, 128),
        (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ),
    things=(6, 8, 9, 10),
    sky=0,
    ground=(3, 4),
    void=(11,),
)  # fmt: skip

_I = IGNORE_ID
CAMVID_32 = ClassSet(
    name="camvid32",
    names=(
        "Animal", "Archway", "Bicyclist", "Bridge", "Building", "Car", "CartLuggagePram", "Child", "Column_Pole",
        "Fence", "LaneMkgsDriv", "LaneMkgsNonDriv", "Misc_Text", "MotorcycleScooter", "OtherMoving", "ParkingBlock",
        "Pedestrian", "Road", "RoadShoulder", "Sidewalk", "SignSymbol", "Sky", "SUVPickupTruck", "TrafficCone",
        "TrafficLight", "Train", "Tree", "Truck_Bus", "Tunnel", "VegetationMisc", "Wall",
    ),
    palette=(
        (64, 128, 64), (192, 0, 128), (0, 128, 192), (0, 128, 64), (128, 0, 0), (64, 0, 128), (64, 0, 192),
        (192, 128, 64), (192, 192, 128), (64, 64, 128), (128, 0, 192), (192, 0, 64), (128, 128, 64), (192, 0, 192),
        (128, 64, 64), (64, 192, 128), (64, 64, 0), (128, 64, 128), (128, 128, 192), (0, 0, 192), (192, 128, 128),
        (128, 128, 128), (64, 128, 192), (0, 0, 64), (0, 64, 64), (192, 64, 128), (128, 128, 0), (192, 128, 192),
        (64, 0, 64), (192, 192, 0), (64, 192, 0),
    ),
    things=(0, 2, 5, 6, 7, 13, 14, 16, 20, 22, 23, 24, 25, 27),
    sky=21,
    ground=(10, 11, 15, 17, 18, 19),
    raw=(*range(30), _I, 30),
)  # fmt: skip
"""CamVid's 32 classes without Void, which is id 30 in files of ids (label_colors.txt in the order of the alphabet)."""

ACDC_19 = replace(CITYSCAPES_19, name="acdc19")
CITYSCAPES_IDS = replace(
    CITYSCAPES_19,
    name="cityscapes_ids",
    raw=(
        _I, _I, _I, _I, _I, _I, _I, 0, 1, _I, _I, 2, 3, 4, _I, _I, _I, 5, _I, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, _I,
        _I, 16, 17, 18,
    ),
)  # fmt: skip
GTA_19 = replace(CITYSCAPES_IDS, name="gta19", raw=(*CITYSCAPES_IDS.raw, _I, _I))
"""GTA's files hold Cityscapes' label ids (specs/seed-systems.md F2)."""


def _subset(name: str, kept: Sequence[int], raw: tuple[int, ...]) -> ClassSet:
    """Some of Cityscapes' classes under ids of their own; ``raw`` leads from file ids to Cityscapes' train ids."""
    new = {old: index for index, old in enumerate(kept)}
    whole = CITYSCAPES_19
    return ClassSet(
        name,
        tuple(whole.names[old] for old in kept),
        tuple(whole.palette[old] for old in kept),
        tuple(new[old] for old in whole.things if old in new),
        new.get(whole.sky) if whole.sky is not None else None,
        tuple(new[old] for old in whole.ground if old in new),
        raw=tuple(new.get(old, IGNORE_ID) for old in raw),
    )


_SYNTHIA_RAW = (_I, 10, 2, 0, 1, 4, 8, 5, 13, 7, 11, 18, 17, _I, _I, 6, 9, 12, 14, 15, 16, 3, _I, _I, _I)
SYNTHIA_16 = _subset("synthia16", (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18), _SYNTHIA_RAW)
SYNTHIA_13 = _subset("synthia13", (0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18), _SYNTHIA_RAW)

SHIFT_14 = ClassSet(
    name="shift14",
    names=(
        "building", "fence", "pedestrian", "pole", "road line", "road", "sidewalk", "vegetation", "vehicle", "wall",
        "traffic sign", "sky", "traffic light", "terrain",
    ),
    palette=(
        (70, 70, 70), (190, 153, 153), (220, 20, 60), (153, 153, 153), (157, 234, 50), (128, 64, 128), (244, 35, 232),
        (107, 142, 35), (0, 0, 142), (102, 102, 156), (220, 220, 0), (70, 130, 180), (250, 170, 30), (152, 251, 152),
    ),
    things=(2, 8, 10, 12),
    sky=11,
    ground=(4, 5, 6, 13),
    raw=(_I, 0, 1, _I, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, _I, _I, _I, _I, 12, _I, _I, _I, 13),
)  # fmt: skip

WATER_2 = ClassSet("water2", ("dry", "water"), ((128, 64, 128), (61, 230, 250)), ground=(0, 1))
"""A water mask as classes: what omnigan's task ``m`` marks."""

CLASS_SETS: dict[str, ClassSet] = {
    classes.name: classes
    for classes in (
        CITYSCAPES_19, CITYSCAPES_IDS, ACDC_19, CAMVID_11, CAMVID_32, GTA_19, SYNTHIA_16, SYNTHIA_13, SHIFT_14,
        WATER_2,
    )
}  # fmt: skip

_VEHICLES = ("car", "truck", "bus", "train", "motorcycle", "bicycle")
_MEANINGS: dict[str, tuple[str, ...]] = {
    "pavement": ("sidewalk",), "tree": ("vegetation",), "sign": ("traffic sign", "traffic light"),
    "pedestrian": ("person",), "bicyclist": ("rider", "bicycle"), "vehicle": _VEHICLES, "road line": ("road",),
    "car": ("car", "truck", "bus", "train"),
}  # fmt: skip
"""Names that stand for names of Cityscapes; ``car`` does only where the space has no other vehicle."""

Channel = Annotated[int, Field(ge=0, le=255)]
Id = Annotated[int, Field(ge=0, le=254)]


class ClassFile(ConfigModel):
    """A class set as a YAML file; see `ClassSet` for the keys."""

    name: str = ""
    names: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=2, max_length=255)
    palette: tuple[tuple[Channel, Channel, Channel], ...] = ()
    things: tuple[Id, ...] = ()
    sky: Id | None = None
    ground: tuple[Id, ...] = ()
    void: tuple[Id, ...] = ()
    raw: tuple[Annotated[int, Field(ge=0, le=255)], ...] = Field((), max_length=256)
    means: dict[str, tuple[Annotated[str, Field(min_length=1)], ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ids_exist(self) -> Self:
        count = len(self.names)
        for key, ids in (("things", self.things), ("ground", self.ground), ("sky", (self.sky or 0,))):
            if any(index >= count for index in ids):
                raise KeyedError(f"id {max(ids)} is beyond the last class, {count - 1}", key)
        if self.palette and len(self.palette) != count:
            raise KeyedError(f"{len(self.palette)} colours for {count} classes", "palette")
        if len(set(self.names)) < count:
            raise KeyedError("two classes have the same name", "names")
        if any(index >= count and index != IGNORE_ID for index in self.raw):
            raise KeyedError(f"train ids are 0 to {count - 1}, and {IGNORE_ID} for ignore", "raw")
        for name in self.means:
            if name not in self.names:
                near = difflib.get_close_matches(name, self.names, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise KeyedError(f"{name!r} is none of the names{hint}", "means")
        return self


def find_classes(name_or_path: str, base: Path | None = None) -> ClassSet:
    """A registered class set, or that of a YAML file; paths are relative to ``base``.

    Raises:
        StreamError: Neither, or a faulty file: every fault with its place.
    """
    if name_or_path in CLASS_SETS:
        return CLASS_SETS[name_or_path]
    path = Path(name_or_path).expanduser()
    if path.suffix not in (".yaml", ".yml"):
        raise StreamError(unknown_name("class set", name_or_path, CLASS_SETS) + "; a YAML file works as well")
    file = path if base is None or path.is_absolute() else base / path
    read = build(ClassFile, load_yaml(file))
    palette = read.palette or tuple(_colour(index) for index in range(len(read.names)))
    return ClassSet(
        read.name or file.stem, read.names, palette, read.things, read.sky, read.ground, read.void, read.raw,
        tuple(read.means.items()),
    )  # fmt: skip


def _colour(index: int) -> tuple[int, int, int]:
    """The Pascal VOC colour map: the bits of the id, spread over the channels."""
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
    return channels[0], channels[1], channels[2]


def class_groups(network: ClassSet, stream: ClassSet) -> list[tuple[int, ...]]:
    """For each class of ``stream``, the classes of ``network`` that mean it; none where it does not know it.

    Two classes mean the same where their names do, or what a set says that they mean; a name that stands for several
    (CamVid's bicyclist for Cityscapes' rider and bicycle) takes all of them. A class of the network goes to one class
    only: to its own name, else to the first that it stands for.
    """
    groups: list[list[int]] = [[] for _ in stream.names]
    for index, name in enumerate(network.names):
        found = [
            (_plain(other) != _plain(name), rank, position)
            for position, other in enumerate(stream.names)
            for rank, meaning in enumerate(_meanings(name, network))
            if meaning in _meanings(other, stream)
        ]
        if found:
            groups[min(found)[2]].append(index)
    return [tuple(group) for group in groups]


def _plain(name: str) -> str:
    return name.strip().lower()


def _meanings(name: str, space: ClassSet) -> tuple[str, ...]:
    for own, meanings in space.means:
        if own == name:
            return tuple(_plain(meaning) for meaning in meanings)
    plain = _plain(name)
    others = {_plain(other) for other in space.names}
    if plain == "car" and others & set(_VEHICLES[1:]):
        return ("car",)
    return _MEANINGS.get(plain, (plain,))
