"""Schedules through the built-in town: one route for all weathers, truth with every frame, splits kept apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streams.city import Drive
from streams.classes import CITYSCAPES_19
from streams.errors import StreamError
from streams.frame import StreamItem
from streams.schedule import load_schedule
from streams.sources import TownSource
from streams.sources.labelled import open_labelled
from streams.sources.town import route_seed
from streams.stream import Stream

SIZE = (64, 128)
TEXT = """frames: 3
visits:
  - {domain: clear, town: true}
  - {domain: fog75, town: true, weather: {fog: 75}}
  - {domain: clear, town: {route: ROUTE}}
"""


def play(tmp_path: Path, route: str = "shared", seed: int = 0, **options: int) -> list[StreamItem]:
    path = tmp_path / f"{route}.yaml"
    path.write_text(TEXT.replace("ROUTE", route))
    with Stream(load_schedule(path), seed=seed, size=SIZE, **options) as stream:
        return list(stream)


def image(item: StreamItem) -> np.ndarray:
    assert item.frame is not None
    return item.frame.image


def label(item: StreamItem) -> np.ndarray:
    assert item.truth.label is not None
    return item.truth.label


def test_every_visit_drives_the_same_route_and_only_the_weather_differs(tmp_path: Path) -> None:
    items = play(tmp_path)
    assert len(items) == 9
    for first, fog, second in zip(items[:3], items[3:6], items[6:], strict=True):
        assert np.array_equal(image(first), image(second))
        assert np.array_equal(label(first), label(fog))
        assert not np.array_equal(image(first), image(fog))
        assert image(fog).std() < image(first).std()
    assert not np.array_equal(image(items[0]), image(items[2]))


def test_a_route_for_each_visit(tmp_path: Path) -> None:
    shared, own = play(tmp_path), play(tmp_path, "per_visit")
    assert np.array_equal(image(shared[0]), image(own[0]))
    assert not np.array_equal(label(own[6]), label(own[0]))
    assert np.array_equal(image(own[6]), image(play(tmp_path, "per_visit")[6]))


def test_the_seed_chooses_the_route_and_the_schedule_may_fix_it(tmp_path: Path) -> None:
    assert not np.array_equal(label(play(tmp_path)[0]), label(play(tmp_path, seed=1)[0]))
    path = tmp_path / "fixed.yaml"
    path.write_text("visits:\n  - {domain: clear, town: {seed: 4}, frames: 1}\n")
    fixed = [Stream(load_schedule(path), seed=seed, size=SIZE)[0] for seed in (0, 1)]
    assert np.array_equal(image(fixed[0]), image(fixed[1]))
    assert np.array_equal(image(fixed[0]), Drive("stream", 4, SIZE, 10.0).render(0).image)


def test_routes_differ_by_visit_and_seed() -> None:
    assert route_seed(5, None, None) == 5
    assert route_seed(5, 7, None) == 7
    seeds = {route_seed(run, None, visit) for run in range(20) for visit in range(20)}
    assert len(seeds) == 400


def test_town_frames_resume_with_and_without_prefetch(tmp_path: Path) -> None:
    whole = play(tmp_path)
    path = tmp_path / "shared.yaml"
    for prefetch in (0, 2):
        with Stream(load_schedule(path), size=SIZE, prefetch=prefetch) as stream:
            rest = list(stream.iterate(4))
            assert [item.index for item in rest] == [4, 5, 6, 7, 8]
            assert all(np.array_equal(image(a), image(b)) for a, b in zip(whole[4:], rest, strict=True))


def test_truth_is_in_the_class_set_and_size_has_a_default(tmp_path: Path) -> None:
    ids = np.unique(np.concatenate([label(item).ravel() for item in play(tmp_path)]))
    assert len(ids) >= 6
    assert set(ids.tolist()) <= {*range(19), 255}
    item = Stream(load_schedule("cs2rain"), frames=1)[1]
    assert image(item).shape == (256, 512, 3)
    assert label(item).shape == (256, 512)


def test_weather_knows_how_fast_the_car_drives() -> None:
    source = TownSource(0, SIZE, 10.0)
    drive = Drive("stream", 0, SIZE, 10.0)
    ways = np.diff([drive.pose(t).position[2] for t in range(0, 601, 10)])
    assert source.speed_mps == pytest.approx(ways.mean(), rel=1e-6)
    assert source.speed_mps > 3


def test_scene_and_label_come_apart_with_depth() -> None:
    scene, truth = TownSource(0, SIZE, 10.0).read(3)
    assert scene.label is None
    assert scene.depth_m is not None
    assert scene.intrinsics is not None
    assert truth is not None
    assert truth.shape == SIZE


def test_replay_images_come_from_the_training_split() -> None:
    images = open_labelled("town", CITYSCAPES_19, SIZE, seed=2, length=5)
    assert len(images) == 5
    assert images.classes is CITYSCAPES_19
    assert images[4].image.shape == (*SIZE, 3)
    again = open_labelled(None, CITYSCAPES_19, SIZE, seed=2, length=5)
    assert np.array_equal(images[4].image, again[4].image)
    held_out = open_labelled(None, CITYSCAPES_19, SIZE, seed=2, length=5, split="val")
    assert not np.array_equal(images[4].image, held_out[4].image)
    with pytest.raises(StreamError, match="split"):
        open_labelled(None, CITYSCAPES_19, SIZE, split="tset")
