"""Weather on any RGB frame with or without depth, as pure functions of image, depth, time and seed.

    weather = parse_weather({"rain": 50})
    segment = WeatherStream(weather, seed, first_scene, ego_speed_mps=8.0)
    image, records = segment.render(scene, frame_index=17, t_seconds=1.7)

`EVENTS` lists what can be rendered; `render` does a single frame without a stream.
"""

from streams.weather.effect import Effect, Metadata
from streams.weather.moving import Changing
from streams.weather.parse import CLEAR, Weather, parse_effect, parse_weather
from streams.weather.registry import EVENTS, Parameter, WeatherEvent
from streams.weather.render import render, render_weather
from streams.weather.stream import WeatherStream
from streams.weather.view import Moment, SceneStatistics, estimate_statistics

__all__ = [
    "CLEAR",
    "EVENTS",
    "Changing",
    "Effect",
    "Metadata",
    "Moment",
    "Parameter",
    "SceneStatistics",
    "Weather",
    "WeatherEvent",
    "WeatherStream",
    "estimate_statistics",
    "parse_effect",
    "parse_weather",
    "render",
    "render_weather",
]
