"""Smog and wildfire: check 9 of specs/weather.md and fixture F9 of specs/seed-systems.md."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from streams.errors import StreamError
from streams.frame import Scene
from streams.weather import Moment, SceneStatistics, estimate_statistics, render
from streams.weather.smog import Smog
from streams.weather.view import View, make_view
from streams.weather.wildfire import Wildfire

PLAIN = SceneStatistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 255.0)


def view_of(scene: Scene, statistics: SceneStatistics | None = None) -> View:
    return make_view(scene, Moment(0, 0.5, 7), statistics or estimate_statistics(scene))


def exact_smog(rgb: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Section 7 in float64, written from the description."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    t = np.exp(-2 * distance)[..., None]
    light = linear * t + 0.76 * (1 - t)
    hazy = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return hazy * (1 - 20 / 255) + np.array([224, 192, 29]) / 255 * 20 / 255


def test_smog_has_the_pixels_of_fixture_f9() -> None:
    rgb = np.array([[[0.4962566, 0.1163827, 0.3337468], [0.9337900, 0.2083492, 0.8047898]]], np.float32)
    inverse = np.array([[1e-3, 1.0]])  # the frame's farthest and nearest
    view = replace(
        view_of(Scene(np.zeros((1, 2, 3), np.uint8)), PLAIN), rgb=rgb, depth_m=(1 / inverse).astype(np.float32)
    )
    out, _ = Smog(mode="climategan").apply(view)
    expected = [[0.8489949, 0.8254778, 0.7807947], [0.9216875, 0.4696466, 0.7648830]]
    np.testing.assert_allclose(out[0], expected, atol=5e-5)  # colour tables are good to 2e-5


def test_climategan_distance_is_inverse_depth_squeezed_twice() -> None:
    inverse = np.linspace(0, 1, 24)[:, None] + 1e-9
    depth = (1 / inverse).astype(np.float64)
    distance = Smog(mode="climategan").distance(depth)
    assert distance[12, 0] == pytest.approx(0.2941177, abs=1e-6)
    assert np.exp(-2 * distance[12, 0]) == pytest.approx(0.5553064, abs=1e-6)
    assert (distance.max(), distance.min()) == (pytest.approx(1), pytest.approx(0.1))


def test_smog_equals_the_exact_formula_by_metres_too(road: Scene) -> None:
    view = view_of(road)
    out, _ = Smog().apply(view)
    distance = 0.1 + 0.9 * np.minimum(view.depth_m.astype(np.float64), 150) / 150
    np.testing.assert_allclose(out, exact_smog(view.rgb.astype(np.float64), distance), atol=5e-5)


def test_smog_at_fixed_metres_does_not_depend_on_the_rest_of_the_frame(road: Scene) -> None:
    statistics = estimate_statistics(road)
    near = replace(road, depth_m=np.minimum(road.depth_m, 60))
    whole, _ = render(road, "smog", 1, statistics=statistics)
    cut, _ = render(near, "smog", 1, statistics=statistics)
    np.testing.assert_array_equal(whole[200:], cut[200:])
    squeezed = [render(s, "smog", {"mode": "climategan"}, statistics=statistics)[0] for s in (road, near)]
    assert (squeezed[0][200:] != squeezed[1][200:]).any()


def test_smog_thickens_with_strength_and_with_a_shorter_range(road: Scene) -> None:
    def distance_to_clear(options: dict) -> float:
        return float(np.abs(render(road, "smog", options)[0].astype(float) - road.image).mean())

    values = [distance_to_clear({"strength": s}) for s in (0.1, 0.5, 1, 2, 3)]
    assert all(less < more for less, more in pairwise(values))
    assert distance_to_clear({"range": 40}) > distance_to_clear({"range": 200})
    assert render(road, "smog", 1)[1].extinction_per_km == pytest.approx(12)


def test_smog_at_night_is_dark(road: Scene) -> None:
    by_day = estimate_statistics(road)
    by_night = replace(by_day, light=(0.02, 0.02, 0.02))
    bright, dark = (render(road, "smog", 1, statistics=s)[0].mean() for s in (by_day, by_night))
    assert dark < 0.75 * bright


def exact_wildfire(image: np.ndarray, mask: np.ndarray, green: int) -> np.ndarray:
    """Section 8 with 8-bit steps, written from the description."""
    levels = np.clip(image.astype(float) + np.array([40, -10, -20]), 0, 255)
    grey = (levels @ [0.299, 0.587, 0.114]).mean()
    levels = np.floor(np.clip(grey + 1.5 * (levels - grey), 0, 255) + 1e-2)
    levels = np.floor(levels * 0.73 + 1e-2)
    share = mask[..., None] * 200 / 255
    levels = np.floor(levels + (np.array([255, green, 0]) - levels) * share + 1e-2)
    return np.floor(levels * 0.8 + 1e-2)


def test_wildfire_follows_its_description_step_by_step(road: Scene) -> None:
    effect, view = Wildfire(mode="climategan"), view_of(road)
    out, _ = effect.apply(view)
    mask = effect.sky(view).astype(float)
    errors = [np.abs(out * 255 - exact_wildfire(road.image, mask, green)).max() for green in range(100, 151)]
    assert min(errors) <= 1.01
    assert np.median(errors) > 5  # green is one of them


def test_wildfire_sky_is_orange_and_the_ground_dark(road: Scene) -> None:
    for mode in ("video", "climategan"):
        image, record = render(road, "wildfire", {"mode": mode})
        sky = image[:50].mean(axis=(0, 1))
        assert sky[0] - sky[2] >= 100
        assert image[200:].mean() < road.image[200:].mean()
        assert 0.2 < record.cover < 0.8


def test_wildfire_green_is_drawn_once_a_stream(road: Scene) -> None:
    frames = [render(road, "wildfire", 1, seed=3, frame_index=i, t_seconds=i / 10)[0] for i in range(3)]
    np.testing.assert_array_equal(frames[0], frames[1])
    greens = {int(render(road, "wildfire", 1, seed=s)[0][0, -1, 1]) for s in range(6)}
    assert len(greens) > 2


def test_video_wildfire_takes_its_contrast_from_the_segment(road: Scene) -> None:
    statistics = estimate_statistics(road)
    changed = replace(road, image=road.image.copy())
    changed.image[200:, :256] = 255  # a white van drives in
    for mode, same in (("video", True), ("climategan", False)):
        before, after = (render(s, "wildfire", {"mode": mode}, statistics=statistics)[0] for s in (road, changed))
        assert (before[200:, 300:] == after[200:, 300:]).all() == same


def test_wildfire_grows_with_strength(road: Scene) -> None:
    values = [np.abs(render(road, "wildfire", s)[0].astype(float) - road.image).mean() for s in (0.1, 0.4, 0.7, 1)]
    assert all(less < more for less, more in pairwise(values))


def test_wildfire_without_sky_leaves_out_the_overlay_and_says_so(road: Scene) -> None:
    tunnel = replace(road, depth_m=np.full_like(road.depth_m, 20))
    image, record = render(tunnel, "wildfire", 1)
    assert record.cover == 0
    assert image[:50].mean(axis=(0, 1))[2] > 100


def test_a_sky_id_that_the_label_does_not_hold_is_an_error(road: Scene) -> None:
    render(road, "wildfire", 1, sky_id=10)
    with pytest.raises(StreamError, match=r"sky_id 9 is not in the label, which holds 0, 2, 10"):
        render(road, "wildfire", 1, sky_id=9)


@pytest.mark.parametrize("event", ["smog", "wildfire"])
def test_consecutive_frames_of_a_still_scene_are_equal(event: str, road: Scene) -> None:
    first, _ = render(road, event, 1, frame_index=0, t_seconds=0)
    second, _ = render(road, event, 1, frame_index=1, t_seconds=1 / 30)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("effect", "options"),
    [
        (Smog, {"strength": -1}), (Smog, {"strength": 4}), (Smog, {"range_m": 0}), (Smog, {"mode": "other"}),
        (Wildfire, {"strength": 2}), (Wildfire, {"strength": None}), (Wildfire, {"mode": 1}),
    ],
)  # fmt: skip
def test_bad_values_are_refused_with_the_key(effect: type, options: dict) -> None:
    key = next(iter(options)).split("_")[0]
    with pytest.raises(StreamError, match=f"weather {effect.__name__.lower()}: {key} must be"):
        effect(**options)
