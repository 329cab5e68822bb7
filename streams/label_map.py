"""Labels of one class set in the ids of another: the one place where ids of files become train ids.

Classes go by name; where names differ, a table of the data set's authors or of the field says what means what
(`PUBLISHED`), else `streams.classes` knows names that stand for others. A class that the other set lacks is ignored.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streams.classes import CLASS_SETS, class_groups
from streams.frame import IGNORE_ID, ClassSet

FOREIGN_ID = IGNORE_ID - 1
"""Marks ids in files that the file's class set does not know."""

_CAMVID_TO_11 = {
    "sky": ("Sky",), "building": ("Bridge", "Building", "Wall", "Tunnel", "Archway"),
    "pole": ("Column_Pole", "TrafficCone"), "road": ("Road", "LaneMkgsDriv", "LaneMkgsNonDriv"),
    "pavement": ("Sidewalk", "ParkingBlock", "RoadShoulder"), "tree": ("Tree", "VegetationMisc"),
    "sign": ("SignSymbol", "Misc_Text", "TrafficLight"), "fence": ("Fence",),
    "car": ("Car", "SUVPickupTruck", "Truck_Bus", "Train", "OtherMoving"),
    "pedestrian": ("Pedestrian", "Child", "CartLuggagePram", "Animal"), "bicyclist": ("Bicyclist", "MotorcycleScooter"),
}  # fmt: skip
"""SegNet's grouping of CamVid's 32 classes (Badrinarayanan et al. 2017)."""

_CAMVID_TO_CITYSCAPES = {
    "road": ("Road", "LaneMkgsDriv", "LaneMkgsNonDriv"), "sidewalk": ("Sidewalk",), "building": ("Building", "Archway"),
    "wall": ("Wall",), "fence": ("Fence",), "pole": ("Column_Pole",), "traffic light": ("TrafficLight",),
    "traffic sign": ("SignSymbol",), "vegetation": ("Tree", "VegetationMisc"), "sky": ("Sky",),
    "person": ("Pedestrian", "Child"), "rider": ("Bicyclist",), "car": ("Car", "SUVPickupTruck"),
    "bus": ("Truck_Bus",), "train": ("Train",), "motorcycle": ("MotorcycleScooter",),
}  # fmt: skip
"""By the names; what Cityscapes leaves out (bridge, tunnel, cone, pram, animal) is ignored."""

_SHIFT_TO_CITYSCAPES = {
    "building": ("building",), "fence": ("fence",), "person": ("pedestrian",), "pole": ("pole",),
    "road": ("road", "road line"), "sidewalk": ("sidewalk",), "vegetation": ("vegetation",), "car": ("vehicle",),
    "wall": ("wall",), "traffic sign": ("traffic sign",), "sky": ("sky",), "traffic light": ("traffic light",),
    "terrain": ("terrain",),
}  # fmt: skip
"""specs/hamlet.md 3.3: 14 classes of SHIFT become 13 of Cityscapes'."""

PUBLISHED: dict[tuple[str, str], dict[str, tuple[str, ...]]] = {
    ("camvid32", "camvid11"): _CAMVID_TO_11,
    ("camvid32", "cityscapes19"): _CAMVID_TO_CITYSCAPES,
    ("shift14", "cityscapes19"): _SHIFT_TO_CITYSCAPES,
}
"""(class set of the file, class set wanted): classes of the file that become a class wanted."""


def label_map(native: ClassSet, target: ClassSet) -> tuple[int, ...]:
    """The id of `target` for each class of `native`; 255 where `target` has none.

    Two sets with equal names keep their ids. A class with several meanings becomes the first that `target` has
    (CamVid's bicyclist is Cityscapes' rider).
    """
    if native.names == target.names:
        return tuple(range(len(native)))
    published = PUBLISHED.get((native.name, _family(target)))
    mapped = [IGNORE_ID] * len(native)
    if published is not None:
        for name, members in published.items():
            for member in members:
                mapped[native.names.index(member)] = target.names.index(name)
        return tuple(mapped)
    # A class of `native` goes to one class of `target`; what is left may still share one (truck and car: vehicle).
    for wanted, members_of in enumerate(class_groups(native, target)):
        for index in members_of:
            mapped[index] = wanted
    for index, meant in enumerate(class_groups(target, native)):
        if mapped[index] == IGNORE_ID and meant:
            mapped[index] = meant[0]
    return tuple(mapped)


def _family(classes: ClassSet) -> str:
    """The registered set with these names, in this order: ``acdc19`` and ``cityscapes19`` are one."""
    return next((name for name, known in CLASS_SETS.items() if known.names == classes.names), classes.name)


def label_table(native: ClassSet, target: ClassSet | None = None) -> NDArray[np.uint8]:
    """What each id of a label file becomes.

    Args:
        native: Class set of the file: its ids (``raw``, ``void``) and classes.
        target: Class set wanted; None keeps `native`'s.

    Returns:
        ``(256,)`` uint8: ids of `target`, 255 = ignore, `FOREIGN_ID` where a file may not hold the id.
    """
    classes = native.raw or tuple(range(len(native)))
    into = (*label_map(native, native if target is None else target), IGNORE_ID)
    table = np.full(256, FOREIGN_ID, np.uint8)
    table[: len(classes)] = [into[min(index, len(native))] for index in classes]
    table[[*native.void, IGNORE_ID]] = IGNORE_ID
    return table
