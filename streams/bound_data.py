"""Where the data of a schedule lies: ``--data NAME=DIR`` gives folders, and puts real frames in the town's place.

* A visit that names the data set takes the folder, and every other key that the text sets.
* In a schedule without such a visit, visits of the town play the data set: whole, with the weather of the visit, and
  Cityscapes at 512 x 1024 where nothing else is asked for (the size that HAMLET and OnDA use). Rain and fog of Inria's
  set are taken where it holds this strength of this split (given as ``--data weather_cityscapes=DIR``, or found below
  or beside Cityscapes); any other weather is rendered on the frames, on metric depth where the data has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from streams.datasets.base import DatasetSettings
from streams.datasets.cityscapes import Cityscapes
from streams.datasets.registry import parse_spec
from streams.datasets.weather_cityscapes import WeatherCityscapes, images_of
from streams.errors import StreamError
from streams.schedule import Schedule, Visit

SIZE_OF_CITYSCAPES = (512, 1024)
_INRIA = WeatherCityscapes.NAME


def named_data(texts: Sequence[str]) -> dict[str, DatasetSettings]:
    """The data sets of ``--data`` by name.

    Args:
        texts: ``NAME=DIR`` or ``NAME=DIR,key=value,...`` each.

    Raises:
        StreamError: A text that names none, or a name given twice.
    """
    found: dict[str, DatasetSettings] = {}
    for text in texts:
        if "=" not in text:
            raise StreamError(f"--data {text}: write NAME=DIR, such as cityscapes={text}")
        settings = parse_spec(text)
        if settings.NAME in found:
            raise StreamError(f"--data: {settings.NAME} is given twice")
        found[settings.NAME] = settings
    return found


def bind_data(schedule: Schedule, data: Mapping[str, DatasetSettings]) -> Schedule:
    """The schedule with every data set in its folder.

    Args:
        schedule: As written; rounds are written out already.
        data: By name; only what was set in a text counts.

    Raises:
        StreamError: A data set without a folder, data that no visit takes, or two that could take the town's place.
    """
    named = {visit.dataset.NAME for visit in schedule.visits if visit.dataset is not None}
    in_place = [name for name in data if name not in named and name != _INRIA]
    has_town = any(visit.town is not None for visit in schedule.visits)
    if in_place and not has_town:
        raise StreamError(
            f"--data {in_place[0]}: no visit of this schedule takes it; it plays {', '.join(sorted(named)) or 'none'}"
        )
    if len(in_place) > 1:
        raise StreamError(f"--data: {' and '.join(in_place)} cannot both play the town's visits; give one of them")
    if _INRIA in data and _INRIA not in named and in_place != [Cityscapes.NAME]:
        raise StreamError(f"--data {_INRIA}: lies over Cityscapes; give --data cityscapes=DIR as well")
    visits = tuple(_in_its_folder(visit, index, data) for index, visit in enumerate(schedule.visits))
    if not in_place:
        return schedule.model_copy(update={"visits": visits})
    settings = data[in_place[0]]
    return schedule.model_copy(
        update={
            "visits": tuple(
                visit.model_copy(update={"frames": visit.frames or schedule.frames})
                if visit.town is None
                else _on_data(visit, settings, data.get(_INRIA))
                for visit in visits
            ),
            "size": schedule.size or (SIZE_OF_CITYSCAPES if isinstance(settings, Cityscapes) else None),
            "frames": None,
            "methods": {},  # windows and budgets there are scaled to the town's short visits
        }
    )


def _in_its_folder(visit: Visit, index: int, data: Mapping[str, DatasetSettings]) -> Visit:
    settings = visit.dataset
    if settings is None:
        return visit
    given = data.get(settings.NAME)
    if given is not None:
        settings = settings.model_copy(update={key: getattr(given, key) for key in given.model_fields_set})
    if settings.root is None and getattr(settings, "file", None) is None:
        raise StreamError(
            f"visits.{index}.{settings.NAME}: where is the data? give --data {settings.NAME}=DIR, or write "
            f"'root: DIR' in the schedule"
        )
    return visit.model_copy(update={settings.NAME: settings})


def _on_data(visit: Visit, settings: DatasetSettings, inria: DatasetSettings | None) -> Visit:
    """The town's visit on a data set, in full length."""
    changes: dict[str, object] = {"town": None, "frames": None}
    if isinstance(settings, Cityscapes):
        images = _inria_images(visit, settings, inria)
        if images is not None:
            return visit.model_copy(update={**changes, _INRIA: images, "weather": {}})
    return visit.model_copy(update={**changes, settings.NAME: settings})


def _inria_images(visit: Visit, city: Cityscapes, inria: DatasetSettings | None) -> WeatherCityscapes | None:
    """Inria's images of this visit's weather, where there are any."""
    if len(visit.weather) != 1:
        return None
    event, strength = next(iter(visit.weather.items()))
    if event not in ("rain", "fog") or isinstance(strength, bool) or not isinstance(strength, (int, float)):
        return None
    root = inria.root if inria is not None else _beside(city)
    if root is None:
        return None
    wanted = WeatherCityscapes.model_construct(root=root, labels=city.root, split=city.split).model_copy(
        update={event: float(strength)}
    )
    return wanted if wanted in wanted.parts() else None


def _beside(city: Cityscapes) -> Path | None:
    """Inria's set below the folder of Cityscapes or beside it, where it is usually unpacked."""
    if city.root is None:
        return None
    return next((place for place in (city.root, city.root.parent) if images_of(place) is not None), None)
