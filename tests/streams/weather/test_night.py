"""Dusk and night: darkening by strength, lamps, headlights, sensor noise, and night under other weather."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import poisson

from streams.errors import StreamError
from streams.frame import Intrinsics, Scene
from streams.weather import Moment, WeatherStream, estimate_statistics, parse_weather, render
from streams.weather.colour import linear_to_srgb, srgb_to_linear
from streams.weather.ground import LEVEL_GROUND, fit_ground, heights_m
from streams.weather.night import Night
from streams.weather.sensor import electrons_at_white, noisy
from streams.weather.view import View, make_view

STILL = {"noise": False, "lamps": False, "headlights": False}


def view_of(scene: Scene, frame_index: int = 0) -> View:
    return make_view(scene, Moment(frame_index, 0.5, 7), estimate_statistics(scene))


def test_frames_darken_steadily_from_day_to_deep_night(road: Scene) -> None:
    strengths = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1)
    means = [render(road, "night", {"strength": s})[0].mean() for s in strengths]
    assert all(brighter > darker for brighter, darker in pairwise(means)), means
    assert means[1] > 0.98 * means[0]  # no jump where night begins
    assert means[-1] < 0.15 * means[0]


@pytest.mark.parametrize(("tint", "colour"), [("moon", (0.8, 0.9, 1.15)), ("sodium", (1.1, 1.0, 0.75))])
def test_deep_night_keeps_the_stated_share_of_light(tint: str, colour: tuple[float, ...], road: Scene) -> None:
    linear = Night(1.0, tint=tint, **STILL).linear(view_of(road))
    day = srgb_to_linear(road.image / 255)
    np.testing.assert_allclose(linear[-1], day[-1] * 0.02 * colour, atol=2e-5)
    np.testing.assert_allclose(linear[0, -1], day[0, -1] * 0.02 * 0.05 * np.array(colour), atol=2e-5)


def test_at_dusk_the_sky_keeps_more_light_than_the_street(road: Scene) -> None:
    linear, day = Night(0.3, **STILL).linear(view_of(road)), srgb_to_linear(road.image / 255)
    kept = linear.mean(axis=2) / day.mean(axis=2)
    assert kept[-1].mean() == pytest.approx(0.02**0.3, rel=0.1)
    assert 0.7 < kept[0, -1] / kept[-1].mean() < 0.8


def test_headlights_light_the_road_ahead_and_not_walls_or_sky(road: Scene) -> None:
    lit, dark = (Night(0.7, headlights=on, noise=False, lamps=False).linear(view_of(road)) for on in (True, False))
    gain = lit.mean(axis=2) / dark.mean(axis=2)
    middle = road.intrinsics.cx
    z = road.depth_m[:, int(middle)]
    for row in (200, 250):
        assert gain[row, int(middle)] == pytest.approx(1 + 6 * np.exp(-z[row] / 25), rel=0.02)
    assert gain[250, int(middle)] > gain[200, int(middle)] > gain[150, int(middle)]
    np.testing.assert_allclose(gain[70:100, 5:160], 1, atol=0.02)  # the wall, above the beam
    np.testing.assert_allclose(gain[:60, 300:], 1, atol=1e-5)


def test_small_vivid_lights_shine_and_glow_and_large_or_white_things_do_not(road: Scene) -> None:
    image = road.image.copy()
    image[100:104, 60:64] = (255, 40, 20)  # a tail light on the dark wall
    image[100:104, 120:124] = (255, 255, 255)  # a white plate
    scene = replace(road, image=image)
    on, off = (Night(0.8, lamps=lamps, noise=False).linear(view_of(scene)) for lamps in (True, False))
    added = (on - off).mean(axis=2)
    assert on[101:103, 61:63, 0].min() > 1  # saturates
    assert added[101, 70] > added[101, 85] > 0  # glow fades with distance
    assert added[102, 122] < 0.02
    assert added[200:, 300:].max() < 1e-3


def test_lamps_come_on_between_a_fifth_and_three_fifths() -> None:
    assert [Night(s).switched_on for s in (0, 0.2, 0.6, 1)] == [0, 0, 1, 1]
    assert Night(0.4).switched_on == pytest.approx(0.5)


@pytest.mark.parametrize("electrons", [0.0, 0.7, 3.0, 5.9, 6.1, 20.0, 400.0])
def test_sensor_noise_has_the_moments_of_poisson_and_read_noise(electrons: float) -> None:
    stops = 0.0
    white = electrons_at_white(stops)
    offset = 40.0  # keeps what is measured clear of the clip at 0
    level = linear_to_srgb(np.full((400, 100, 3), (electrons + offset) / white)).astype(np.float32)
    measured = srgb_to_linear(noisy(level, stops, 3, 5).astype(np.float64)) * white
    total = electrons + offset
    assert measured.mean() == pytest.approx(total, abs=0.15)
    assert measured.var() == pytest.approx(total + 9 + 0.25, rel=0.04)


def test_few_photons_follow_the_poisson_law() -> None:
    from streams.weather.sensor import _poisson

    quantiles = (np.arange(2000) + 0.5) / 2000
    for mean in (0.1, 1.0, 5.5):
        drawn = [_poisson(mean, q) for q in quantiles]
        np.testing.assert_array_equal(drawn, poisson.ppf(quantiles, mean))


def test_noise_changes_with_seed_and_frame_alone_and_stops_raise_it(road: Scene) -> None:
    first, _ = render(road, "night", 0.7, seed=1, frame_index=4, t_seconds=0.3)
    same, _ = render(road, "night", 0.7, seed=1, frame_index=4, t_seconds=9.3)
    np.testing.assert_array_equal(first, same)
    assert (render(road, "night", 0.7, seed=1, frame_index=5)[0] != first).any()
    assert (render(road, "night", 0.7, seed=2, frame_index=4)[0] != first).any()
    spread = [render(road, "night", {"strength": 0.7, "stops": s})[0][-8:].std() for s in (-4, 0, 4)]
    assert spread[0] < spread[1] < spread[2]
    quiet = {"strength": 0.7, "noise": False}
    still, _ = render(road, "night", quiet, frame_index=4)
    np.testing.assert_array_equal(render(road, "night", quiet, frame_index=5, seed=9)[0], still)


def test_rows_share_an_offset() -> None:
    flat = linear_to_srgb(np.full((300, 400, 3), 0.02)).astype(np.float32)
    rows = srgb_to_linear(noisy(flat, 0.0, 1, 1).astype(np.float64)).mean(axis=(1, 2)) * 2000
    alone = (0.02 * 2000 + 9) / (400 * 3)
    assert rows.var() == pytest.approx(alone + 0.25, rel=0.3)


def test_chroma_blur_smooths_colour_and_keeps_brightness(road: Scene) -> None:
    rough = render(road, "night", {"strength": 0.8})[0].astype(float)
    smooth = render(road, "night", {"strength": 0.8, "chroma_blur": True})[0].astype(float)
    weights = np.array([0.299, 0.587, 0.114])
    assert np.abs((rough - smooth) @ weights).mean() < 1.5
    opponent = np.array([1.0, 0.0, -1.0])
    assert np.diff(smooth @ opponent, axis=1).std() < 0.6 * np.diff(rough @ opponent, axis=1).std()


def test_fog_after_nightfall_is_dark_and_noise_comes_last(road: Scene) -> None:
    def mean_of(weather: dict) -> float:
        return WeatherStream(parse_weather(weather), 1, road).render(road, frame_index=0, t_seconds=0)[0][:60].mean()

    assert mean_of({"night": 0.6, "fog": 60}) < 0.4 * mean_of({"fog": 60})
    assert mean_of({"night": 0.6, "rain": 100}) < 0.4 * mean_of({"rain": 100})
    thick = parse_weather({"night": 0.9, "fog": 2})  # nothing is seen but fog; the sensor still is noisy
    image, records = WeatherStream(thick, 1, road).render(road, frame_index=0, t_seconds=0)
    assert image[:60].std() > 1
    assert records[1].airlight == records[0].airlight


def test_night_without_depth_darkens_a_bright_sky_first(road: Scene) -> None:
    bare = replace(road, depth_m=None, intrinsics=None)
    image, _ = render(bare, "night", {"strength": 0.9, **STILL})
    assert image[5, 250:262].mean() < 8  # sky over the middle of the street
    assert image[100, 20:150].mean() > image[5, 250:262].mean()  # the wall is no sky


def test_ground_is_fitted_where_depth_shows_it() -> None:
    camera = Intrinsics(200, 200, 128, 64)
    u, v = np.meshgrid(np.arange(256) + 0.5, np.arange(128) + 0.5)
    normal = np.array([0.02, 0.998, 0.05])
    normal /= np.linalg.norm(normal)
    along = normal[0] * (u - 128) / 200 + normal[1] * (v - 64) / 200 + normal[2]
    depth = np.where(along > 0.005, 1.9 / along, np.inf).astype(np.float32)
    depth[80:110, 60:120] = 4.0  # a car
    plane = fit_ground(depth, camera)
    np.testing.assert_allclose(plane, (*normal, 1.9), atol=0.01)
    over = heights_m(depth, plane, camera)
    assert abs(over[120, 200]) < 0.02
    assert over[85, 90] > 0.4
    assert fit_ground(np.full((128, 256), np.inf, np.float32), camera) == LEVEL_GROUND
    assert fit_ground(np.full((128, 256), 5.0, np.float32), camera) == LEVEL_GROUND  # a wall


@pytest.mark.parametrize(
    "options",
    [{"strength": 1.5}, {"strength": -0.1}, {"strength": "dark"}, {"tint": "red"}, {"tint": 3}, {"lamps": 1},
     {"headlights": "on"}, {"noise": 0}, {"stops": 20}, {"stops": float("nan")}, {"chroma_blur": None}],
)  # fmt: skip
def test_bad_values_are_refused_with_the_key(options: dict) -> None:
    with pytest.raises(StreamError, match=f"weather night: {next(iter(options))} must be"):
        Night(**options)
