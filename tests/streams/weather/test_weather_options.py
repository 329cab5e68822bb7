"""Every option of rain and fog changes what it says and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.errors import StreamError
from streams.frame import Scene
from streams.weather import Moment, estimate_statistics, render
from streams.weather.colour import offset_for_mean
from streams.weather.fog import Fog
from streams.weather.rain import Rain
from streams.weather.streaks import streak_gains
from streams.weather.view import View, make_view


def view_of(scene: Scene, t_seconds: float = 0.5, ego_speed_mps: float = 0.0) -> View:
    return make_view(scene, Moment(0, t_seconds, 7, ego_speed_mps), estimate_statistics(scene))


def test_match_mean_keeps_the_mean_and_its_absence_does_not(road: Scene) -> None:
    matched, _ = render(road, "rain", {"rate": 200})
    free, _ = render(road, "rain", {"rate": 200, "match_mean": False})
    assert matched.mean() == pytest.approx(road.image.mean(), abs=0.5)
    assert free.mean() - road.image.mean() > 15


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.05, 0.95))
def test_offset_for_mean_solves_the_clipped_equation(seed: int, mean: float) -> None:
    counts = np.random.default_rng(seed).integers(0, 50, 1024)
    values = np.repeat((np.arange(1024) + 0.5) / 1024, counts)
    assert np.clip(values - offset_for_mean(counts, mean), 0, 1).mean() == pytest.approx(mean, abs=1e-4)


def test_gain_brightens_streaks_within_its_limit(road: Scene) -> None:
    faint, record = render(road, "rain", {"rate": 100, "gain": 1, "match_mean": False})
    bright, _ = render(road, "rain", {"rate": 100, "gain": 20, "match_mean": False})
    assert record.gain == 1
    assert bright.astype(int).sum() > faint.astype(int).sum()
    alpha = np.array([0.01, 0.05, 0.2, 0.5])
    gains = streak_gains(alpha, 7.34)
    np.testing.assert_allclose(gains, [7.34, 7.34, 3.0, 1.2])
    assert (gains * alpha <= 0.6 + 1e-12).all()


def test_exposure_lengthens_streaks_and_raises_the_default_gain(road: Scene) -> None:
    short, long = Rain(100, exposure_ms=2), Rain(100, exposure_ms=8)
    ratio = long.streaks(view_of(road)).length_px.mean() / short.streaks(view_of(road)).length_px.mean()
    assert ratio == pytest.approx(4, rel=0.1)
    gain = [effect.apply(view_of(road))[1].gain for effect in (short, long)]
    assert gain[1] / gain[0] == pytest.approx(4)


@pytest.mark.parametrize("wind", [-4.0, 4.0])
def test_wind_slants_streaks(wind: float, road: Scene) -> None:
    streaks = Rain(100, wind_mps=wind).streaks(view_of(road))
    slant = (streaks.tail - streaks.head)[:, 0] / (streaks.tail - streaks.head)[:, 1]
    assert np.sign(np.median(slant)) == np.sign(wind)
    assert abs(np.median(slant)) == pytest.approx(4 / 6.5, rel=0.2)
    upright = Rain(100).streaks(view_of(road))
    np.testing.assert_allclose(upright.tail[:, 0], upright.head[:, 0])


def test_ego_speed_spreads_streaks_from_the_vanishing_point(road: Scene) -> None:
    speed, still, moving = 12.0, Rain(100), Rain(100)
    at_rest = still.streaks(view_of(road, t_seconds=0.0))
    driving = moving.streaks(view_of(road, t_seconds=0.0, ego_speed_mps=speed))
    common, i, j = np.intersect1d(at_rest.drop, driving.drop, return_indices=True)
    assert common.size > 100
    radius = at_rest.head[i] - np.array([road.intrinsics.cx, road.intrinsics.cy])
    extra = driving.tail[j] - at_rest.tail[i]
    # Spec: r s T / z, exactly r_tail s T / (z - s T) with the radius of the tail.
    travelled = speed * 0.005
    tail_radius = at_rest.tail[i] - np.array([road.intrinsics.cx, road.intrinsics.cy])
    factor = travelled / (at_rest.depth_m[i] - travelled)
    np.testing.assert_allclose(extra, tail_radius * factor[:, None], atol=1e-9)
    assert (np.sign(extra[:, 0]) == np.sign(radius[:, 0])).all()


def test_surfaces_nearer_than_a_drop_hide_it(road: Scene) -> None:
    behind_glass = replace(road, depth_m=np.full_like(road.depth_m, 0.4))
    image, record = render(behind_glass, "rain", {"rate": 200, "match_mean": False})
    assert record.cover == 0
    assert np.abs(image.astype(int) - road.image).max() <= 2  # next to no haze over 0.4 m
    left_covered = road.depth_m.copy()
    left_covered[:, :256] = 0.4
    image, record = render(replace(road, depth_m=left_covered), "rain", {"rate": 200, "match_mean": False, "gain": 20})
    left = (np.abs(image.astype(int) - road.image).max(axis=2) > 20)[:, :256].mean()
    assert record.cover > 0.01
    assert left == 0


def test_ripple_modulates_streaks_only(road: Scene) -> None:
    even, record = render(road, "rain", {"rate": 100, "match_mean": False})
    rippled, rippled_record = render(road, "rain", {"rate": 100, "match_mean": False, "ripple": True})
    changed = (even != rippled).any(axis=2).mean()
    assert 0 < changed < 4 * record.cover
    assert rippled_record.cover == record.cover
    assert rippled.mean() == pytest.approx(even.mean(), abs=0.5)


def test_refine_follows_image_edges_where_depth_is_noisy(road: Scene) -> None:
    noise = np.random.default_rng(0).normal(1, 0.15, road.depth_m.shape).astype(np.float32)
    noisy = replace(road, depth_m=road.depth_m * noise)
    clean = Fog(100, refine=False).transmission(view_of(road))
    wall = np.s_[80:120, 20:150]
    for refine, worst in ((False, 1.0), (True, 0.35)):
        error = np.abs(Fog(100, refine=refine).transmission(view_of(noisy)) - clean)[wall].mean()
        raw = np.abs(Fog(100, refine=False).transmission(view_of(noisy)) - clean)[wall].mean()
        assert error <= worst * raw


def test_patchiness_varies_density_and_drifts_slowly(road: Scene) -> None:
    flat = replace(road, depth_m=np.full_like(road.depth_m, 100.0))
    even = Fog(150, refine=False).transmission(view_of(flat))
    patchy = Fog(150, refine=False, patchiness=0.4)
    banks = patchy.transmission(view_of(flat, t_seconds=0.0))
    assert even.std() < 1e-6
    assert banks.std() > 0.005
    beta = -np.log(0.05) / 150
    assert np.exp(-beta * 140) < banks.min()
    assert banks.max() < np.exp(-beta * 60)
    soon = patchy.transmission(view_of(flat, t_seconds=1 / 30))
    later = patchy.transmission(view_of(flat, t_seconds=20.0))
    assert 0 < np.abs(soon - banks).max() < 0.01
    assert np.abs(later - banks).max() > 0.02
    np.testing.assert_allclose(Fog(150, refine=False, patchiness=1e-9).transmission(view_of(flat)), even, rtol=1e-4)


def test_mist_scatters_blue_more_than_red() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    view = view_of(Scene(image, None, np.full((8, 8), 60, np.float32)))
    view = replace(view, statistics=replace(view.statistics, airlight=(0.5, 0.5, 0.5)))
    grey, _ = Fog(150).apply(view)
    mist, _ = Fog(150, mist=True).apply(view)
    assert np.ptp(grey[4, 4]) < 1e-6
    assert mist[4, 4, 0] < grey[4, 4, 1] < mist[4, 4, 2]
    assert mist[4, 4, 1] == pytest.approx(grey[4, 4, 1], abs=1e-6)


def test_contrast_threshold_is_recorded_and_thickens_fog(road: Scene) -> None:
    _, thin = render(road, "fog", 150)
    _, dense = render(road, "fog", {"visibility": 150, "contrast": 0.02})
    assert (thin.contrast_threshold, dense.contrast_threshold) == (0.05, 0.02)
    assert thin.extinction_per_km == pytest.approx(19.97, abs=0.01)
    assert dense.extinction_per_km == pytest.approx(26.08, abs=0.01)
    assert thin.visibility_m == dense.visibility_m == 150


@pytest.mark.parametrize(
    ("effect", "options"),
    [
        (Rain, {"rate_mm_h": -1}), (Rain, {"rate_mm_h": float("nan")}), (Rain, {"rate_mm_h": True}),
        (Rain, {"rate_mm_h": "50"}), (Rain, {"match_mean": 1}), (Rain, {"gain": -1}), (Rain, {"exposure_ms": 0}),
        (Rain, {"wind_mps": 99}), (Rain, {"ripple": "yes"}), (Fog, {"visibility_m": 0}),
        (Fog, {"contrast_threshold": 1.0}), (Fog, {"refine": None}), (Fog, {"patchiness": 2}), (Fog, {"mist": 0}),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused_with_the_key(effect: type, options: dict) -> None:
    with pytest.raises(StreamError, match=f"weather {effect.__name__.lower()}: .* must be"):
        effect(**options)


def test_rain_below_its_ceiling_has_the_drops_of_its_rate_and_moves_none(road: Scene) -> None:
    view = view_of(road)
    for rate in (25, 100):
        free = [len(Rain(rate).streaks(view_of(road, t_seconds=t)).drop) for t in (0.1, 5.1, 9.7)]
        thinned = [len(Rain(rate, ceiling_mm_h=200).streaks(view_of(road, t_seconds=t)).drop) for t in (0.1, 5.1, 9.7)]
        assert np.mean(thinned) == pytest.approx(np.mean(free), rel=0.1)
    light, heavy = (Rain(rate, ceiling_mm_h=200).streaks(view) for rate in (60, 70))
    _, i, j = np.intersect1d(light.drop, heavy.drop, return_indices=True)
    assert len(i) == len(light.drop) < len(heavy.drop)
    np.testing.assert_array_equal(light.head[i], heavy.head[j])
    with pytest.raises(StreamError, match="weather rain: ceiling must be"):
        Rain(50, ceiling_mm_h=20)
