"""Tuning streams: roles share neither weather nor frames, replayed images are none of them, the same seed the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from online_uda.errors import UserError
from online_uda.networks.checkpoints import load_folder
from online_uda.runtime.scoring import to_tensor
from online_uda.tuning.conditions import POOLS, STREAMS, draw_visits
from online_uda.tuning.footage import FolderFootage, TownFootage, open_footage
from online_uda.tuning.rehearsal import rehearse
from streams.classes import CAMVID_11, CITYSCAPES_19
from tests.run_kit import write_network


def test_held_out_weather_is_none_of_the_search() -> None:
    names = [{condition.name for kind in pool.values() for condition in kind} for pool in POOLS.values()]
    assert not names[0] & names[1]
    for role in POOLS:
        drawn = [[visit.name for visit in draw_visits(role, number, 3)] for number in range(STREAMS)]
        assert drawn[0] != drawn[1]
        for visits in drawn:
            assert visits[0] == visits[-1] == "clear"
            assert visits[4] == visits[1]
            assert {name.rstrip("0123456789.") for name in visits} == {"clear", "rain", "fog", "night"}
    assert [draw_visits("search", 0, seed) for seed in range(8)] != [draw_visits("search", 0, 0)] * 8


def test_a_folder_is_cut_into_stretches_that_share_no_frame(make_folder: Callable[..., Path]) -> None:
    footage = FolderFootage(make_folder(count=50), CAMVID_11, None)
    search, held_out = footage.indices("search"), footage.indices("held_out")
    assert not search & held_out
    assert len(search | held_out) + len(footage.replayed) == 50
    assert min(len(search), len(held_out)) >= 50 // 4 - 1
    first = footage.read("search", 0, 0, 0)
    assert all(not np.array_equal(first[0].image, footage.replayed[i].image) for i in range(len(footage.replayed)))
    assert footage.frames_of_visit(1000) == footage.frames_of_visit(13) <= 13
    with pytest.raises(UserError, match="tune needs 24"):
        open_footage(str(make_folder("few", count=10)), CAMVID_11, None, 0)


def test_the_town_drives_where_no_schedule_does() -> None:
    from streams.sources.town import TownSource

    footage = TownFootage(CITYSCAPES_19, (32, 64), 0)
    scene, label = footage.read("search", 0, 0, 0)
    assert label.shape == (32, 64)
    other, _ = footage.read("held_out", 0, 0, 0)
    assert not np.array_equal(scene.image, other.image)
    target, _ = TownSource(10, (32, 64), footage.fps).read(0)
    assert not np.array_equal(scene.image, target.image)


def test_a_stream_is_made_once_and_again_when_its_footage_changed(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    source = make_folder(count=32, size=(32, 48))
    write_network(tmp_path / "network")
    network = load_folder(tmp_path / "network").network
    made: list[int] = []

    def make(size: tuple[int, int] | None = None, seed: int = 0) -> np.ndarray:
        footage = FolderFootage(source, CAMVID_11, size)
        stream = rehearse(
            tmp_path / "streams", footage, network, "digest", role="search", number=0, seed=seed, length=3,
            tick=lambda: made.append(1),
        )  # fmt: skip
        items = list(stream.items())
        assert [truth.visit for _, truth, _ in items] == [i // 3 for i in range(18)]
        frame, _, frozen = items[4]
        with torch.inference_mode():
            again = network(to_tensor(frame.image, torch.device("cpu"))).labels(frozen.shape).numpy()[0]
        np.testing.assert_array_equal(frozen, again)
        return np.array(stream.frames)

    first = make()
    assert len(made) == 18
    np.testing.assert_array_equal(first, make())
    assert len(made) == 18
    assert make(size=(64, 96)).shape == (18, 64, 96, 3)
    assert len(made) == 36
    assert not np.array_equal(first, make(seed=1))
