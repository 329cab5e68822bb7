"""Every weather event by name. A new event is one file with an effect, one row here, one test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from streams.weather.effect import Effect
from streams.weather.flood import Flood
from streams.weather.fog import Fog
from streams.weather.night import Night
from streams.weather.rain import Rain
from streams.weather.smog import Smog
from streams.weather.snow import Snow
from streams.weather.wildfire import Wildfire


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of an event as a user writes it.

    Attributes:
        key: Name in a schedule, such as ``rate``.
        field: Keyword of the factory, such as ``rate_mm_h``.
        unit: Unit, or an empty string.
        description: One line.
        movable: Whether it may change during a visit.
        reciprocal: Changes evenly in its reciprocal.
        ceiling_field: Keyword that takes the largest value reached, where the effect must know it beforehand.
    """

    key: str
    field: str
    unit: str
    description: str
    movable: bool = False
    reciprocal: bool = False
    ceiling_field: str = ""


@dataclass(frozen=True, slots=True)
class WeatherEvent:
    """One kind of weather.

    Attributes:
        name: Key in `EVENTS` and in schedules.
        factory: Builds the effect from keyword arguments; raises `streams.errors.StreamError` for bad values.
        description: One line for lists.
        parameters: What a schedule may set; the first is the one that a bare number means (``rain: 50``).
    """

    name: str
    factory: Callable[..., Effect]
    description: str
    parameters: tuple[Parameter, ...]

    def build(self, options: dict[str, Any], fields: dict[str, Any] | None = None) -> Effect:
        """The effect with ``options`` by parameter key and ``fields`` by keyword, all of them known ones."""
        names = {parameter.key: parameter.field for parameter in self.parameters}
        return self.factory(**{names[key]: value for key, value in options.items()}, **(fields or {}))


EVENTS: dict[str, WeatherEvent] = {
    event.name: event
    for event in (
        WeatherEvent(
            "rain",
            Rain,
            "streaks of falling drops and the haze of those too small to see",
            (
                Parameter(
                    "rate",
                    "rate_mm_h",
                    "mm/h",
                    "rain rate; 25 is heavy, 200 a cloudburst",
                    True,
                    ceiling_field="ceiling_mm_h",
                ),
                Parameter("match_mean", "match_mean", "", "keep the mean brightness of the frame"),
                Parameter("gain", "gain", "", "brightness of streaks; 1 is true to energy and faint", True),
                Parameter("exposure", "exposure_ms", "ms", "exposure time; longer makes longer streaks"),
                Parameter("wind", "wind_mps", "m/s", "sideways wind, positive to the right"),
                Parameter("ripple", "ripple", "", "vary the brightness along streaks"),
                Parameter("wet", "wet", "", "a dark ground that mirrors"),
                Parameter("lens", "lens", "", "drops on the lens"),
                Parameter("wiper", "wiper", "", "with lens, a blade wipes it every 1.2 s"),
            ),
        ),
        WeatherEvent(
            "fog",
            Fog,
            "loss of contrast with distance, by visibility",
            (
                Parameter(
                    "visibility", "visibility_m", "m", "distance at which contrast falls to the threshold", True, True
                ),
                Parameter("contrast", "contrast_threshold", "", "contrast that defines visibility, 0.05 or 0.02"),
                Parameter("refine", "refine", "", "smooth transmission along image edges"),
                Parameter("patchiness", "patchiness", "", "share by which density varies in drifting banks", True),
                Parameter("mist", "mist", "", "scatter blue more than red"),
            ),
        ),
        WeatherEvent(
            "night",
            Night,
            "dusk to deep night: less light, lamps that glow, headlights, sensor noise",
            (
                Parameter("strength", "strength", "", "0 is day, 0.25 dusk, 0.5 a lit evening, 1 deep night", True),
                Parameter("tint", "tint", "", "moon (blue) or sodium (yellow street light)"),
                Parameter("lamps", "lamps", "", "small bright things above the ground shine"),
                Parameter("headlights", "headlights", "", "the car's own light on the ground ahead"),
                Parameter("noise", "noise", "", "sensor noise, anew every frame"),
                Parameter("stops", "stops", "", "amplification of the camera; more is noisier", True),
                Parameter("chroma_blur", "chroma_blur", "", "smooth colour after the noise"),
            ),
        ),
        WeatherEvent(
            "snow",
            Snow,
            "falling flakes, the haze of small ones, and snow that settles",
            (
                Parameter(
                    "rate",
                    "rate_mm_h",
                    "mm/h",
                    "water in the falling snow; 1 is light, 5 heavy, 10 a blizzard",
                    True,
                    ceiling_field="ceiling_mm_h",
                ),
                Parameter("dry", "dry", "", "dry snow, which dims far more"),
                Parameter("exposure", "exposure_ms", "ms", "exposure time"),
                Parameter("wind", "wind_mps", "m/s", "sideways wind, positive to the right"),
                Parameter(
                    "settled", "settled_mm", "mm", "water in the snow that lies on the ground at the start", True
                ),
            ),
        ),
        WeatherEvent(
            "smog",
            Smog,
            "yellow haze by distance",
            (
                Parameter("strength", "strength", "", "1 is the published look, up to 3", True),
                Parameter("range", "range_m", "m", "distance from which on it is fullest", True),
                Parameter("mode", "mode", "", "video, or climategan (each frame by its own range)"),
            ),
        ),
        WeatherEvent(
            "wildfire",
            Wildfire,
            "a warm dark scene under an orange sky",
            (
                Parameter("strength", "strength", "", "1 is the published look", True),
                Parameter("mode", "mode", "", "video, or climategan (each frame by its own mean, 8 bits)"),
            ),
        ),
        WeatherEvent(
            "flood",
            Flood,
            "a level sheet of muddy water over the ground",
            (
                Parameter("level", "level_m", "m", "height of the water over the ground", True),
                Parameter("labels", "labels", "", "keep, or ignore what is under water"),
            ),
        ),
    )
}
