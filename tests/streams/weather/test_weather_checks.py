"""Checks 1 to 8 of specs/weather.md, section 10, for rain and fog; the number of the check is in the name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streams.frame import Intrinsics, Scene
from streams.weather import (
    EVENTS,
    Moment,
    SceneStatistics,
    WeatherStream,
    estimate_statistics,
    parse_effect,
    parse_weather,
    render,
)
from streams.weather.colour import srgb_to_linear
from streams.weather.drops import expected_streaks, make_drop_field, near_clip_correction
from streams.weather.fog import Fog
from streams.weather.rain import Rain
from streams.weather.timing import measure
from streams.weather.view import View, make_view

RATES = (25, 50, 75, 100, 200)
VISIBILITIES = (750, 375, 150, 75)
INTENSITY_0 = {"rain": 0, "fog": float("inf"), "night": 0, "snow": 0, "smog": 0, "wildfire": 0, "flood": 0}
SOME = {"rain": 100, "fog": 150, "night": 0.7, "snow": 5, "smog": 1, "wildfire": 1, "flood": 0.3}


def without_depth(scene: Scene) -> Scene:
    return replace(scene, depth_m=None, intrinsics=None)


def psnr(image: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    return float(-10 * np.log10(np.mean((image / 255.0 - reference / 255.0) ** 2)))


def large_view(t_seconds: float, seed: int = 5, ego_speed_mps: float = 0.0) -> View:
    """1024x512, f = 1131 px, empty: everything at the cap."""
    return View(
        np.zeros((512, 1024, 3), np.float32), np.full((512, 1024), 255, np.float32), Intrinsics(1131, 1131, 512, 256),
        Moment(0, t_seconds, seed, ego_speed_mps), SceneStatistics((0.6, 0.6, 0.6), (0.4, 0.4, 0.4), 255.0),
    )  # fmt: skip


# -- check 1: intensity 0 -> output equals input


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("with_depth", [True, False])
def test_check_1_intensity_0_returns_the_input(event: str, with_depth: bool) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 128, 3)).astype(np.uint8)
    image.flat[:256] = np.arange(256)
    scene = Scene(image, None, np.full((64, 128), 30, np.float32) if with_depth else None)
    out, record = render(scene, event, INTENSITY_0[event], seed=3)
    np.testing.assert_array_equal(out, image)
    assert record.extinction_per_km == 0
    changed, _ = render(scene, event, SOME[event], seed=3)
    assert (changed != image).any()


# -- check 2: same arguments -> identical bytes; frame 57 alone equals frame 57 of a run


@pytest.mark.parametrize(
    "weather",
    [
        {"rain": 100},
        {"fog": {"visibility": 150, "patchiness": 0.4}},
        {"night": 0.7},
        {"snow": {"rate": 3, "settled": 1}},
        {"flood": 0.3},
    ],
)
@pytest.mark.parametrize("with_depth", [True, False])
def test_check_2_frame_57_alone_equals_frame_57_of_a_run(weather: dict, with_depth: bool, road: Scene) -> None:
    scene = road if with_depth else without_depth(road)
    segment = WeatherStream(parse_weather(weather), 9, scene, ego_speed_mps=7.0)
    frames = [segment.render(scene, frame_index=i, t_seconds=i / 30)[0] for i in range(58)]
    make_drop_field.cache_clear()
    alone = WeatherStream(parse_weather(weather), 9, scene, ego_speed_mps=7.0)
    image, _ = alone.render(scene, frame_index=57, t_seconds=57 / 30)
    assert image.tobytes() == frames[57].tobytes()
    assert frames[57].tobytes() != frames[56].tobytes()


def test_check_2_lens_drops_are_the_same_alone_and_in_a_run(road: Scene) -> None:
    weather = parse_weather({"night": 0.4, "rain": {"rate": 400, "lens": True, "wiper": True, "wet": True}})
    segment = WeatherStream(weather, 9, road)
    frames = [segment.render(road, frame_index=i, t_seconds=i / 10)[0] for i in range(12)]
    alone, _ = WeatherStream(weather, 9, road).render(road, frame_index=11, t_seconds=1.1)
    np.testing.assert_array_equal(alone, frames[11])


def test_check_2_a_resumed_segment_uses_the_statistics_of_its_first_frame(road: Scene) -> None:
    darker = replace(road, image=(road.image * 0.5).astype(np.uint8))
    weather = parse_weather({"fog": 150, "rain": 50})
    whole = WeatherStream(weather, 4, road)
    whole.render(road, frame_index=0, t_seconds=0.0)
    resumed = WeatherStream(weather, 4, road)  # built from the first scene, starts with the second
    expected, _ = whole.render(darker, frame_index=1, t_seconds=0.1)
    np.testing.assert_array_equal(resumed.render(darker, frame_index=1, t_seconds=0.1)[0], expected)
    wrong = WeatherStream(weather, 4, darker)
    assert (wrong.render(darker, frame_index=1, t_seconds=0.1)[0] != expected).any()


def test_check_2_seed_and_time_change_the_rain_but_not_the_fog(road: Scene) -> None:
    base, _ = render(road, "rain", 100, seed=1, t_seconds=0.5)
    assert (render(road, "rain", 100, seed=2, t_seconds=0.5)[0] != base).any()
    assert (render(road, "rain", 100, seed=1, t_seconds=0.6)[0] != base).any()
    np.testing.assert_array_equal(render(road, "rain", 100, seed=1, t_seconds=0.5, frame_index=99)[0], base)
    fog, _ = render(road, "fog", 150, seed=1, t_seconds=0.5)
    np.testing.assert_array_equal(render(road, "fog", 150, seed=2, t_seconds=0.9)[0], fog)


# -- check 3: t(z) monotone in z and in intensity; measured t at 50 m and 150 m within 1 % of the tables


def measured_transmission(effect: Rain | Fog, depth_m: float) -> float:
    """Contrast left between a dark and a bright half at one depth, in linear light, away from their edge.

    The image is so small that no drop is a pixel wide: what is measured is extinction alone.
    """
    image = np.full((32, 64, 3), 40, np.uint8)
    image[:, 32:] = 200
    scene = Scene(image, None, np.full((32, 64), depth_m, np.float32))
    statistics = SceneStatistics((0.7, 0.75, 0.8), (0.5, 0.5, 0.5), 255.0)
    out, _ = effect.apply(make_view(scene, Moment(0, 0.0, 0), statistics))
    after, before = srgb_to_linear(out.astype(np.float64)), srgb_to_linear(image / 255)
    return float(((after[16, 56] - after[16, 8]) / (before[16, 56] - before[16, 8])).mean())


@pytest.mark.parametrize(
    ("rate", "t50", "t150"),
    [(25, 0.874, 0.667), (50, 0.807, 0.525), (75, 0.755, 0.430), (100, 0.711, 0.359), (200, 0.581, 0.196)],
)
def test_check_3_measured_rain_transmission_matches_the_table(rate: int, t50: float, t150: float) -> None:
    effect = Rain(rate, match_mean=False)
    assert measured_transmission(effect, 50) == pytest.approx(t50, rel=0.01)
    assert measured_transmission(effect, 150) == pytest.approx(t150, rel=0.01)


@pytest.mark.parametrize(
    ("visibility", "t50", "t50_at_2_percent"),
    [(750, 0.819, 0.770), (375, 0.671, 0.594), (150, 0.368, 0.271), (75, 0.136, 0.074)],
)
def test_check_3_measured_fog_transmission_matches_the_table(
    visibility: int, t50: float, t50_at_2_percent: float
) -> None:
    for refine in (True, False):
        assert measured_transmission(Fog(visibility, refine=refine), 50) == pytest.approx(t50, rel=0.01)
        dense = Fog(visibility, contrast_threshold=0.02, refine=refine)
        assert measured_transmission(dense, 50) == pytest.approx(t50_at_2_percent, rel=0.01)
        cubed = measured_transmission(Fog(visibility, refine=refine), 150)
        assert cubed == pytest.approx(0.05 ** (150 / visibility), rel=0.01)


@settings(max_examples=25, deadline=None)
@given(
    depths=st.tuples(st.floats(1, 254), st.floats(1, 254)),
    rates=st.tuples(st.floats(1, 300), st.floats(1, 300)),
    visibilities=st.tuples(st.floats(60, 2000), st.floats(60, 2000)),
)
def test_check_3_transmission_is_monotone_in_depth_and_intensity(
    depths: tuple[float, float], rates: tuple[float, float], visibilities: tuple[float, float]
) -> None:
    (near, far), (light, heavy), (dense, thin) = sorted(depths), sorted(rates), sorted(visibilities)
    slack = 1e-4  # table interpolation
    for effect in (Rain(light, match_mean=False), Fog(thin)):
        assert measured_transmission(effect, near) >= measured_transmission(effect, far) - slack
    lighter, heavier = Rain(light, match_mean=False), Rain(heavy, match_mean=False)
    assert measured_transmission(lighter, far) >= measured_transmission(heavier, far) - slack
    assert measured_transmission(Fog(thin), far) >= measured_transmission(Fog(dense), far) - slack


# -- check 4: streak count within 5 % of the clipped closed form; mean width 1.3 to 1.6 px at f = 1131


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("ego_speed_mps", [0.0, 10.0])
def test_check_4_streak_count_and_width(rate: int, ego_speed_mps: float) -> None:
    counts, widths, lengths, alphas = [], [], [], []
    for index in range(20):
        streaks = Rain(rate).streaks(large_view(index * 0.37, ego_speed_mps=ego_speed_mps))
        counts.append(streaks.in_view.sum())
        widths.append(streaks.width_px[streaks.in_view].mean())
        lengths.append(streaks.length_px[streaks.in_view].mean())
        alphas.append(streaks.alpha[streaks.in_view].mean())
    expected = expected_streaks(rate, 512, 1024, 1131) - near_clip_correction(rate, 512, 1024, 1131)
    assert np.mean(counts) == pytest.approx(expected, rel=0.05)
    assert 1.3 <= np.mean(widths) <= 1.6
    if ego_speed_mps == 0:
        assert 20 <= np.mean(lengths) <= 25
        assert 0.055 <= np.mean(alphas) <= 0.072


@pytest.mark.parametrize(("rate", "cover"), [(25, 0.033), (50, 0.070), (75, 0.092), (100, 0.120), (200, 0.212)])
def test_check_4_cover_and_count_in_the_record(rate: int, cover: float) -> None:
    view = large_view(1.0)
    _, record = Rain(rate).apply(view)
    assert record.drops == Rain(rate).streaks(view).in_view.sum()
    assert record.cover == pytest.approx(cover, rel=0.25)
    assert record.gain == pytest.approx(7.34, abs=0.01)


def test_check_4_rates_outside_the_published_ones() -> None:
    counts = [len(Rain(rate).streaks(large_view(0.0)).drop) for rate in (1, 5, 25, 200, 300)]
    assert counts == sorted(set(counts))
    assert counts[0] > 0


# -- check 5: PSNR to clear strictly decreasing


@pytest.mark.parametrize("options", [{}, {"match_mean": False}, {"gain": 1, "match_mean": False}])
def test_check_5_psnr_falls_with_the_rain_rate(options: dict, road: Scene) -> None:
    values = [psnr(render(road, "rain", {"rate": rate, **options})[0], road.image) for rate in (5, *RATES, 300)]
    assert all(first - second > 0.3 for first, second in pairwise(values)), values


@pytest.mark.parametrize("with_depth", [True, False])
def test_check_5_psnr_falls_with_visibility(with_depth: bool, road: Scene) -> None:
    scene = road if with_depth else without_depth(road)
    values = [psnr(render(scene, "fog", visibility)[0], road.image) for visibility in VISIBILITIES]
    assert all(first - second > 1 for first, second in pairwise(values)), values


def test_check_5_psnr_has_the_magnitude_of_the_prototype(make_road: Callable[[int, int], Scene]) -> None:
    scene = make_road(1024, 512)  # section 11.3, same kind of scene: ordering and magnitude
    for rate, faint, bright in [(25, 25.5, 22.7), (200, 17.7, 13.8)]:
        for gain, expected in [(1, faint), (None, bright)]:
            effect = Rain(rate, gain=gain, match_mean=False)
            assert psnr(render(scene, "rain", effect)[0], scene.image) == pytest.approx(expected, abs=3)


# -- check 6: drops visible in frame k appear at the predicted pixel in frame k+1


@pytest.mark.parametrize("wind", [0.0, 3.0])
def test_check_6_drops_move_to_the_predicted_pixel(wind: float) -> None:
    interval, effect = 1 / 60, Rain(100, wind_mps=wind)
    now, later = effect.streaks(large_view(2.0)), effect.streaks(large_view(2.0 + interval))
    diameter_mm = effect.field(large_view(2.0)).diameter_m[now.drop] * 1000
    shift_m = np.stack([np.full(diameter_mm.size, wind), 9.65 - 10.3 * np.exp(-0.6 * diameter_mm)], 1) * interval
    predicted = now.head + shift_m * 1131 / now.depth_m[:, None]
    inside = ((predicted >= 0) & (predicted < [1024, 512])).all(axis=1) & now.in_view
    place = dict(zip(later.drop, later.head, strict=True))
    assert inside.sum() > 500
    error = [np.abs(place[drop] - pixel).max() for drop, pixel in zip(now.drop[inside], predicted[inside], strict=True)]
    assert max(error) < 0.5


def test_check_6_streaks_are_painted_where_their_drops_are() -> None:
    # Few drops on black, no haze worth mentioning: the brightest pixel within 2 px of a streak's middle is lit.
    effect, view = Rain(2, match_mean=False), large_view(3.0)
    streaks = effect.streaks(view)
    out, _ = effect.apply(replace(view, statistics=SceneStatistics((0, 0, 0), (1, 1, 1), 255.0)))
    middle = np.round((streaks.head + streaks.tail) / 2 - 0.5).astype(int)
    inside = ((middle >= 3) & (middle < [1021, 509])).all(axis=1)
    assert inside.sum() >= 10
    for u, v in middle[inside]:
        assert out[v - 2 : v + 3, u - 2 : u + 3].max() > 0.2
    assert (out.max(axis=2) > 0.02).mean() < 0.02


# -- check 7: labels and depth are returned untouched, and labels have no influence by default


@pytest.mark.parametrize("event", EVENTS)
def test_check_7_nothing_in_the_scene_is_written(event: str, road: Scene) -> None:
    scene = Scene(road.image.copy(), road.label.copy(), road.depth_m.copy(), road.intrinsics)
    image, _ = render(scene, event, SOME[event], sky_id=10)
    np.testing.assert_array_equal(scene.image, road.image)
    np.testing.assert_array_equal(scene.label, road.label)
    np.testing.assert_array_equal(scene.depth_m, road.depth_m)
    assert image.shape == road.image.shape
    assert (image != road.image).any()


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("with_depth", [True, False])
def test_check_7_labels_do_not_influence_the_image(event: str, with_depth: bool, road: Scene) -> None:
    scene = road if with_depth else without_depth(road)
    shuffled = replace(
        scene, label=np.random.default_rng(0).permutation(scene.label.ravel()).reshape(scene.label.shape)
    )
    expected, _ = render(scene, event, SOME[event])
    np.testing.assert_array_equal(render(shuffled, event, SOME[event])[0], expected)
    np.testing.assert_array_equal(render(replace(scene, label=None), event, SOME[event])[0], expected)


# -- check 8: time a frame is reported (python -m streams.weather.timing), never asserted


def test_check_8_timing_reports_every_case() -> None:
    rows = measure(96, 48, frames=3)
    assert [event for event in EVENTS if any(event in case for case, _ in rows)] == list(EVENTS)
    assert all(0 < took["p50"] <= took["p95"] and took["cpu"] > 0 for _, took in rows)


def test_effects_take_their_statistics_from_the_segment(road: Scene) -> None:
    statistics = estimate_statistics(road)
    grey = replace(statistics, airlight=(0.1, 0.1, 0.1))
    hazy, _ = render(road, "fog", parse_effect("fog", 30), statistics=statistics)
    dark, _ = render(road, "fog", parse_effect("fog", 30), statistics=grey)
    assert hazy[0, -1].mean() - dark[0, -1].mean() > 80
