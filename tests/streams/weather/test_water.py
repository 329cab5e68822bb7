"""Flood, the wet road and drops on the lens."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from streams.errors import StreamError
from streams.frame import Scene
from streams.schedule import load_schedule
from streams.stream import Stream
from streams.weather import Moment, WeatherStream, estimate_statistics, parse_weather, render
from streams.weather.colour import srgb_to_linear
from streams.weather.flood import Flood
from streams.weather.lens import draw_lens, lens_drops
from streams.weather.rain import Rain
from streams.weather.view import View, make_view
from streams.weather.water import fresnel, reflected_pixel


def view_of(scene: Scene, t_seconds: float = 0.5) -> View:
    return make_view(scene, Moment(0, t_seconds, 7), estimate_statistics(scene))


def test_flood_leaves_everything_outside_the_water_as_it_is(road: Scene) -> None:
    water = np.isfinite(Flood(0.3).water_depth_m(view_of(road)))
    image, record = render(road, "flood", 0.3)
    assert (image[~water] == road.image[~water]).all()
    assert (image[water] != road.image[water]).any(axis=-1).mean() > 0.99
    assert record.cover == pytest.approx(water.mean())


def test_water_covers_more_the_higher_it_stands_and_never_the_sky(road: Scene) -> None:
    shares = []
    for level in (0.05, 0.2, 0.5, 1.0, 2.0):
        water = np.isfinite(Flood(level).water_depth_m(view_of(road)))
        shares.append(water.mean())
        assert not water[~np.isfinite(road.depth_m)].any()
        assert not water[:100].any()  # the wall stands out
    assert all(less <= more for less, more in pairwise(shares))
    assert shares[-1] > shares[0] > 0.3


def test_water_lies_where_the_plane_says(road: Scene) -> None:
    surface = Flood(0.5).water_depth_m(view_of(road))
    below = np.arange(256) + 0.5 - 128
    expected = road.intrinsics.fy * 1.0 / below  # the camera is 1.5 m over the road
    rows = slice(180, 256)
    np.testing.assert_allclose(surface[rows, 256], expected[rows], rtol=0.02)


def test_water_at_the_camera_s_feet_shows_the_ground_and_far_away_mirrors(road: Scene) -> None:
    assert fresnel(1.0) == pytest.approx(0.02)
    assert fresnel(0.0) == pytest.approx(1.0)
    image, _ = render(
        replace(road, image=np.where(road.depth_m[..., None] > 255, 230, np.full((256, 512, 3), 20)).astype(np.uint8)),
        "flood",
        0.2,
    )
    assert image[140, 400].mean() > image[250, 400].mean() + 30


def test_the_mirrored_pixel_is_the_one_at_the_mirrored_angle() -> None:
    depth = np.full((200, 100), 20.0, np.float32)  # a wall at 20 m, all over the frame
    focal, cx, cy = 100.0, 50.0, 100.0
    y, z = 1.5, 10.0  # a point of the ground
    pixel = reflected_pixel(depth, 0.0, y, z, 0.0, 1.0, 0.0, focal, focal, cx, cy)
    row, column = divmod(pixel, 100)
    exact = cy - focal * (y * (20 - z) / z - y) / 20  # the wall at the height to which the mirrored ray has risen
    assert column == 50
    assert abs(row - exact) <= 2  # steps of a quarter
    assert reflected_pixel(depth, 0.0, 0.0, 1.0, 0.0, 0.0, -1.0, focal, focal, cx, cy) == -1  # straight back


def test_ripples_move_a_little_between_frames_and_far_in_a_second(road: Scene) -> None:
    frames = [render(road, "flood", 0.3, t_seconds=t)[0].astype(float) for t in (0, 1e-3, 1 / 30, 1)]
    change = [np.abs(frame - frames[0]).mean() for frame in frames[1:]]
    assert change[0] < 1
    assert change[0] < change[1] < change[2]


def test_flooded_labels_are_kept_or_left_out_of_the_scores(road: Scene) -> None:
    for policy in ("keep", "ignore"):
        segment = WeatherStream(parse_weather({"flood": {"level": 0.4, "labels": policy}}), 1, road)
        label = segment.relabel(road, road.label, frame_index=0, t_seconds=0)
        water = np.isfinite(Flood(0.4).water_depth_m(view_of(road)))
        expected = np.where(water, 255, road.label) if policy == "ignore" else road.label
        np.testing.assert_array_equal(label, expected)
        assert road.label.max() == 10  # the label given is not written
    small = road.label[::2, ::2]
    assert segment.relabel(road, small, frame_index=0, t_seconds=0).shape == small.shape


def test_a_stream_scores_what_the_policy_says(tmp_path: Path) -> None:
    for policy in ("keep", "ignore"):
        file = tmp_path / f"{policy}.yaml"
        file.write_text(
            "size: [64, 128]\nvisits:\n"
            f"  - {{domain: flood, town: true, frames: 1, weather: {{flood: {{level: 0.3, labels: {policy}}}}}}}\n"
        )
    kept, ignored = (Stream(load_schedule(tmp_path / f"{p}.yaml"))[0].truth.label for p in ("keep", "ignore"))
    left_out = (ignored == 255) & (kept != 255)
    assert 0.1 < left_out.mean() < 0.7
    np.testing.assert_array_equal(ignored[~left_out], kept[~left_out])


def test_a_wet_road_is_darker_and_mirrors_the_more_the_flatter_it_is_seen(road: Scene) -> None:
    def road_under(sky: int, rate: float, wet: bool) -> np.ndarray:
        image = np.where(road.depth_m[..., None] > 255, np.full((256, 512, 3), sky), road.image).astype(np.uint8)
        options = {"rate": rate, "wet": wet, "match_mean": False, "gain": 0}
        return render(replace(road, image=image), "rain", options)[0][:, 300:].astype(float)

    dark = road_under(0, 50, True)
    assert dark[250].mean() < 0.85 * road_under(0, 50, False)[250].mean()
    bright = road_under(230, 50, True)
    added = (srgb_to_linear(bright / 255) - srgb_to_linear(dark / 255)).mean(axis=(1, 2))
    assert added[180] > added[210] > added[250] > 0.01
    assert road_under(0, 5, True)[250].mean() > dark[250].mean()
    np.testing.assert_allclose(road_under(230, 50, True)[:100], road_under(230, 50, False)[:100], atol=1)


def drops_at(t_seconds: float, rate: float = 300, wiper: bool = False, seed: int = 2) -> list:
    return lens_drops(rate, 1000, 2000, t_seconds, seed, wiper)


def test_lens_drops_arrive_stay_and_dry_as_the_rate_says() -> None:
    counts = [len(drops_at(t)) for t in np.arange(0, 300, 3.1)]
    # 0.02 R a second a megapixel, for a mean of 3 s.
    assert np.mean(counts) == pytest.approx(0.02 * 300 * 2 * 3, rel=0.1)
    assert np.mean([len(drops_at(t, rate=30)) for t in np.arange(0, 300, 3.1)]) == pytest.approx(3.6, rel=0.25)
    radii = [r for t in np.arange(0, 300, 20.0) for _, _, r in drops_at(t)]
    assert np.mean(radii) == pytest.approx(15, rel=0.1)


def test_lens_drops_slide_down_slowly_and_stay_themselves() -> None:
    now, soon = {c: (r, s) for c, r, s in drops_at(5.0)}, {c: (r, s) for c, r, s in drops_at(5.1)}
    common = now.keys() & soon.keys()
    assert len(common) > 0.8 * len(now)
    moved = np.array([soon[c][0] - now[c][0] for c in common])
    assert (moved >= 0).all()
    assert moved.max() <= 30 * 1000 / 512 * 0.1 + 1e-9
    assert moved.max() > 0.5
    assert all(now[c][1] == soon[c][1] for c in common)


def test_a_wiper_leaves_only_what_came_since_its_last_sweep() -> None:
    wiped = np.mean([len(drops_at(t, wiper=True)) for t in np.arange(0, 100, 0.7)])
    free = np.mean([len(drops_at(t)) for t in np.arange(0, 100, 0.7)])
    assert 0.05 * free < wiped < 0.4 * free


def test_a_lens_drop_shows_the_scene_upside_down_and_blurred(road: Scene) -> None:
    rgb = np.zeros((200, 200, 3), np.float32)
    rgb[:100] = 0.8  # light above
    out = draw_lens(rgb, [(100.0, 100.0, 30.0)])
    assert out[80, 100, 0] < 0.2
    assert out[120, 100, 0] > 0.6
    np.testing.assert_array_equal(out[:60], rgb[:60])
    np.testing.assert_array_equal(out[100, 140:], rgb[100, 140:])
    edge = draw_lens(rgb, [(199.0, -5.0, 20.0), (-500.0, 0.0, 9.0)])
    assert edge.shape == rgb.shape


def test_lens_and_wiper_change_the_frame(road: Scene) -> None:
    options = {"rate": 900, "match_mean": False}
    views = [
        render(road, "rain", {**options, "lens": lens, "wiper": wiper}, t_seconds=3.0, seed=4)[0]
        for lens, wiper in ((False, False), (True, False), (True, True))
    ]
    changed = [(view != views[0]).any(axis=2).mean() for view in views[1:]]
    assert changed[0] > changed[1] >= 0
    assert changed[0] > 1e-3


@pytest.mark.parametrize(
    ("effect", "options"),
    [
        (Flood, {"level_m": -1}), (Flood, {"level_m": 5}), (Flood, {"labels": "drop"}), (Rain, {"wet": 1}),
        (Rain, {"lens": "yes"}), (Rain, {"wiper": None}),
    ],
)  # fmt: skip
def test_bad_values_are_refused_with_the_key(effect: type, options: dict) -> None:
    key = next(iter(options)).split("_")[0]
    with pytest.raises(StreamError, match=f"weather {effect.__name__.lower()}: {key} must be"):
        effect(**options)
