"""What effects see: completed depth, the ground-plane estimate, segment statistics, colour, random numbers, filter."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.errors import StreamError
from streams.frame import Intrinsics, Scene
from streams.weather import estimate_statistics, render
from streams.weather.colour import (
    decode_image,
    encode_image,
    encode_with_histogram,
    from_uint8,
    linear_to_srgb,
    srgb_to_linear,
    to_uint8,
)
from streams.weather.counter_rng import event_key, mix, uniform, uniform_column
from streams.weather.ground_plane import ground_plane_depth
from streams.weather.guided_filter import guided_filter
from streams.weather.value_noise import noise_between, noise_lattice, value_noise
from streams.weather.view import complete_depth


def test_depth_is_capped_and_holes_take_the_95th_percentile_or_the_sky_label() -> None:
    depth = np.linspace(1, 100, 400, dtype=np.float32).reshape(20, 20)
    depth[0, :4] = 0, -1, np.nan, np.inf
    depth[1, 0] = 900
    label = np.zeros((20, 20), np.uint8)
    label[0, 0] = label[2, 0] = 10
    scene = Scene(np.zeros((20, 20, 3), np.uint8), label, depth)
    fill = estimate_statistics(scene).fill_depth_m
    measured = np.minimum(depth[np.isfinite(depth) & (depth > 0)], 255)
    assert fill == pytest.approx(np.percentile(measured, 95))
    done = complete_depth(scene, fill)
    np.testing.assert_allclose(done[0, :4], [fill, fill, fill, 255], rtol=1e-6)
    assert done[1, 0] == 255
    np.testing.assert_array_equal(done[3:], depth[3:])
    labelled = complete_depth(scene, fill, sky_id=10)
    assert labelled[0, 0] == 255
    assert labelled[2, 0] == depth[2, 0]  # a measured depth wins over the label


def test_ground_plane_depth_is_a_street() -> None:
    depth = ground_plane_depth(256, 512)
    focal = 1131 / 2
    assert depth.dtype == np.float32
    assert depth.min() > 3
    assert depth.max() == pytest.approx(255)
    assert depth[255, 256] == pytest.approx(focal * 1.5 / 127.5, rel=1e-5)  # flat ground, camera at 1.5 m
    assert (np.diff(depth[128:, 256]) <= 0).all()
    assert depth[0, 256] == pytest.approx(255)  # sky over the middle of the street
    assert depth[120, 0] == pytest.approx(focal * 10 / 255.5, rel=0.01)  # facade at 10 m
    assert (np.diff(depth[120, :256]) >= 0).all()  # rises towards the vanishing point
    np.testing.assert_allclose(depth, depth[:, ::-1])
    assert not depth.flags.writeable


def test_ground_plane_depth_follows_intrinsics_and_camera_height() -> None:
    camera = Intrinsics(400, 400, 256, 100)
    depth = ground_plane_depth(256, 512, camera)
    assert depth[255, 256] == pytest.approx(400 * 1.5 / 155.5, rel=1e-5)
    assert ground_plane_depth(256, 512, camera, 3.0)[255, 256] == pytest.approx(400 * 3 / 155.5, rel=1e-5)


def test_scenes_without_depth_use_the_ground_plane(road: Scene) -> None:
    bare = replace(road, depth_m=None, intrinsics=None)
    statistics = estimate_statistics(bare)
    explicit = replace(road, depth_m=ground_plane_depth(256, 512).copy(), intrinsics=None)
    for event, value in (("rain", 100), ("fog", 150)):
        expected, _ = render(explicit, event, value, statistics=statistics)
        np.testing.assert_array_equal(render(bare, event, value, statistics=statistics)[0], expected)


def test_airlight_is_the_median_sky_or_the_brightest_hundredth_of_the_upper_half() -> None:
    image = np.full((40, 50, 3), 60, np.uint8)
    image[:10] = (150, 180, 210)
    image[5, :10] = 255  # a cloud, out of the median
    image[30:] = 250  # bright ground, never airlight
    depth = np.full((40, 50), 20, np.float32)
    depth[:10] = np.inf
    sky = srgb_to_linear(np.array([150, 180, 210]) / 255)
    np.testing.assert_allclose(estimate_statistics(Scene(image, None, depth)).airlight, sky, rtol=1e-6)
    np.testing.assert_allclose(estimate_statistics(Scene(image)).airlight, 1.0)
    by_label = Scene(image, np.where(depth > 100, 10, 0).astype(np.uint8), np.full((40, 50), 20, np.float32))
    np.testing.assert_allclose(estimate_statistics(by_label, sky_id=10).airlight, sky, rtol=1e-6)
    np.testing.assert_allclose(estimate_statistics(by_label).airlight, 1.0)
    np.testing.assert_allclose(estimate_statistics(replace(by_label, depth_m=None), sky_id=10).airlight, 1.0)


def test_drop_radiance_weighs_sky_upper_half_and_whole_frame() -> None:
    image = np.zeros((10, 10, 3), np.uint8)
    image[:5] = 255
    radiance = estimate_statistics(Scene(image)).drop_radiance
    np.testing.assert_allclose(radiance, 0.94 * (1 + 1) / 2 + 0.06 * 0.5)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(StreamError, match="uint8"):
        render(Scene(np.zeros((4, 4, 3), np.float32)), "rain", 50)  # type: ignore[arg-type]
    with pytest.raises(StreamError, match=r"depth is \(2, 2\)"):
        render(Scene(np.zeros((4, 4, 3), np.uint8), None, np.ones((2, 2), np.float32)), "rain", 50)
    with pytest.raises(StreamError, match=r"label is \(2, 2\)"):
        render(Scene(np.zeros((4, 4, 3), np.uint8), np.zeros((2, 2), np.uint8)), "rain", 50)


def test_colour_tables_follow_srgb_and_round_trip_every_level() -> None:
    levels = np.linspace(0, 1, 9999, dtype=np.float32).reshape(-1, 1, 3)
    linear = decode_image(levels)
    np.testing.assert_allclose(linear, srgb_to_linear(levels.astype(np.float64)), atol=2e-5)
    encoded = levels.copy()
    counts = encode_with_histogram(encoded)
    np.testing.assert_allclose(encoded, linear_to_srgb(levels.astype(np.float64)), atol=2e-5)
    assert counts.sum() == levels.size
    np.testing.assert_array_equal(counts, np.histogram(encoded, 1024, (0, 1))[0])
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(256, 1, 3)
    np.testing.assert_array_equal(from_uint8(every), every * np.float32(1 / 255))
    np.testing.assert_array_equal(to_uint8(encode_image(decode_image(from_uint8(every)))), every)


def test_counter_rng_matches_splitmix64() -> None:
    # First outputs of the reference generator for seed 1234567 (state advances by the golden gamma).
    state, gamma = 1234567, 0x9E3779B97F4A7C15
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [int(mix(np.uint64((state + i * gamma) % 2**64))) for i in range(3)] == expected


def test_counter_rng_is_uniform_and_keyed() -> None:
    key = event_key(3, "rain")
    draws = uniform_column(key, 20_000, 5, 6)
    assert draws[17] == uniform(key, 17, 5, 6)
    np.testing.assert_allclose(np.histogram(draws, 10, (0, 1))[0], 2000, rtol=0.1)
    assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 0.03
    assert abs(np.corrcoef(draws, uniform_column(event_key(3, "snow"), 20_000, 5, 6))[0, 1]) < 0.03
    assert abs(np.corrcoef(draws, uniform_column(event_key(4, "rain"), 20_000, 5, 6))[0, 1]) < 0.03


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4))
def test_guided_filter_equals_least_squares_in_every_window(seed: int, radius: int) -> None:
    rng = np.random.default_rng(seed)
    guide, plane = rng.random((12, 14, 3)).astype(np.float32), rng.random((12, 14)).astype(np.float32)
    out, epsilon = guided_filter(guide, plane, radius, 0.01), 0.01
    pad = [(radius, radius), (radius, radius)]
    guide_p, plane_p = np.pad(guide, [*pad, (0, 0)], mode="symmetric"), np.pad(plane, pad, mode="symmetric")
    fit, size = np.empty((12, 14, 4)), 2 * radius + 1
    for row in range(12):
        for column in range(14):
            window = np.s_[row : row + size, column : column + size]
            x, y = guide_p[window].reshape(-1, 3).astype(np.float64), plane_p[window].ravel().astype(np.float64)
            covariance = np.cov(x.T, bias=True) + epsilon * np.eye(3)
            slope = np.linalg.solve(covariance, ((x - x.mean(0)) * (y - y.mean())[:, None]).mean(0))
            fit[row, column] = *slope, y.mean() - slope @ x.mean(0)
    fit = cv2.blur(fit, (size, size), borderType=cv2.BORDER_REFLECT)
    np.testing.assert_allclose(out, (fit[..., :3] * guide).sum(-1) + fit[..., 3], atol=1e-4)


def test_guided_filter_at_reduced_resolution_is_close_to_the_exact_one() -> None:
    ramp = np.linspace(0, 1, 128, dtype=np.float32)
    guide = np.stack([np.tile(ramp, (96, 1))] * 3, -1)
    plane = (ramp[None, :] > 0.5).astype(np.float32) * np.ones((96, 1), np.float32)
    exact, fast = guided_filter(guide, plane, 10, 1e-3), guided_filter(guide, plane, 10, 1e-3, step=2)
    assert np.abs(exact - fast).max() < 0.05
    assert np.abs(exact - plane).max() > 0.2


def test_noise_from_a_lattice_is_the_noise_to_the_bit() -> None:
    key = event_key(3, "fog")
    x, z = np.random.default_rng(0).uniform(-7.3, 4.1, 300), np.random.default_rng(1).uniform(0.2, 40.7, 300)
    values, first = noise_lattice(key, x.min(), x.max(), z.min(), z.max())
    direct = [value_noise(key, *place) for place in zip(x, z, strict=True)]
    assert [noise_between(values, first, *place) for place in zip(x, z, strict=True)] == direct
    assert np.std(direct) > 0.1
