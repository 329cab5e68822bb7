"""Class sets: tables of published data sets, one's own YAML, labels read through them, and what means the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from streams.classes import CAMVID_11, CITYSCAPES_19, CLASS_SETS, class_groups, find_classes
from streams.errors import StreamError
from streams.frame import ClassSet
from streams.schedule import load_schedule
from streams.sources.images import read_label

X = 255


def by_name(network: ClassSet, stream: ClassSet) -> dict[str, list[str]]:
    pairs = zip(stream.names, class_groups(network, stream), strict=True)
    return {name: [network.names[index] for index in group] for name, group in pairs}


@pytest.mark.parametrize("classes", CLASS_SETS.values(), ids=lambda classes: classes.name)
def test_every_set_is_whole(classes: ClassSet) -> None:
    count = len(classes)
    assert len(classes.palette) == count == len(set(classes.names))
    assert all(0 <= index < count for index in (*classes.things, *classes.ground, classes.sky or 0))
    assert not classes.raw or set(range(count)) <= set(classes.raw) <= {*range(count), X}
    assert class_groups(classes, classes) == [(index,) for index in range(count)]


def test_tables_of_gta_and_synthia() -> None:
    """specs/seed-systems.md F2, from DAFormer's converters; SYNTHIA's ids there are Cityscapes' train ids."""
    gta = (
        X,
        X,
        X,
        X,
        X,
        X,
        X,
        0,
        1,
        X,
        X,
        2,
        3,
        4,
        X,
        X,
        X,
        5,
        X,
        6,
        7,
        8,
        9,
        10,
        11,
        12,
        13,
        14,
        15,
        X,
        X,
        16,
        17,
        18,
    )
    assert CLASS_SETS["gta19"].raw == (*gta, X, X)
    synthia = (X, 10, 2, 0, 1, 4, 8, 5, 13, 7, 11, 18, 17, X, X, 6, 9, 12, 14, 15, 16, 3, X, X, X)
    for name, left_out in (("synthia16", {9, 14, 16}), ("synthia13", {3, 4, 5, 9, 14, 16})):
        classes = CLASS_SETS[name]
        own = [X if new == X else CITYSCAPES_19.names.index(classes.names[new]) for new in classes.raw]
        assert own == [X if old in left_out else old for old in synthia]


def test_labels_are_read_through_the_table(tmp_path: Path) -> None:
    ids = np.array([[0, 7, 8, 11], [1, 255, 33, 32]], np.uint8)
    Image.fromarray(ids).save(tmp_path / "ids.png")
    assert read_label(tmp_path / "ids.png", CLASS_SETS["cityscapes_ids"]).tolist() == [[X, 0, 1, 2], [X, X, 18, 17]]
    with pytest.raises(StreamError, match=r"label id 33 .*ids 0 to 22"):
        read_label(tmp_path / "ids.png", CLASS_SETS["shift14"])


def test_what_means_the_same() -> None:
    camvid = by_name(CITYSCAPES_19, CAMVID_11)
    assert camvid["bicyclist"] == ["rider", "bicycle"]
    assert camvid["sign"] == ["traffic light", "traffic sign"]
    assert camvid["pavement"] == ["sidewalk"]
    assert camvid["car"] == ["car", "truck", "bus", "train"]
    shift = by_name(CITYSCAPES_19, CLASS_SETS["shift14"])
    assert shift["road"] == ["road"]
    assert shift["road line"] == []
    assert len(shift["vehicle"]) == 6
    back = by_name(CLASS_SETS["shift14"], CITYSCAPES_19)
    assert (back["car"], back["truck"], back["road"]) == (["vehicle"], [], ["road line", "road"])
    assert by_name(CITYSCAPES_19, CLASS_SETS["synthia13"])["car"] == ["car"]


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("names: [ground, thing]\nthings: [1]\nraw: [255, 0, 0, 1]\n")
    mine = find_classes("mine.yaml", tmp_path)
    assert (mine.name, mine.names, mine.things, mine.raw) == ("mine", ("ground", "thing"), (1,), (255, 0, 0, 1))
    assert len(set(mine.palette)) == 2
    (tmp_path / "day").mkdir()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "day" / "0.png")
    (tmp_path / "s.yaml").write_text("classes: mine.yaml\nvisits:\n  - {domain: day, folder: day}\n")
    assert load_schedule(tmp_path / "s.yaml").class_set == mine
    (tmp_path / "mine.yaml").write_text("names: [a, b]\nsky: 2\n")
    with pytest.raises(StreamError, match=r"mine\.yaml:2:6: sky: id 2 is beyond the last class, 1"):
        find_classes("mine.yaml", tmp_path)
    with pytest.raises(StreamError, match="did you mean 'camvid11'"):
        find_classes("camvid1")


def test_what_a_file_says_that_its_classes_mean(tmp_path: Path) -> None:
    """As for ADE20K: several classes go to one of the stream's, and file ids begin with one that is ignored."""
    path = tmp_path / "ade.yaml"
    path.write_text(
        "names: [wall, building;edifice, road, path, 'car;auto', van, painting]\nraw: [255, 0, 1, 2, 3, 4, 5, 6]\n"
        "means: {building;edifice: [building], path: [sidewalk], 'car;auto': [car], van: [car], painting: []}\n"
    )
    ade = find_classes(str(path))
    camvid, city = by_name(ade, CAMVID_11), by_name(ade, CITYSCAPES_19)
    assert (camvid["car"], camvid["pavement"], camvid["building"]) == (
        ["car;auto", "van"],
        ["path"],
        ["building;edifice"],
    )
    assert (city["wall"], city["sidewalk"], city["road"], city["truck"]) == (["wall"], ["path"], ["road"], [])
    assert not any("painting" in group for group in city.values())
    path.write_text("names: [wall, car]\nmeans: {carr: [car]}\n")
    with pytest.raises(StreamError, match=r"ade\.yaml:2:.*means: 'carr' is none of the names; did you mean 'car'"):
        find_classes(str(path))
