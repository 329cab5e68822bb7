"""Mapillary Vistas (Neuhold et al. 2017), and trees like it.

Layout: ``{training,validation,testing}/images/NAME.jpg`` with ``labels/NAME.png`` beside (version 1.x) or in
``v1.2/labels`` and ``v2.0/labels`` (version 2). ``config.json`` or ``config_v1.2.json`` and ``config_v2.0.json`` name
the classes in the order of their ids; label files are palette images of ids. Classes become Cityscapes' by their
names, after Cityscapes' definitions: curbs are sidewalk, markings are road, the backs of signs, parking places, guard
rails, bridges and tunnels are ignored. Images differ in size: a schedule gives ``size``.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from typing_extensions import Self

from streams.classes import CITYSCAPES_19
from streams.datasets.base import DatasetSettings, Listing, Sample
from streams.datasets.labels import LabelFormat
from streams.datasets.trees import content, keyed, lone_labels, require_folder, subfolders
from streams.errors import StreamError
from streams.frame import IGNORE_ID, ClassSet
from streams.sources.files import read_bytes

CONFIGS = {"v1.2": ("config_v1.2.json", "config.json"), "v2.0": ("config_v2.0.json",)}
_FOLDERS = {"train": "training", "val": "validation", "test": "testing"}

_EXACT = {
    "construction--flat--road": "road", "construction--flat--service-lane": "road",
    "construction--flat--bike-lane": "road", "construction--flat--crosswalk-plain": "road",
    "construction--flat--road-shoulder": "road", "construction--flat--sidewalk": "sidewalk",
    "construction--flat--curb-cut": "sidewalk", "construction--flat--pedestrian-area": "sidewalk",
    "construction--barrier--curb": "sidewalk", "construction--structure--building": "building",
    "construction--barrier--wall": "wall", "construction--barrier--fence": "fence", "object--support--pole": "pole",
    "object--support--utility-pole": "pole", "object--traffic-sign--front": "traffic sign",
    "object--traffic-sign--direction-front": "traffic sign", "nature--vegetation": "vegetation",
    "nature--terrain": "terrain", "nature--sky": "sky", "object--vehicle--car": "car",
    "object--vehicle--truck": "truck",
    "object--vehicle--bus": "bus", "object--vehicle--on-rails": "train", "object--vehicle--motorcycle": "motorcycle",
    "object--vehicle--bicycle": "bicycle",
}  # fmt: skip
_GROUPS = {
    "human--person": "person",
    "human--rider": "rider",
    "object--traffic-light": "traffic light",
    "marking": "road",
}
"""Beginnings of names of which every member means the same."""


class Mapillary(DatasetSettings):
    """Mapillary Vistas.

    Attributes:
        split: Part of the data; ``test`` has no public labels.
        version: Of the labels; None takes the newest that is there.
    """

    NAME: ClassVar[str] = "mapillary"
    TITLE: ClassVar[str] = "Mapillary Vistas"

    split: Literal["train", "val", "test"] = "val"
    version: Literal["v1.2", "v2.0"] | None = None

    def scan(self) -> Listing:
        folder = require_folder(self.base, self.TITLE, _FOLDERS[self.split])
        images = keyed(folder / "images")
        if not images:
            raise StreamError(f"{folder}: no images/ with images in it; {content(folder)}")
        version, labels_in = self._labels(folder)
        labels = keyed(labels_in, ".png")
        samples = tuple(Sample(name, image, labels.get(name)) for name, image in images.items())
        notes = lone_labels(images, labels)
        if not labels:
            return Listing(f"{self.NAME} {self.split}", self.base, samples, notes=(f"no labels/ below {folder}",))
        form = LabelFormat(read_config(self._config(version)))
        return Listing(f"{self.NAME} {self.split} {version}", self.base, samples, form, notes=notes)

    def _labels(self, folder: Path) -> tuple[str, Path | None]:
        """Version and folder of the labels; the first version has them beside the images."""
        wanted = ("v2.0", "v1.2") if self.version is None else (self.version,)
        for version in wanted:
            if (folder / version / "labels").is_dir():
                return version, folder / version / "labels"
        if (folder / "labels").is_dir() and "v1.2" in wanted:
            return "v1.2", folder / "labels"
        return wanted[0], None

    def _config(self, version: str) -> Path:
        found = next((path for name in CONFIGS[version] if (path := self.base / name).is_file()), None)
        if found is None:
            raise StreamError(
                f"{self.base}: no {' or '.join(CONFIGS[version])} in it; it names the classes of the labels"
            )
        return found

    def parts(self) -> tuple[Self, ...]:
        if self.root is None or not any((self.root / name).is_file() for names in CONFIGS.values() for name in names):
            return ()
        return tuple(
            self.model_copy(update={"split": split})
            for split, name in _FOLDERS.items()
            if "images" in subfolders(self.root / name)
        )

    def for_training(self) -> tuple[Self, Self | None]:
        return self.model_copy(update={"split": "train"}), self.model_copy(update={"split": "val"})


def read_config(file: Path) -> ClassSet:
    """Cityscapes' classes with the ids that a config.json lists.

    Raises:
        StreamError: The file lists no classes, or none that Cityscapes knows.
    """
    try:
        names = [str(entry["name"]) for entry in json.loads(read_bytes(file))["labels"]]
    except StreamError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StreamError(f"{file}: expected 'labels', a list of classes with a 'name' each: {error!r}") from None
    if len(names) > IGNORE_ID:
        raise StreamError(f"{file}: {len(names)} classes; label files of 8 bits hold at most {IGNORE_ID}")
    raw = tuple(IGNORE_ID if (name := _meaning(entry)) is None else CITYSCAPES_19.names.index(name) for entry in names)
    if set(raw) <= {IGNORE_ID}:
        raise StreamError(f"{file}: none of its {len(names)} classes is known, such as {names[0] if names else None!r}")
    return replace(CITYSCAPES_19, name="mapillary", raw=raw)


def _meaning(name: str) -> str | None:
    if name in _EXACT:
        return _EXACT[name]
    return next((wanted for start, wanted in _GROUPS.items() if name == start or name.startswith(f"{start}--")), None)
