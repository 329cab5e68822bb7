"""Every reader on a tree in its authors' layout: counts, pairs, ids, depth."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from online_uda.evaluation.confusion import confusion_matrix, mean_iou
from streams.classes import CAMVID_11, CAMVID_32, CITYSCAPES_19, CLASS_SETS, WATER_2
from streams.datasets import DatasetImages, DatasetSource, parse_spec, recognise
from streams.errors import StreamError
from streams.frame import ClassSet
from streams.label_map import label_map
from tests import data_kit as kit
from tests.streams.datasets.trees import TREES, labels_of

X = 255


def assert_labels(found: kit.Labels, wanted: kit.Labels, classes: ClassSet = CITYSCAPES_19) -> None:
    """Equal names and pixels, and 100 % for whoever predicts them."""
    assert found.keys() == wanted.keys()
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    for name, label in wanted.items():
        assert np.array_equal(found[name], label), name
        matrix += confusion_matrix(found[name], np.where(label == X, 0, label).astype(np.uint8), len(classes))
    assert mean_iou(matrix) == 100.0


def only(labels: kit.Labels, start: str) -> kit.Labels:
    return {name: label for name, label in labels.items() if name.startswith(start)}


@pytest.mark.parametrize("train_ids", [False, True])
def test_cityscapes(tmp_path: Path, train_ids: bool) -> None:
    wanted = kit.cityscapes(tmp_path, train_ids=train_ids)
    assert_labels(labels_of(f"cityscapes={tmp_path}"), {**only(wanted, "frankfurt"), **only(wanted, "lindau")})
    assert_labels(labels_of(f"cityscapes={tmp_path},split=train,city=ulm"), only(wanted, "ulm"))
    listing = parse_spec(f"cityscapes={tmp_path},split=test").scan()
    assert len(listing.samples) == 1
    assert not listing.labelled
    assert "not public" in listing.notes[0]


def test_depth_of_cityscapes_is_baseline_times_focal_over_disparity(tmp_path: Path) -> None:
    kit.cityscapes(tmp_path)
    source = DatasetSource(parse_spec(f"cityscapes={tmp_path}").scan(), CITYSCAPES_19).with_depth()
    scene, _ = source.read(0)
    values = kit.disparity().astype(np.float64)
    assert scene.depth_m is not None
    assert (scene.depth_m[:5] == 0).all()
    np.testing.assert_allclose(scene.depth_m[5:], 0.2 * 64.0 / ((values[5:] - 1) / 256), rtol=1e-6)
    assert (scene.intrinsics.fx, scene.intrinsics.fy, scene.intrinsics.cx, scene.intrinsics.cy) == (
        64.0,
        65.0,
        32.0,
        16.0,
    )
    small = DatasetSource(parse_spec(f"cityscapes={tmp_path}").scan(), CITYSCAPES_19, (16, 32)).with_depth()
    halved, label = small.read(0)
    assert (halved.image.shape, halved.depth_m.shape, label.shape) == ((16, 32, 3), (16, 32), kit.SIZE)
    assert set(np.unique(halved.depth_m)) <= set(np.unique(scene.depth_m))
    assert (halved.intrinsics.fx, halved.intrinsics.cy) == (32.0, 8.0)
    assert small.with_depth().read(0)[0].image.tobytes() == halved.image.tobytes()


def test_cityscapes_without_camera_files_takes_the_usual_calibration(tmp_path: Path) -> None:
    kit.cityscapes(tmp_path)
    shutil.rmtree(tmp_path / "camera")
    listing = parse_spec(f"cityscapes={tmp_path}").scan()
    assert any("usual calibration" in note for note in listing.notes)
    depth = listing.read_depth(listing.samples[0])
    disparity = (kit.disparity()[5:].astype(np.float64) - 1) / 256
    np.testing.assert_allclose(depth[5:], 0.209313 * 2262.52 / disparity, rtol=1e-6)


def test_snippets_of_cityscapes_have_labels_for_some_frames(tmp_path: Path) -> None:
    wanted = kit.cityscapes(tmp_path)
    for frame in (18, 19, 20):
        kit.save(
            tmp_path / f"leftImg8bit_sequence/val/frankfurt/frankfurt_000000_{frame:06d}_leftImg8bit.png",
            kit.picture(frame),
        )
    found = labels_of(f"cityscapes={tmp_path},sequence=true")
    assert [label is not None for label in found.values()] == [False, True, False]
    assert np.array_equal(found["frankfurt_000000_000019"], wanted["frankfurt_000000_000019"])
    assert len(DatasetImages(parse_spec(f"cityscapes={tmp_path},sequence=true").scan(), CITYSCAPES_19)) == 1


def test_coarse_labels(tmp_path: Path) -> None:
    wanted = only(kit.cityscapes(tmp_path), "frankfurt_000000")
    path = "val/frankfurt/frankfurt_000000_000019_"
    kit.save(tmp_path / f"gtCoarse/{path}gtCoarse_labelIds.png", kit.to_ids(np.full(kit.SIZE, 3, np.uint8)))
    found = labels_of(f"cityscapes={tmp_path},labels=fine,city=frankfurt")
    assert np.array_equal(found["frankfurt_000000_000019"], wanted["frankfurt_000000_000019"])
    shutil.rmtree(tmp_path / "leftImg8bit/val/lindau")
    (tmp_path / "leftImg8bit/val/frankfurt/frankfurt_000001_000019_leftImg8bit.png").unlink()
    assert (labels_of(f"cityscapes={tmp_path},labels=coarse")["frankfurt_000000_000019"] == 3).all()


@pytest.mark.parametrize("weather", ["rain=25", "rain=50", "fog=750"])
def test_inria_weather_over_cityscapes(tmp_path: Path, weather: str) -> None:
    wanted = kit.cityscapes(tmp_path / "cityscapes")
    kit.weather_cityscapes(tmp_path / "inria")
    val = {**only(wanted, "frankfurt"), **only(wanted, "lindau")}
    spec = f"weather_cityscapes={tmp_path / 'inria'},{weather}"
    assert_labels(labels_of(f"{spec},labels={tmp_path / 'cityscapes'}"), val)
    listing = parse_spec(spec).scan()
    assert not listing.labelled
    assert "give labels=DIR" in listing.notes[0]
    assert all("mask" not in str(sample.image) for sample in listing.samples)
    strength = int(weather.partition("=")[2])
    shown, _ = DatasetSource(listing, CITYSCAPES_19).read(0)
    assert np.array_equal(shown.image, kit.picture(strength))


def test_parts_of_inria_weather_are_its_strengths(tmp_path: Path) -> None:
    kit.weather_cityscapes(tmp_path)
    parts = recognise(tmp_path)[0].parts()
    assert [part.words() for part in parts] == [f"split=val,{weather}" for weather in ("rain=25", "rain=50", "fog=750")]
    with pytest.raises(StreamError, match=r"rain/100mm: no such folder; val has rain=25, rain=50, fog=750"):
        parse_spec(f"weather_cityscapes={tmp_path},rain=100").scan()


def test_foggy_cityscapes(tmp_path: Path) -> None:
    wanted = kit.cityscapes(tmp_path)
    kit.foggy_cityscapes(tmp_path)
    val = {**only(wanted, "frankfurt"), **only(wanted, "lindau")}
    for beta in ("0.005", "0.01", "0.02"):
        assert_labels(labels_of(f"foggy_cityscapes={tmp_path},beta={beta}"), val)
    with pytest.raises(StreamError, match=r"no images of beta 0\.03; it has 0\.005, 0\.01, 0\.02"):
        parse_spec(f"foggy_cityscapes={tmp_path},beta=0.03").scan()
    assert [part.beta for part in parse_spec(f"foggy_cityscapes={tmp_path}").parts()] == [0.005, 0.01, 0.02] * 2


@pytest.mark.parametrize("wrapped", [False, True])
def test_acdc(tmp_path: Path, wrapped: bool) -> None:
    wanted = kit.acdc(tmp_path, wrapped=wrapped)
    for condition in ("fog", "night", "rain", "snow"):
        for split in ("train", "val"):
            part = {name.rpartition("/")[2]: label for name, label in wanted.items() if f"{condition}/{split}/" in name}
            assert_labels(labels_of(f"acdc={tmp_path},condition={condition},split={split}"), part)
    assert len(parse_spec(f"acdc={tmp_path}").scan().samples) == 12
    reference = parse_spec(f"acdc={tmp_path},condition=fog,reference=true").scan()
    assert len(reference.samples) == 3
    assert not reference.labelled
    one = parse_spec(f"acdc={tmp_path},condition=fog,sequence=GP010476").scan()
    assert [sample.name for sample in one.samples] == ["GP010476_frame_000003"]
    assert not parse_spec(f"acdc={tmp_path},split=test").scan().labelled
    shutil.rmtree(tmp_path / ("gt_trainval" if wrapped else "gt"))
    assert "unpack gt_trainval.zip" in parse_spec(f"acdc={tmp_path}").scan().notes[0]


def test_label_ids_of_acdc_serve_where_train_ids_are_missing(tmp_path: Path) -> None:
    wanted = kit.acdc(tmp_path)
    for file in tmp_path.rglob("*_labelTrainIds.png"):
        file.unlink()
    part = {name.rpartition("/")[2]: label for name, label in wanted.items() if "rain/val/" in name}
    assert_labels(labels_of(f"acdc={tmp_path},condition=rain,split=val"), part)


def test_dark_zurich(tmp_path: Path) -> None:
    wanted = kit.dark_zurich(tmp_path)
    assert_labels(labels_of(f"dark_zurich={tmp_path}"), wanted)
    for time in ("day", "twilight", "night"):
        assert len(parse_spec(f"dark_zurich={tmp_path},split=train,time={time}").scan().samples) == 3
    with pytest.raises(StreamError, match=r"val/day: no such folder; there is train/day, .*val/night"):
        parse_spec(f"dark_zurich={tmp_path},time=day").scan()


@pytest.mark.parametrize("form", ["zip", "folder", "flat"])
@pytest.mark.parametrize("length", ["discrete", "10x"])
def test_shift(tmp_path: Path, form: str, length: str) -> None:
    wanted = kit.shift(tmp_path, form, length)
    spec = f"shift={tmp_path},shift={length}"
    assert_labels(labels_of(spec), wanted)
    assert_labels(labels_of(f"{spec},weather=small_rain"), only(wanted, "1b2c"))
    assert_labels(labels_of(f"{spec},weather=clear,time=night"), only(wanted, "2d3e"))
    scene, _ = DatasetSource(parse_spec(spec).scan(), CITYSCAPES_19).with_depth().read(0)
    assert scene.intrinsics.fx == 640.0
    np.testing.assert_allclose(scene.depth_m[[0, 8, 16, 24], 0], kit.SHIFT_DEPTH_M, atol=1000 / 256**3)
    assert (scene.depth_m[-1] == 0).all()
    with pytest.raises(StreamError, match=r"no sequence with foggy; there is clear, daytime, night, rainy"):
        parse_spec(f"{spec},weather=foggy").scan()


def test_label_ids_of_shift_in_its_own_classes(tmp_path: Path) -> None:
    kit.shift(tmp_path)
    found = labels_of(f"shift={tmp_path}", CLASS_SETS["shift14"])
    assert all((label[1] == 4).all() for label in found.values())  # road line is a class there


@pytest.mark.parametrize("form", ["segnet", "full", "fastai"])
def test_camvid(tmp_path: Path, form: str) -> None:
    wanted = kit.camvid(tmp_path, form)
    classes = CAMVID_11 if form == "segnet" else CAMVID_32
    assert_labels(labels_of(f"camvid={tmp_path}", classes), wanted, classes)
    assert_labels(labels_of(f"camvid={tmp_path},sequence=0001TP", classes), only(wanted, "0001TP"), classes)
    if form == "segnet":
        assert_labels(labels_of(f"camvid={tmp_path},split=val", classes), only(wanted, "0016E5"), classes)
        assert [part.split for part in recognise(tmp_path)[0].parts()] == ["train", "val", "test"]
    else:
        merged = labels_of(f"camvid={tmp_path}", CAMVID_11)
        table = np.array([*label_map(CAMVID_32, CAMVID_11), *[X] * 225], np.uint8)
        assert all(np.array_equal(merged[name], table[label]) for name, label in wanted.items())


@pytest.mark.parametrize("old", [False, True])
def test_bdd100k(tmp_path: Path, old: bool) -> None:
    wanted = kit.bdd100k(tmp_path, old=old)
    found = {**labels_of(f"bdd100k={tmp_path}"), **labels_of(f"bdd100k={tmp_path},split=train")}
    assert_labels(found, wanted)


@pytest.mark.parametrize("version", ["v1.2", "v2.0"])
def test_mapillary(tmp_path: Path, version: str) -> None:
    wanted = kit.mapillary(tmp_path, version)
    found = {**labels_of(f"mapillary={tmp_path}"), **labels_of(f"mapillary={tmp_path},split=train")}
    assert_labels(found, wanted)


@pytest.mark.parametrize("colours", [False, True])
def test_gta5(tmp_path: Path, colours: bool) -> None:
    wanted = kit.gta5(tmp_path, colours=colours)
    assert_labels(labels_of(f"gta5={tmp_path}"), wanted)


def test_synthia(tmp_path: Path) -> None:
    wanted = kit.synthia(tmp_path)
    assert_labels(labels_of(f"synthia={tmp_path}"), wanted)
    scene, _ = DatasetSource(parse_spec(f"synthia={tmp_path}").scan(), CITYSCAPES_19).with_depth().read(0)
    assert (scene.depth_m[0] == 0).all()
    np.testing.assert_allclose(scene.depth_m[1:], 12.34, rtol=1e-6)


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_lists(tmp_path: Path, suffix: str) -> None:
    wanted = kit.listed(tmp_path)
    spec = f"file_list={tmp_path / f'frames.{suffix}'}"
    assert_labels(labels_of(spec), wanted)
    assert list(labels_of(f"{spec},max_samples=2")) == list(wanted)[:2]
    source = DatasetSource(parse_spec(spec).scan(), CITYSCAPES_19).with_depth()
    assert [float(source.read(i)[0].depth_m[0, 0]) for i in range(3)] == [5.0, 7.5, 5.0]
    unit = DatasetSource(parse_spec(f"{spec},depth_unit_m=0.01").scan(), CITYSCAPES_19).with_depth()
    assert float(unit.read(0)[0].depth_m[0, 0]) == pytest.approx(12.8)
    masks = labels_of(f"{spec},truth=m", WATER_2)
    assert all(np.array_equal(masks[name], (label < 9).astype(np.uint8)) for name, label in wanted.items())


def test_files_by_pattern(tmp_path: Path) -> None:
    wanted = kit.acdc(tmp_path)
    spec = f"files={tmp_path},images=rgb_anon/*/val/*/*_rgb_anon.png,labels=gt/*/val/*/*_gt_labelTrainIds.png"
    found = labels_of(spec)
    assert len(found) == 8
    for name, label in found.items():
        condition, split, _, stem = name.split("/")[1:]
        assert np.array_equal(label, wanted[f"{condition}/{split}/{stem.removesuffix('_rgb_anon.png')}"])
    with pytest.raises(StreamError, match=r"has 1 stars, .* 0; what a star"):
        parse_spec(f"files={tmp_path},images=*.png,labels=label.png")


@pytest.mark.parametrize("name", TREES)
def test_layouts_are_recognised_and_not_mistaken(tmp_path: Path, name: str) -> None:
    TREES[name](tmp_path)
    assert [settings.NAME for settings in recognise(tmp_path)] == [name]


@pytest.mark.parametrize("name", TREES)
def test_labelled_images_for_training(tmp_path: Path, name: str) -> None:
    TREES[name](tmp_path)
    train, val = parse_spec(f"{name}={tmp_path}").for_training()
    if name == "dark_zurich":
        assert len(DatasetImages(train.scan(), CITYSCAPES_19)) == 2
        return
    if name == "shift":
        train, val = val, None  # this tree has val alone
    images = DatasetImages(train.scan(), CITYSCAPES_19, (16, 32))
    assert images[0].image.shape == (16, 32, 3)
    assert images[0].label.shape == (16, 32)
    assert (images.size, len(images) > 0) == ((16, 32), True)
    if val is not None:
        seen = {sample.image for sample in images.listing.samples}
        assert not seen & {sample.image for sample in DatasetImages(val.scan(), CITYSCAPES_19).listing.samples}
