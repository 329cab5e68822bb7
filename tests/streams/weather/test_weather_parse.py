"""Weather mappings of schedules: what they mean, and what a mistake answers."""

from __future__ import annotations

import numpy as np
import pytest

from streams.errors import StreamError
from streams.frame import Scene
from streams.weather import CLEAR, EVENTS, WeatherStream, parse_effect, parse_weather
from streams.weather.fog import Fog
from streams.weather.rain import Rain


def test_a_number_is_the_main_parameter() -> None:
    assert parse_weather({"rain": 50}).effects == (Rain(rate_mm_h=50),)
    assert parse_weather({"fog": 150}).effects == (Fog(visibility_m=150),)


def test_a_mapping_sets_parameters_by_their_keys() -> None:
    assert parse_weather({"rain": {"rate": 50, "match_mean": False}}).effects == (Rain(50, match_mean=False),)
    for event in EVENTS.values():
        default = parse_effect(event.name)
        options = {parameter.key: getattr(default, parameter.field) for parameter in event.parameters}
        assert event.build(options) == default


def test_none_and_empty_are_clear_and_pass_the_image_through(road: Scene) -> None:
    assert parse_weather(None) == parse_weather({}) == CLEAR
    image, records = WeatherStream(CLEAR, 0, road).render(road, frame_index=0, t_seconds=0.0)
    assert image is road.image
    assert records == ()


def test_order_of_keys_is_order_of_application(road: Scene) -> None:
    images = []
    for mapping in ({"fog": 100, "rain": 200}, {"rain": 200, "fog": 100}):
        image, records = WeatherStream(parse_weather(mapping), 0, road).render(road, frame_index=0, t_seconds=0.0)
        assert [record.event for record in records] == list(mapping)
        images.append(image.astype(int))
    fog_only, _ = WeatherStream(parse_weather({"fog": 100}), 0, road).render(road, frame_index=0, t_seconds=0.0)
    assert np.abs(images[0] - images[1]).max() > 10
    assert np.abs(images[0] - fog_only).max() > 10


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"rainn": 50}, r"unknown event 'rainn' \(did you mean rain\?\); known: rain, fog"),
        ({"Rain": 50}, r"unknown event 'Rain' \(did you mean rain"),
        ({True: 50}, "unknown event True"),
        ({"rain": {"rates": 50}}, r"weather rain: unknown parameter 'rates' \(did you mean rate\?\)"),
        ({"fog": {"visibilty": 50}}, r"weather fog: unknown parameter 'visibilty' \(did you mean visibility"),
        ({"rain": "heavy"}, r"weather rain: rate must be a number from 0 to 1000 mm/h, got 'heavy'"),
        ({"fog": 0}, r"weather fog: visibility must be a number of at least 1 m, got 0"),
        ({"rain": None}, "weather rain: no value given"),
        (["rain"], "expected a mapping"),
    ],
)
def test_mistakes_name_the_key_and_near_matches(mapping: dict, message: str) -> None:
    with pytest.raises(StreamError, match=message) as caught:
        parse_weather(mapping)
    assert "\n" not in str(caught.value)
