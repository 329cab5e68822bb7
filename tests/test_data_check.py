"""``data check``: what it says of every layout, what it refuses, and what it keeps for the next time."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from online_uda.adaptation.replay.rare_class import survey
from online_uda.cli import main as run_stream
from online_uda.data import main
from streams.classes import CITYSCAPES_19
from streams.datasets import DatasetImages, DatasetSource, parse_spec
from streams.datasets import source as source_module
from streams.datasets.cache import FOLDER, cache_folder, load, store
from streams.datasets.statistics import label_statistics
from streams.sources.images import resize_image
from tests import data_kit as kit
from tests.streams.datasets.test_readers import TREES


@pytest.mark.parametrize("name", TREES)
def test_every_layout_is_usable_and_says_how(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    TREES[name](tmp_path)
    assert main(["check", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "error" not in err
    assert f"{name}={tmp_path}" in out
    assert f"{name}: {{root: {tmp_path}" in out
    assert "64x32" in out
    assert "% of the pixels labelled" in out
    assert "classes (cityscapes19):" in out
    assert ("depth" in out) == (name in ("cityscapes", "shift", "synthia"))


def test_counts_by_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kit.cityscapes(tmp_path, count=3)
    assert run_stream(["data", "check", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("  split=train: 6 images, 6 labels, 6 depth maps, 64x32, 96.9 % of the pixels labelled")
    assert lines[2].startswith("  split=val: 6 images, 6 labels, 6 depth maps")
    assert lines[3] == "  split=test: 1 image, no labels, 64x32"
    assert any("python run_stream.py --schedule cs2rain --data cityscapes=" in line for line in lines)


def test_a_list_a_folder_and_a_spec(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kit.listed(tmp_path / "list")
    assert main(["check", str(tmp_path / "list/frames.yaml")]) == 0
    assert f"file_list: {{file: {tmp_path / 'list/frames.yaml'}}}" in capsys.readouterr().out
    kit.save(tmp_path / "plain/images/a.png", kit.picture(0))
    kit.save(tmp_path / "plain/labels/a.png", kit.truth(0))
    assert main(["check", str(tmp_path / "plain")]) == 0
    assert f"--stream {tmp_path / 'plain'}" in capsys.readouterr().out
    kit.acdc(tmp_path / "acdc")
    assert main(["check", f"acdc={tmp_path / 'acdc'},condition=rain,split=val"]) == 0
    out = capsys.readouterr().out
    assert "condition=rain,split=val: 2 images, 2 labels" in out
    assert "fog" not in out


def test_images_of_several_sizes_are_told_and_given_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kit.mapillary(tmp_path)
    name = "_1Gn_xkw7sa_i9GU4mkxxd"
    kit.save(tmp_path / f"validation/images/{name}.jpg", kit.picture(3, (48, 64)))
    kit.save(tmp_path / f"validation/labels/{name}.png", np.zeros((48, 64), np.uint8))
    assert main(["check", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "split=val: 2 images, 2 labels, 64x32 (1) and 64x48 (1)" in out
    assert f"--schedule quick --data mapillary={tmp_path} --size 480x640" in out


def test_faults_are_shown_and_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kit.gta5(tmp_path)
    label = np.full(kit.SIZE, 40, np.uint8)
    kit.save(tmp_path / "labels/00001.png", label)
    kit.save(tmp_path / "labels/00002.png", label)
    kit.save(tmp_path / "images/00004.png", kit.picture(4))
    (tmp_path / "images/00003.png").write_bytes(b"cut")
    assert main(["check", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    assert lines[0].endswith("(the first of 4)")
    assert "1 image(s) cannot be read, such as 00003.png" in out
    for name in ("00001", "00002"):
        assert f"{tmp_path / 'labels' / name}.png: label id 40 is not in class set gta19" in out
    assert "and 1 faults more" in out
    assert "play:" not in out


@pytest.mark.parametrize(
    ("path", "message"),
    [("none", "no such file or folder"), (".", "in no layout that is known"), ("acdc=none", "no such folder")],
)
def test_what_is_no_data_gets_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["check", path]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_statistics_are_exact_and_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = kit.gta5(tmp_path)
    listing = parse_spec(f"gta5={tmp_path}").scan()
    seen: list[tuple[int, int]] = []
    first = label_statistics(listing, CITYSCAPES_19, lambda *step: seen.append(step))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    for row, sample in zip(first.counts, listing.samples, strict=True):
        assert row.tolist() == [int((wanted[sample.name] == index).sum()) for index in range(19)]
    assert first.areas.tolist() == [kit.SIZE[0] * kit.SIZE[1]] * 3
    assert first.coverage == pytest.approx(1 - 1 / kit.SIZE[0])
    assert [path.suffix for path in (tmp_path / FOLDER).iterdir()] == [".npz"]
    again = label_statistics(listing, CITYSCAPES_19, lambda *step: seen.append(step))
    assert len(seen) == 3  # from the cache
    assert np.array_equal(again.counts, first.counts)
    counts, areas = survey(DatasetImages(listing, CITYSCAPES_19, (16, 32)), lambda *step: seen.append(step))
    assert len(seen) == 3
    assert np.array_equal(counts, first.counts)
    assert np.array_equal(areas, first.areas)


def test_a_changed_label_is_read_again(tmp_path: Path) -> None:
    kit.gta5(tmp_path)
    listing = parse_spec(f"gta5={tmp_path}").scan()
    before = label_statistics(listing, CITYSCAPES_19)
    file = Path(str(listing.samples[1].label))
    kit.save(file, kit.to_ids(np.full(kit.SIZE, 10, np.uint8)))
    os.utime(file, ns=(1, 1))
    after = label_statistics(listing, CITYSCAPES_19)
    assert after.counts[1, 10] == kit.SIZE[0] * kit.SIZE[1]
    assert np.array_equal(after.counts[[0, 2]], before.counts[[0, 2]])


def test_other_classes_have_statistics_of_their_own(tmp_path: Path) -> None:
    kit.camvid(tmp_path, "full")
    listing = parse_spec(f"camvid={tmp_path}").scan()
    shapes = {name: label_statistics(listing, classes).counts.shape for name, classes in _sets().items()}
    assert shapes == {"cityscapes19": (3, 19), "camvid11": (3, 11), "camvid32": (3, 31)}
    assert len(list((tmp_path / FOLDER).iterdir())) == 3


def _sets() -> dict:
    from streams.classes import CLASS_SETS

    return {name: CLASS_SETS[name] for name in ("cityscapes19", "camvid11", "camvid32")}


def test_faulty_labels_are_never_kept(tmp_path: Path) -> None:
    kit.gta5(tmp_path)
    listing = parse_spec(f"gta5={tmp_path}").scan()
    Path(str(listing.samples[0].label)).write_bytes(b"cut")
    found = label_statistics(listing, CITYSCAPES_19)
    assert len(found.faults) == 1
    assert found.areas.tolist() == [0, 2048, 2048]
    assert not (tmp_path / FOLDER).exists()


def test_a_cache_goes_elsewhere_when_the_data_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    data = tmp_path / "data"
    data.mkdir()
    assert cache_folder(data) == data / FOLDER
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert cache_folder(data).parent == tmp_path / "home/online_uda"
    store(data, "x", numbers=np.arange(3))
    stored = load(data, "x")
    assert stored is not None
    assert stored["numbers"].tolist() == [0, 1, 2]
    assert not (data / FOLDER).exists()


def test_a_cache_is_whole_or_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(tmp_path, "x", numbers=np.arange(3))
    file = tmp_path / FOLDER / "x.npz"
    file.write_bytes(file.read_bytes()[:50])
    assert load(tmp_path, "x") is None
    store(tmp_path, "x", numbers=np.arange(4))

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    store(tmp_path, "x", numbers=np.arange(9))  # nothing is lost but the cache
    assert load(tmp_path, "x")["numbers"].tolist() == [0, 1, 2, 3]
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["x.npz"]


def test_a_data_set_given_as_a_folder_is_recognised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kit.acdc(tmp_path)
    for words in (
        ["--stream", str(tmp_path)],
        ["--source", str(tmp_path), "--method", "hamlet", "--schedule", "quick"],
    ):
        assert run_stream(words) == 2
        err = capsys.readouterr().err
        assert f"it holds ACDC: python -m online_uda.data check {tmp_path} says how to use it" in err
        assert err.count("\n") == 1


def test_kept_frames_are_bit_for_bit_those_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kit.cityscapes(tmp_path)
    listing = parse_spec(f"cityscapes={tmp_path}").scan()

    def frames() -> list[tuple]:
        source = DatasetSource(listing, CITYSCAPES_19, (16, 32)).with_depth()
        return [source.read(index) for index in range(len(source))]

    before = frames()
    words = ["cache", f"cityscapes={tmp_path},split=val", "--size", "16x32"]
    assert main(words) == 0
    assert "4 of 4 frames added" in capsys.readouterr().out
    assert main(words) == 0
    assert "0 of 4 frames added" in capsys.readouterr().out
    decoded: list[Path] = []
    read = source_module.read_image
    monkeypatch.setattr(source_module, "read_image", lambda file: decoded.append(file) or read(file))
    for (scene, label), (kept, kept_label) in zip(before, frames(), strict=True):
        assert np.array_equal(scene.image, kept.image)
        assert np.array_equal(scene.depth_m, kept.depth_m)
        assert scene.intrinsics == kept.intrinsics
        assert np.array_equal(label, kept_label)
    images = DatasetImages(listing, CITYSCAPES_19, (16, 32))
    assert np.array_equal(images[1].image, before[1][0].image)
    assert decoded == []
    changed = listing.samples[2].image
    kit.save(changed, kit.picture(77))
    os.utime(changed, ns=(1, 1))
    assert np.array_equal(frames()[2][0].image, resize_image(kit.picture(77), (16, 32)))
    assert decoded == [changed]
    broken = next((tmp_path / FOLDER / "frames-16x32").glob("*.npz"))
    broken.write_bytes(broken.read_bytes()[:99])
    assert len(frames()) == 4
    assert len(decoded) >= 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cityscapes=none", "--size", "16x32"], "none: no such folder"),
        (["cityscapes=none", "--size", "16"], "--size: expected HEIGHTxWIDTH such as 512x1024"),
        (["none", "--size", "16x32"], "unknown data set 'none'"),
    ],
)
def test_mistakes_of_the_cache_command(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert main(["cache", *words]) == 2
    assert message in capsys.readouterr().err
