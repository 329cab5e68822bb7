"""Weather that changes: ramps over a visit, seeded walks, and what a mistake answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.errors import StreamError
from streams.frame import Scene
from streams.schedule import load_schedule
from streams.stream import Stream
from streams.weather import EVENTS, Changing, Moment, WeatherStream, parse_effect, parse_weather, render
from streams.weather.fog import Fog
from streams.weather.rain import Rain


def at(event: str, options: object, progress: float = 0.0, t_seconds: float = 0.0, seed: int = 0) -> object:
    effect = parse_effect(event, options)
    assert isinstance(effect, Changing)
    return effect.at(Moment(0, t_seconds, seed, progress=progress))


def test_a_ramp_starts_and_ends_at_its_values() -> None:
    ramp = {"from": 10, "to": 100}
    assert at("rain", ramp) == Rain(10, ceiling_mm_h=100)
    assert at("rain", ramp, 0.5) == Rain(55, ceiling_mm_h=100)
    assert at("rain", ramp, 1.0) == Rain(100, ceiling_mm_h=100)
    assert at("rain", {"rate": {"from": 80, "to": 0}, "wind": 3}, 1.0) == Rain(0, wind_mps=3, ceiling_mm_h=80)


def test_visibility_changes_evenly_in_extinction() -> None:
    ramp = {"from": float("inf"), "to": 100}
    assert [at("fog", ramp, p).visibility_m for p in (0, 0.25, 0.5, 1)] == [float("inf"), 400, 200, 100]
    mild = {"visibility": {"from": 300, "to": 100}, "patchiness": {"from": 0, "to": 0.4}}
    halfway = at("fog", mild, 0.5)
    assert halfway.visibility_m == pytest.approx(150)
    assert halfway == Fog(halfway.visibility_m, patchiness=0.2)


@pytest.mark.parametrize(
    ("event", "low", "high"),
    [("rain", 0, 100), ("fog", 2000, 75), ("night", 0, 0.8), ("snow", 0, 8), ("smog", 0, 2), ("wildfire", 0, 1)],
)
def test_a_visit_passes_gradually_from_one_strength_to_another(
    event: str, low: float, high: float, road: Scene
) -> None:
    segment = WeatherStream(parse_weather({event: {"from": low, "to": high}}), 3, road)

    def frame(progress: float) -> np.ndarray:
        return segment.render(road, frame_index=7, t_seconds=0.7, progress=progress)[0].astype(float)

    first, last = (render(road, event, v, seed=3, frame_index=7, t_seconds=0.7)[0].astype(float) for v in (low, high))
    assert np.abs(frame(0) - first).mean() < 1
    # Rain and snow up to a ceiling have drops of their own.
    assert np.abs(frame(1) - last).mean() < (5 if event in ("rain", "snow") else 1)
    away = [np.abs(frame(p) - first).mean() for p in (0.0, 0.2, 0.5, 1.0)]
    assert away == sorted(away)
    assert away[1] < 0.75 * away[3]
    assert np.abs(frame(0.5) - frame(0.505)).mean() < 0.1 * away[3] + 0.3


def test_rain_that_grows_keeps_the_drops_that_fall(road: Scene) -> None:
    ramp = {"rate": {"from": 20, "to": 100}, "match_mean": False}
    segment = WeatherStream(parse_weather({"rain": ramp}), 3, road)
    drops = [segment.render(road, frame_index=0, t_seconds=1, progress=p)[1][0].drops for p in (0, 0.3, 0.6, 1)]
    assert drops == sorted(set(drops))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 20_000), st.floats(0.01, 1))
def test_a_walk_stays_within_its_ends_and_takes_small_steps(seed: int, t: float, step: float) -> None:
    walk = {"walk": [20, 80], "every": 2, "step": step}
    now, soon = (at("rain", walk, 0.0, moment, seed).rate_mm_h for moment in (t, t + 0.05))
    assert 20 <= now <= 80
    assert abs(soon - now) <= 60 * step * 0.05 / 2 * 7.2  # steps beyond 7 sigma do not occur


def test_a_walk_follows_seed_event_and_time_and_reaches_all_of_its_range() -> None:
    def path(event: str, seed: int) -> np.ndarray:
        walk = {"walk": [0, 1], "every": 1}
        fields = {"night": "strength", "smog": "strength"}
        return np.array([getattr(at(event, walk, 0.0, t, seed), fields[event]) for t in range(400)])

    first = path("night", 1)
    np.testing.assert_array_equal(first, path("night", 1))
    assert (first != path("night", 2)).any()
    assert (first != path("smog", 1)).any()
    assert first.min() < 0.05
    assert first.max() > 0.95
    assert 0.05 < np.abs(np.diff(first)).mean() < 0.25
    across_blocks = [
        at("night", {"walk": [0, 1], "every": 1, "step": 0.01}, 0, t, 1).strength for t in (1023.99, 1024.01)
    ]
    assert abs(across_blocks[0] - across_blocks[1]) < 0.01


def test_a_schedule_ramps_over_its_visit_and_frames_stand_alone(tmp_path: Path) -> None:
    file = tmp_path / "ramp.yaml"
    file.write_text(
        "size: [32, 64]\nvisits:\n"
        "  - {domain: dusk, town: true, frames: 5, weather: {night: {strength: {from: 0, to: 0.9}, noise: false}}}\n"
        "  - {domain: walk, town: true, frames: 3, weather: {fog: {walk: [1000, 50], every: 0.5}}}\n"
    )
    with Stream(load_schedule(file), seed=4) as stream:
        frames = [item.frame.image for item in stream]
        assert (stream[6].frame.image == frames[6]).all()
        assert (stream[3].frame.image == frames[3]).all()
    means = [frame.mean() for frame in frames[:5]]
    assert all(np.diff(means) < 0)
    with Stream(load_schedule(file), seed=4, frames=3) as short:  # a capped visit still arrives
        assert short[2].frame.image.mean() < 0.5 * short[0].frame.image.mean()


def test_only_parameters_that_may_change_do() -> None:
    movable = {event: [p.key for p in registered.parameters if p.movable] for event, registered in EVENTS.items()}
    for event, keys in movable.items():
        assert EVENTS[event].parameters[0].key in keys
    with pytest.raises(StreamError, match="weather rain: wind cannot change during a visit"):
        parse_effect("rain", {"wind": {"from": 0, "to": 3}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"from": 0}, "rate needs both 'from' and 'to', 'to' is missing"),
        ({"to": 5}, "'from' is missing"),
        ({"from": 0, "to": 5, "every": 2}, "'every' does not go with 'from'; known: from, to"),
        ({"walk": [0, 5], "to": 3}, "'to' does not go with 'walk'; known: walk, every, step"),
        ({"walk": 5}, "walk must be two values to wander between as in"),
        ({"walk": [0, 1, 2]}, "walk must be two values"),
        ({"walk": [0, 5], "every": 0}, "every must be a number from 0.1"),
        ({"walk": [0, 5], "step": 2}, "step must be a number from 0.001 to 1"),
        ({"from": "dry", "to": 5}, "rate must be a number"),
        ({"from": 0, "to": 5000}, "rate must be a number from 0 to 1000 mm/h, got 5000"),
        ({"from": 0, "to": float("inf")}, "rate cannot change from or to inf"),
        ({"rate": {"from": 0}}, "rate needs both"),
        ({"match_mean": {"from": 0, "to": 1}}, "match_mean cannot change"),
    ],
)
def test_mistakes_are_one_line_that_names_the_key(options: dict, message: str) -> None:
    with pytest.raises(StreamError, match=message) as caught:
        parse_weather({"rain": options})
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("weather rain: ")


def test_fog_cannot_begin_at_no_visibility() -> None:
    with pytest.raises(StreamError, match="visibility cannot change from or to 0"):
        parse_effect("fog", {"from": 0, "to": 50})
