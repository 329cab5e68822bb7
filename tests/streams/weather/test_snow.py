"""Snow: sizes, fall, haze, opacity, and the snow that settles."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from streams.errors import StreamError
from streams.frame import Intrinsics, Scene
from streams.weather import Moment, SceneStatistics, estimate_statistics, render
from streams.weather.colour import srgb_to_linear
from streams.weather.snow import Snow, flakes_per_m3_mm, snow_extinction_per_km
from streams.weather.streaks import project_streaks
from streams.weather.view import View, make_view


def empty_view(t_seconds: float, seed: int = 5, ego_speed_mps: float = 0.0) -> View:
    """512x256, f = 565 px, nothing nearer than the cap."""
    return View(
        np.zeros((256, 512, 3), np.float32), np.full((256, 512), 255, np.float32), Intrinsics(565.5, 565.5, 256, 128),
        Moment(0, t_seconds, seed, ego_speed_mps), SceneStatistics((0.6, 0.6, 0.6), (0.4, 0.4, 0.4), 255.0),
    )  # fmt: skip


def view_of(scene: Scene, t_seconds: float = 0.5, ego_speed_mps: float = 0.0) -> View:
    return make_view(scene, Moment(0, t_seconds, 7, ego_speed_mps), estimate_statistics(scene))


@pytest.mark.parametrize(("rate", "wet", "dry"), [(1, 0.88, 1.27), (5, 2.82, 11.7), (10, 4.64, 30.5)])
def test_extinction_matches_the_table(rate: float, wet: float, dry: float, road: Scene) -> None:
    assert snow_extinction_per_km(rate) == pytest.approx(wet, rel=0.01)
    assert snow_extinction_per_km(rate, dry=True) == pytest.approx(dry, rel=0.01)
    assert render(road, "snow", {"rate": rate, "dry": True})[1].extinction_per_km == pytest.approx(dry, rel=0.01)


@pytest.mark.parametrize(("rate", "dry"), [(1, False), (5, False), (10, False), (1, True), (5, True)])
def test_measured_transmission_is_that_of_the_table_at_50_and_150_m(rate: float, dry: bool) -> None:
    image = np.full((32, 64, 3), 40, np.uint8)
    image[:, 32:] = 200
    statistics = SceneStatistics((0.7, 0.75, 0.8), (0.5, 0.5, 0.5), 255.0)
    for metres in (50, 150):
        scene = Scene(
            image, None, np.full((32, 64), metres, np.float32), Intrinsics(5, 5, 32, 16)
        )  # no flake is resolved
        out, _ = Snow(rate, dry=dry).apply(make_view(scene, Moment(0, 0.0, 0), statistics))
        after, before = srgb_to_linear(out.astype(np.float64)), srgb_to_linear(image / 255)
        left = float(((after[16, 56] - after[16, 8]) / (before[16, 56] - before[16, 8])).mean())
        assert left == pytest.approx(np.exp(-snow_extinction_per_km(rate, dry) * metres / 1000), rel=0.01, abs=1e-4)


def test_frames_differ_the_more_from_clear_the_more_it_snows(road: Scene) -> None:
    errors = [((render(road, "snow", r)[0] / 255.0 - road.image / 255.0) ** 2).mean() for r in (0.5, 1, 3, 5, 10, 20)]
    assert all(less < more for less, more in pairwise(errors))


@pytest.mark.parametrize("rate", [1, 5])
@pytest.mark.parametrize("ceiling", [None, 8])
def test_flakes_in_view_are_as_many_as_the_sizes_say(rate: float, ceiling: float | None) -> None:
    effect = Snow(rate, ceiling_mm_h=ceiling)
    counts = [effect.streaks(empty_view(t)).in_view.sum() for t in (0.0, 7.3, 21.9, 60.1)]
    melted = np.linspace(0.1, 6, 40_000)
    focal, near = 565.5, 0.5
    reach = np.maximum((3 * melted * 1e-3 * focal) ** 3 - near**3, 0)  # flakes a pixel wide, behind the near clip
    volume = 512 * 256 / (3 * focal**2) * reach
    expected = np.sum(flakes_per_m3_mm(rate, melted) * volume) * (melted[1] - melted[0])
    assert np.mean(counts) == pytest.approx(expected, rel=0.06)


def test_flakes_fall_slowly_and_sway_about_their_way() -> None:
    effect = Snow(5)
    interval = 1 / 30
    now, later = effect.streaks(empty_view(2.0)), effect.streaks(empty_view(2.0 + interval))
    place = dict(zip(later.drop, later.head, strict=True))
    moved = [
        (place[d] - p) * z / 565.5 / interval
        for d, p, z, seen in zip(now.drop, now.head, now.depth_m, now.in_view, strict=True)
        if seen and d in place
    ]
    aside, down = np.transpose(moved)
    usual = np.abs(down - 1) < 0.5  # the rest began to fall anew
    assert usual.mean() > 0.9
    assert 0.79 <= down[usual].min() < down[usual].max() <= 1.21
    assert 0.2 < np.abs(aside[usual]).max() <= 0.31


def test_wind_and_ego_speed_move_flakes_during_the_exposure() -> None:
    def path(view: View, **options: float) -> np.ndarray:
        flakes = Snow(3, exposure_ms=10, **options).streaks(view)
        metres = (flakes.tail - flakes.head) * flakes.depth_m[:, None] / 565.5
        return metres[flakes.in_view]

    assert np.median(path(empty_view(1.0), wind_mps=6.0)[:, 0]) == pytest.approx(0.06, rel=0.1)
    still, driving = (np.hypot(*path(empty_view(1.0, ego_speed_mps=s)).T).mean() for s in (0.0, 15.0))
    assert driving > 1.5 * still


def test_exposure_lengthens_flakes() -> None:
    lengths = [Snow(3, exposure_ms=ms).streaks(empty_view(1.0)).length_px.mean() for ms in (2, 20)]
    assert lengths[1] == pytest.approx(10 * lengths[0], rel=0.1)


def test_wide_flakes_hide_what_is_behind_and_small_ones_do_not() -> None:
    from streams.weather.snow import _opaque

    flakes = Snow(5).streaks(empty_view(1.0))
    alpha = _opaque(flakes).alpha
    assert alpha[flakes.width_px > 3.5].min() > 0.85
    np.testing.assert_allclose(alpha[flakes.width_px <= 1.0], flakes.alpha[flakes.width_px <= 1.0])
    assert (
        project_streaks(Snow(5).field(empty_view(1.0)), flakes.drop[:0], np.zeros((0, 3)), np.zeros((0, 3))).alpha.size
        == 0
    )


def test_flakes_are_white_against_dark_and_behind_nearer_surfaces_hidden(road: Scene) -> None:
    dark = replace(road, image=np.full_like(road.image, 10))
    statistics = replace(estimate_statistics(road), airlight=(0.5, 0.5, 0.5))
    image, record = render(dark, "snow", 5, statistics=statistics)
    assert record.drops > 200
    assert 0.005 < record.cover < 0.5
    assert image.max() > 150
    close = replace(dark, depth_m=np.full_like(road.depth_m, 0.4))
    assert render(close, "snow", 5, statistics=statistics)[1].cover == 0


def test_settled_snow_whitens_the_ground_by_its_depth_and_nothing_else(road: Scene) -> None:
    levels = [render(road, "snow", {"rate": 0, "settled": s})[0].astype(float) for s in (0, 0.2, 0.6, 5)]
    ground = [image[200:].mean() for image in levels]
    assert all(less < more for less, more in pairwise(ground))
    np.testing.assert_array_equal(levels[0], road.image)
    assert ground[-1] > 200
    assert np.ptp(levels[1][200:].mean(axis=2)) > 80  # patches first
    np.testing.assert_allclose(levels[-1][:100], road.image[:100], atol=1)  # sky and wall
    assert render(road, "snow", {"rate": 0, "settled": 0.6})[1].strength == pytest.approx(1 - np.exp(-1.2))


def with_pole(road: Scene, foot_row: int, top_row: int, columns: slice) -> Scene:
    """A road with something that stands on it: its depth is that of its foot all the way up."""
    depth, image = road.depth_m.copy(), road.image.copy()
    depth[top_row : foot_row + 1, columns] = depth[foot_row, columns]
    image[top_row : foot_row + 1, columns] = (60, 40, 30)
    return replace(road, depth_m=depth, image=image)


@pytest.mark.parametrize(("foot_row", "top_row"), [(240, 60), (180, 100), (160, 130)])
def test_no_snow_settles_on_what_stands(road: Scene, foot_row: int, top_row: int) -> None:
    pole, beside, column = np.s_[top_row : foot_row + 1, 300:306], np.s_[foot_row - 2 : foot_row + 1, 320:360], 300
    scene = with_pole(road, foot_row, top_row, np.s_[column : column + 6])
    statistics = estimate_statistics(road)
    snowy, _ = render(scene, "snow", {"rate": 0, "settled": 20}, statistics=statistics)
    np.testing.assert_allclose(snowy[pole], scene.image[pole], atol=1)
    assert snowy[beside].min() > 180
    assert snowy[foot_row + 2, column : column + 6].min() > 180, "up to its foot"


def test_what_falls_adds_to_the_cover_and_bare_ground_stays_bare() -> None:
    assert Snow(5).cover(3600) == 0
    assert Snow(5, settled_mm=0).cover(0) == 0
    assert Snow(5, settled_mm=0).cover(360) == pytest.approx(1 - np.exp(-1))


def test_settled_patches_stay_where_they_are_while_the_camera_drives(road: Scene) -> None:
    from streams.weather.counter_rng import event_key
    from streams.weather.value_noise import value_noise

    key = event_key(1, "snow cover")
    at_start = value_noise(key, 2.0, 12.0)
    assert value_noise(key, 2.0, 12.0) == at_start
    assert abs(value_noise(key, 2.01, 12.0) - at_start) < 0.05
    options = {"rate": 0, "settled": 0.3}
    seen = [render(road, "snow", options, t_seconds=t, ego_speed_mps=5.0)[0].astype(int) for t in (0, 0.01, 1)]
    assert np.abs(seen[1] - seen[0]).mean() < np.abs(seen[2] - seen[0]).mean() / 5


@pytest.mark.parametrize(
    "options",
    [{"rate_mm_h": -1}, {"rate_mm_h": 50}, {"dry": 1}, {"exposure_ms": 0}, {"wind_mps": 99}, {"settled_mm": -1},
     {"ceiling_mm_h": 1}],
)  # fmt: skip
def test_bad_values_are_refused_with_the_key(options: dict) -> None:
    key = next(iter(options)).split("_")[0]
    with pytest.raises(StreamError, match=f"weather snow: {key} must be"):
        Snow(**options)
