"""A tree of every data set in its authors' layout, and what a reader makes of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from streams.classes import CITYSCAPES_19
from streams.datasets import DatasetSource, parse_spec
from streams.frame import ClassSet
from tests import data_kit as kit

Maker = Callable[[Path], kit.Labels]


TREES: dict[str, Maker] = {
    "cityscapes": kit.cityscapes, "acdc": kit.acdc, "dark_zurich": kit.dark_zurich, "shift": kit.shift,
    "camvid": lambda root: kit.camvid(root, "full"), "bdd100k": kit.bdd100k, "mapillary": kit.mapillary,
    "gta5": kit.gta5, "synthia": kit.synthia,
}  # fmt: skip


def labels_of(spec: str, classes: ClassSet = CITYSCAPES_19) -> kit.Labels:
    """Names and labels as a stream delivers them."""
    listing = parse_spec(spec).scan()
    source = DatasetSource(listing, classes)
    read = [source.read(index) for index in range(len(source))]
    assert all(scene.image.shape == (*kit.SIZE, 3) for scene, _ in read)
    return {sample.name: label for sample, (_, label) in zip(listing.samples, read, strict=True)}
