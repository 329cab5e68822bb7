"""Wrong trees, strange ids, cut files and hostile side files: one line that names the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from streams.classes import CITYSCAPES_19, CLASS_SETS
from streams.datasets import DATASETS, DatasetSource, parse_spec, recognise
from streams.errors import StreamError
from streams.label_map import FOREIGN_ID, label_map, label_table
from tests import data_kit as kit
from tests.streams.datasets.trees import TREES, labels_of

X = 255


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("tree", ["missing", "empty", "file", "other"])
def test_wrong_trees_get_one_line_that_names_them(tmp_path: Path, name: str, tree: str) -> None:
    root = tmp_path / "data"
    if tree != "missing":
        root.mkdir()
    if tree == "file":
        root.rmdir()
        root.write_text("text")
    if tree == "other":
        kit.save(root / "holiday/beach.jpg", kit.picture(0))
    with pytest.raises(StreamError) as caught:
        parse_spec(f"{name}={root}").scan()
    assert "\n" not in str(caught.value)
    assert str(root) in str(caught.value)
    assert recognise(root) == []


def _first(root: Path, pattern: str) -> Path:
    return sorted(root.rglob(pattern))[0]


def _spoil_id(root: Path, pattern: str) -> Path:
    file = _first(root, pattern)
    with Image.open(file) as image:
        array = np.array(image)
    array[..., 0] if array.ndim == 3 else array
    array[5, 5] = 222
    Image.fromarray(array).save(file)
    return file


@pytest.mark.parametrize(
    ("name", "pattern", "message"),
    [
        ("cityscapes", "val/*/*_labelIds.png", "label id 222 is not in class set cityscapes_ids"),
        ("acdc", "train/*/*_labelTrainIds.png", "label id 222 is not in class set cityscapes19"),
        ("bdd100k", "masks/val/*.png", "label id 222 is not in class set cityscapes19"),
        ("camvid", "*_L.png", r"colour \(222, 222, 222\) is of no class"),
        ("gta5", "labels/*.png", "label id 222 is not in class set gta19"),
    ],
)
def test_strange_ids_are_refused_by_name(tmp_path: Path, name: str, pattern: str, message: str) -> None:
    TREES[name](tmp_path)
    file = _spoil_id(tmp_path, pattern)
    with pytest.raises(StreamError, match=message) as caught:
        labels_of(f"{name}={tmp_path}")
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("name", [name for name in TREES if name not in ("shift", "dark_zurich")])
def test_a_missing_label_is_named(tmp_path: Path, name: str) -> None:
    TREES[name](tmp_path)
    settings = parse_spec(f"{name}={tmp_path}")
    sample = settings.scan().samples[0]
    Path(str(sample.label)).unlink()
    with pytest.raises(StreamError, match=r"1 image\(s\) have no label, such as") as caught:
        DatasetSource(settings.scan(), CITYSCAPES_19)
    assert str(sample.image) in str(caught.value)


@pytest.mark.parametrize("name", TREES)
def test_a_cut_label_is_named(tmp_path: Path, name: str) -> None:
    if name == "shift":
        kit.shift(tmp_path, "folder")
    else:
        TREES[name](tmp_path)
    listing = parse_spec(f"{name}={tmp_path}").scan()
    file = Path(str(listing.labelled[0].label))
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(StreamError, match="cannot be read") as caught:
        labels_of(f"{name}={tmp_path}")
    assert str(file) in str(caught.value)


def test_a_label_of_another_shape_is_named(tmp_path: Path) -> None:
    kit.gta5(tmp_path)
    kit.save(tmp_path / "labels/00002.png", np.zeros((32, 40), np.uint8))
    with pytest.raises(StreamError, match=r"00002\.png: the label is 40x32, its image 64x32"):
        labels_of(f"gta5={tmp_path}")


def test_faulty_cameras_disparities_and_archives_are_named(tmp_path: Path) -> None:
    kit.cityscapes(tmp_path / "city")
    source = DatasetSource(parse_spec(f"cityscapes={tmp_path / 'city'}").scan(), CITYSCAPES_19).with_depth()
    camera = _first(tmp_path, "frankfurt_000000*_camera.json")
    for text in ("{}", "[", '{"intrinsic": {"fx": 0, "fy": 1, "u0": 1, "v0": 1}, "extrinsic": {"baseline": 0.2}}'):
        camera.write_text(text)
        with pytest.raises(StreamError, match=str(camera)):
            source.read(0)
    kit.shift(tmp_path / "shift")
    archive = _first(tmp_path, "img.zip")
    archive.write_bytes(archive.read_bytes()[:100])
    with pytest.raises(StreamError, match=r"img\.zip: cannot be read as a zip archive"):
        parse_spec(f"shift={tmp_path / 'shift'}").scan()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected a list of frames"),
        ("{", "not JSON"),
        ('{"x": 1}', "expected a list of frames"),
        ("[3]", "entry 0: expected files by task"),
        ('[{"x": "x/0.jpg", "q": "a.png"}]', "entry 0: unknown task 'q'"),
        ('[{"s": "s/0.png"}]', "entry 0: has no 'x'"),
        ('[{"x": "x/9.jpg"}]', r"entry 0: x: .*9\.jpg: no such file"),
        ('[{"x": "x/0.jpg"}, {"x": "s/0.gif"}]', r"entry 1: x: 's/0\.gif' ends in '\.gif'"),
        ('[{"x": 5}]', "entry 0: x: expected a path, got 5"),
    ],
)
def test_faulty_lists_name_file_index_and_key(tmp_path: Path, text: str, message: str) -> None:
    kit.listed(tmp_path)
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(StreamError, match=message) as caught:
        parse_spec(f"file_list={path}").scan()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("citiscapes=/x", r"unknown data set 'citiscapes' \(did you mean 'cityscapes'\?\)"),
        ("cityscapes=/x,split=vla", "split"),
        ("cityscapes=", "no folder; write cityscapes=DIR"),
        ("acdc=/x,condition=hail", "condition"),
        ("weather_cityscapes=/x,rain=25,fog=75", "not both"),
        ("weather_cityscapes=/x,rain=-3", "rain"),
    ],
)
def test_faulty_specs(text: str, message: str) -> None:
    with pytest.raises(StreamError, match=message):
        parse_spec(text)


def test_folders_may_have_commas_and_equals(tmp_path: Path) -> None:
    root = tmp_path / "a,b=c"
    kit.gta5(root)
    assert parse_spec(f"gta5={root}").root == root
    assert parse_spec(f"cityscapes={root},split=train").split == "train"


@given(st.data())
def test_labels_convert_class_by_class(data: st.DataObject) -> None:
    """Whatever the sets: names decide, ids stay in range, equal names meet, and nothing foreign passes as a class."""
    native = data.draw(st.sampled_from(list(CLASS_SETS.values())))
    target = data.draw(st.sampled_from(list(CLASS_SETS.values())))
    mapped = label_map(native, target)
    assert len(mapped) == len(native)
    assert all(index == X or index < len(target) for index in mapped)
    for index, name in enumerate(native.names):
        if name in target.names and (native.name, target.name) not in {("camvid32", "camvid11")}:
            assert target.names[mapped[index]] == name
    table = label_table(native, target)
    file_ids = set(range(len(native.raw or native.names))) | {*native.void, X}
    for value in range(256):
        assert (table[value] == FOREIGN_ID) == (value not in file_ids)
    ids = data.draw(st.lists(st.sampled_from(sorted(file_ids)), min_size=1, max_size=20))
    once = label_table(native)[ids]
    twice = np.array([X if index == X else mapped[index] for index in once])
    assert np.array_equal(table[ids], twice)  # straight from the file, or through the file's own classes


@given(st.binary(max_size=200), st.sampled_from(["camera", "seq", "config", "list", "zip"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fuzzed_side_files_raise_nothing_but_one_line(tmp_path: Path, content: bytes, kind: str) -> None:
    root = tmp_path / kind
    if not root.exists():
        {"camera": kit.cityscapes, "seq": kit.shift, "config": kit.mapillary, "list": kit.listed, "zip": kit.shift}[
            kind
        ](root)
    if kind == "list":
        (root / "frames.json").write_bytes(content)
        spec = f"file_list={root / 'frames.json'}"
    else:
        pattern = {"camera": "*_camera.json", "seq": "seq.csv", "config": "config.json", "zip": "semseg.zip"}[kind]
        for file in root.rglob(pattern):
            file.write_bytes(content)
        keys = {"seq": ",weather=clear"}.get(kind, "")
        spec = f"{ {'camera': 'cityscapes', 'config': 'mapillary'}.get(kind, 'shift') }={root}{keys}"
    message = str(root)
    try:
        DatasetSource(parse_spec(spec).scan(), CITYSCAPES_19).with_depth().read(0)
    except StreamError as error:
        message = str(error)
    assert str(root) in message
    assert "\n" not in message
