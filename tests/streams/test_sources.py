"""Folders of frames: natural order, every kind of image, and one clear line for each thing that can be wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from streams.classes import CAMVID_11, CITYSCAPES_19
from streams.errors import StreamError
from streams.sources import FolderImages, FolderSource, FrameFault, scan_folder
from streams.sources.folder import natural_key
from streams.sources.images import read_image, read_label, resize_image, resize_label
from streams.sources.labelled import open_labelled


def save(path: Path, array: np.ndarray, **options: Any) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def ramp(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x + y) % 256], -1).astype(np.uint8)


def test_numbers_sort_as_numbers(make_folder: Callable[..., Path]) -> None:
    files = scan_folder(make_folder(count=12))
    assert [path.stem for path in files.images] == [f"frame_{i}" for i in range(1, 13)]
    assert files.labels is not None
    assert [path.stem for path in files.labels] == [f"frame_{i}" for i in range(1, 13)]


@given(st.lists(st.text(max_size=8), max_size=8))
def test_natural_order_is_total(names: list[str]) -> None:
    turned = names[::-1]
    assert sorted(names, key=natural_key) == sorted(turned, key=natural_key)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp", ".ppm", ".tif", ".JPG", ".jpeg"])
def test_image_formats(tmp_path: Path, suffix: str) -> None:
    image = ramp(24, 40)
    options = (
        {"lossless": True}
        if suffix == ".webp"
        else {"quality": 100, "subsampling": 0}
        if "jp" in suffix.lower()
        else {}
    )
    path = save(tmp_path / f"a{suffix}", image, **options)
    got = read_image(path)
    assert got.shape == (24, 40, 3)
    assert got.dtype == np.uint8
    assert np.abs(got.astype(int) - image).max() <= (8 if "jp" in suffix.lower() else 0)
    assert len(scan_folder(tmp_path).images) == 1


def test_other_pixel_kinds_become_rgb(tmp_path: Path) -> None:
    image = ramp(8, 9)
    alpha = np.dstack([image, np.full((8, 9), 7, np.uint8)])
    assert np.array_equal(read_image(save(tmp_path / "alpha.png", alpha)), image)
    grey = read_image(save(tmp_path / "grey.png", image[..., 0]))
    assert np.array_equal(grey, np.repeat(image[..., :1], 3, 2))
    deep = image[..., 0].astype(np.uint16) * 257
    assert np.array_equal(read_image(save(tmp_path / "deep.png", deep)), grey)
    Image.fromarray(image).quantize(16).save(tmp_path / "palette.png")
    assert np.abs(read_image(tmp_path / "palette.png").astype(int) - image).mean() < 40
    with pytest.raises(FrameFault, match="floating-point"):
        read_image(save(tmp_path / "float.tif", image[..., 0].astype(np.float32)))


def test_a_camera_s_rotation_is_applied(tmp_path: Path) -> None:
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate a quarter turn clockwise to view
    got = read_image(save(tmp_path / "a.jpg", image, exif=exif, quality=95))
    assert got.shape == (32, 16, 3)
    assert got[:12].mean() > 240
    assert got[20:].mean() < 15
    assert FolderSource(scan_folder(tmp_path), CAMVID_11).size == (32, 16)


def test_labels_map_void_to_255_and_refuse_foreign_ids(tmp_path: Path) -> None:
    ids = np.array([[0, 10, 11, 255]], np.uint8)
    path = save(tmp_path / "a.png", ids)
    assert read_label(path, CAMVID_11).tolist() == [[0, 10, 255, 255]]
    assert read_label(path, CITYSCAPES_19).tolist() == [[0, 10, 11, 255]]
    with pytest.raises(StreamError, match=r"b\.png: label id 12 is not in class set camvid11"):
        read_label(save(tmp_path / "b.png", ids + np.array([[0, 0, 1, 0]], np.uint8)), CAMVID_11)
    with pytest.raises(StreamError, match=r"c\.png: label id 1000 is not"):
        read_label(save(tmp_path / "c.png", np.array([[3, 1000]], np.uint16)), CAMVID_11)
    with pytest.raises(StreamError, match=r"d\.png: the label has 3 channels"):
        read_label(save(tmp_path / "d.png", ramp(4, 4)), CAMVID_11)
    palette = Image.fromarray(ids).convert("P")
    palette.putdata([0, 10, 3, 255])
    palette.save(tmp_path / "e.png")
    assert read_label(tmp_path / "e.png", CAMVID_11).tolist() == [[0, 10, 3, 255]]


def test_resizing_averages_images_and_never_mixes_ids() -> None:
    checker = np.tile(np.array([[0, 255], [255, 0]], np.uint8), (8, 8))
    small = resize_image(np.repeat(checker[..., None], 3, 2), (4, 4))
    assert small.shape == (4, 4, 3)
    assert np.abs(small[1:-1, 1:-1].astype(int) - 127).max() <= 2
    label = np.array([[0, 9], [255, 3]], np.uint8)
    assert np.array_equal(resize_label(label, (6, 4)), np.kron(label, np.ones((3, 2), np.uint8)))


def test_a_folder_hands_out_frames_and_labels_at_their_own_size(make_folder: Callable[..., Path]) -> None:
    root = make_folder(size=(32, 48))
    source = FolderSource(scan_folder(root), CAMVID_11, (64, 96))
    scene, label = source.read(2)
    assert scene.image.shape == (64, 96, 3)
    assert scene.label is None
    assert scene.depth_m is None
    own = read_image(root / "images" / "frame_3.png")
    assert np.array_equal(scene.image, resize_image(own, (64, 96)))
    assert label is not None
    assert np.array_equal(label, read_label(root / "labels" / "frame_3.png", CAMVID_11))
    assert len(source) == 6
    assert scene.image.flags.writeable
    assert FolderSource(scan_folder(root), CAMVID_11).read(0)[0].image.flags.writeable


def test_replay_pairs_have_one_size(make_folder: Callable[..., Path]) -> None:
    root = make_folder(size=(32, 48))
    for path in (root / "labels").iterdir():
        Image.open(path).resize((24, 16), Image.Resampling.NEAREST).save(path)
    images = FolderImages(root, CAMVID_11)
    assert images[1].image.shape == (32, 48, 3)
    assert images[1].label.shape == (32, 48)
    assert images.classes is CAMVID_11
    assert len(images) == 6
    resized = FolderImages(root, CAMVID_11, (64, 64))
    assert resized.size == (64, 64)
    assert resized[5].image.shape[:2] == resized[5].label.shape == (64, 64)


def test_flat_folder_has_no_labels(make_folder: Callable[..., Path]) -> None:
    root = make_folder(labels=False)
    (root / "images" / "._frame_1.png").write_bytes(b"x")
    (root / "images" / "notes.txt").write_text("x")
    flat = FolderSource(scan_folder(root / "images"), CAMVID_11)
    assert len(flat) == 6
    assert flat.read(0)[1] is None
    with pytest.raises(StreamError, match="no labels/ folder"):
        FolderImages(root, CAMVID_11)


def _no_images(root: Path) -> None:
    shutil.rmtree(root / "images")
    (root / "images").mkdir()


def _flat_with_labels(root: Path) -> None:
    for path in (root / "images").iterdir():
        path.rename(root / path.name)
    (root / "images").rmdir()


def _other_shape(root: Path) -> None:
    save(root / "labels" / "frame_4.png", np.zeros((32, 40), np.uint8))


def _other_frame_size(root: Path) -> None:
    save(root / "images" / "frame_4.png", ramp(64, 96))


def _nothing_readable(root: Path) -> None:
    for path in (root / "images").iterdir():
        path.write_bytes(b"not an image")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shutil.rmtree, "frames: no such folder"),
        (_no_images, r"images: no images \(\.jpg"),
        (_flat_with_labels, "has labels/ but no images/"),
        (lambda root: (root / "labels" / "frame_2.png").unlink(),
         r"6 images and 5 labels \(\.png\); 1 image\(s\) have no label, such as 'frame_2'"),
        (lambda root: (root / "images" / "frame_5.png").unlink(), r"1 label\(s\) have no image, such as 'frame_5'"),
        (lambda root: save(root / "images" / "frame_2.bmp", ramp(32, 48)), "frame_2.bmp and frame_2.png have the same"),
        (_other_shape, r"frame_4\.png: the label is 40x32, its image 48x32"),
        (_other_frame_size, r"frame_4\.png: 96x64 in a folder of 48x32 frames"),
        (_nothing_readable, r"none of 6 files can be read as an image \(frame_1\.png: not an image\)"),
        (lambda root: (root / "labels" / "frame_3.png").write_bytes(b"no"), "the label cannot be read: frame_3.png"),
        (lambda root: save(root / "labels" / "frame_6.png", np.full((32, 48), 99, np.uint8)),
         r"frame_6\.png: label id 99"),
    ],
)  # fmt: skip
def test_a_faulty_folder_is_refused_before_the_run(
    labelled_folder: Path, damage: Callable[[Path], Any], words: str
) -> None:
    damage(labelled_folder)
    with pytest.raises(StreamError, match=words) as caught:
        FolderSource(scan_folder(labelled_folder), CAMVID_11)
    assert "\n" not in str(caught.value)


def test_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", ramp(8, 8))
    with pytest.raises(StreamError, match="is a file"):
        scan_folder(path)


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("keep", [0, 3, 60, -200])
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tif"])
def test_truncated_images_are_faults(tmp_path: Path, suffix: str, keep: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    path = save(tmp_path / f"a.{suffix}", noise)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FrameFault, match=rf"^a\.{suffix}: ."):
        read_image(path)


def test_replay_names_a_damaged_pair(labelled_folder: Path) -> None:
    images = FolderImages(labelled_folder, CAMVID_11)
    path = labelled_folder / "images" / "frame_2.png"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(StreamError, match=r"frame_2\.png: .*remove the file and its label"):
        images[1]


def test_open_labelled_takes_a_folder_and_guards_the_town(labelled_folder: Path) -> None:
    assert len(open_labelled(str(labelled_folder), CAMVID_11, (32, 32))) == 6
    with pytest.raises(StreamError, match="town is labelled in cityscapes19, not camvid11; give --source DIR"):
        open_labelled(None, CAMVID_11)
    with pytest.raises(StreamError, match="no such folder"):
        open_labelled(labelled_folder / "none", CAMVID_11)
