"""The data sets by name: as keys of a visit, as ``NAME=DIR,key=value`` texts, and found by their layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streams.datasets.acdc import Acdc
from streams.datasets.base import DatasetSettings
from streams.datasets.bdd100k import Bdd100k
from streams.datasets.camvid import CamVid
from streams.datasets.cityscapes import Cityscapes
from streams.datasets.dark_zurich import DarkZurich
from streams.datasets.foggy_cityscapes import FoggyCityscapes
from streams.datasets.globbed import Globbed
from streams.datasets.gta5 import Gta5
from streams.datasets.listed import Listed
from streams.datasets.mapillary import Mapillary
from streams.datasets.shift import Shift
from streams.datasets.synthia import Synthia
from streams.datasets.weather_cityscapes import WeatherCityscapes
from streams.errors import StreamError
from streams.yaml_config import ConfigError, ConfigModel, build, from_mapping, unknown_name


class DatasetKeys(ConfigModel):
    """A data set for each key; a visit names one source."""

    cityscapes: Cityscapes | None = None
    weather_cityscapes: WeatherCityscapes | None = None
    foggy_cityscapes: FoggyCityscapes | None = None
    acdc: Acdc | None = None
    dark_zurich: DarkZurich | None = None
    shift: Shift | None = None
    camvid: CamVid | None = None
    bdd100k: Bdd100k | None = None
    mapillary: Mapillary | None = None
    gta5: Gta5 | None = None
    synthia: Synthia | None = None
    files: Globbed | None = None
    file_list: Listed | None = None

    @property
    def dataset(self) -> DatasetSettings | None:
        """The data set that is named, if any."""
        return next((settings for name in DATASETS if (settings := getattr(self, name)) is not None), None)


DATASETS: dict[str, type[DatasetSettings]] = {
    settings.NAME: settings
    for settings in (
        Cityscapes, WeatherCityscapes, FoggyCityscapes, Acdc, DarkZurich, Shift, CamVid, Bdd100k, Mapillary, Gta5,
        Synthia, Globbed, Listed,
    )
}  # fmt: skip
"""Settings by the key in schedules."""


def looks_like_spec(text: str) -> bool:
    """Whether a text names a data set, as ``NAME=DIR`` does, and not a folder."""
    name, equals, _ = text.partition("=")
    return bool(equals) and name.isidentifier() and not Path(text).exists()


def parse_spec(text: str) -> DatasetSettings:
    """The settings that ``NAME=DIR`` or ``NAME=DIR,key=value,...`` names; paths start from the working directory.

    Raises:
        StreamError: An unknown name or key, or a value that does not fit; says which.
    """
    name, _, rest = text.partition("=")
    if name not in DATASETS:
        raise StreamError(f"{text}: {unknown_name('data set', name, DATASETS)}")
    fields = DATASETS[name].model_fields
    folder, *options = rest.split(",")
    values: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if values or (equals and key in fields):
            values[key] = _value(value)
        else:
            folder = f"{folder},{option}"  # a comma of the folder's name
    if not folder:
        raise StreamError(f"{text}: no folder; write {name}=DIR")
    document = from_mapping({**values, "root": folder}, text)
    try:
        return build(DATASETS[name], document, context={"base": Path.cwd()})
    except ConfigError as error:
        raise StreamError("\n".join(error.lines)) from None


def absolute_spec(text: str) -> str:
    """The text with every path in it absolute, so that it means the same from another folder; faulty texts stay."""
    try:
        settings = parse_spec(text)
    except StreamError:
        return text
    values = {key: getattr(settings, key) for key in type(settings).model_fields if key in settings.model_fields_set}
    root = values.pop("root")
    words = [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in values.items()]
    return ",".join([f"{settings.NAME}={root}", *words])


def training_part(text: str) -> DatasetSettings:
    """What a text names for training: the part that its keys choose, else the data set's own.

    Raises:
        StreamError: As `parse_spec`.
    """
    settings = parse_spec(text)
    chosen = settings.model_fields_set - {"root", "labels", "file"}
    return settings if "split" in chosen else settings.for_training()[0]


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def recognise(path: Path) -> list[DatasetSettings]:
    """The data sets whose layout is found at a path, each with a part that is there; labelled ones first."""
    found: list[DatasetSettings] = []
    for settings in DATASETS.values():
        try:
            parts = settings(root=path).parts()
        except (StreamError, OSError):
            continue
        if parts:
            found.append(parts[0])
    return found
