"""Small trees in the layouts of the data sets' authors: real names and encodings, images of a few dozen pixels.

Every writer returns the truth that it wrote: ids of the class set that is to come out, by sample name.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from streams.classes import CAMVID_32, CITYSCAPES_IDS

SIZE = (32, 64)
IDS_OF_TRAIN = {train: raw for raw, train in enumerate(CITYSCAPES_IDS.raw) if train != 255}
IGNORE = 255

Labels = dict[str, np.ndarray]


def truth(seed: int, classes: int = 19, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Blocks of all classes with an ignored border."""
    coarse = np.random.default_rng(seed).permutation(max(classes, 32))[:32].reshape(4, 8) % classes
    label = np.kron(coarse, np.ones((size[0] // 4, size[1] // 8), np.uint8)).astype(np.uint8)
    label[0] = IGNORE
    return label


def picture(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def save(path: Path, array: np.ndarray, palette: list[int] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if palette is not None:
        image = image.convert("P")
        image.putpalette(palette)
    image.save(path)
    return path


def to_ids(label: np.ndarray, void: int = 0) -> np.ndarray:
    """Train ids of Cityscapes as its label ids."""
    return np.vectorize(lambda value: IDS_OF_TRAIN.get(int(value), void))(label).astype(np.uint8)


CITIES = {"train": ("aachen", "ulm"), "val": ("frankfurt", "lindau")}
CAMERA = {
    "extrinsic": {"baseline": 0.2, "pitch": 0.03, "roll": 0.0, "x": 1.7, "y": 0.1, "yaw": -0.02, "z": 1.2},
    "intrinsic": {"fx": 64.0, "fy": 65.0, "u0": 32.0, "v0": 16.0},
}


def cityscapes(root: Path, count: int = 2, *, depth: bool = True, train_ids: bool = False) -> Labels:
    """leftImg8bit, gtFine, disparity and camera of two cities a split."""
    labels: Labels = {}
    for s, (split, cities) in enumerate(CITIES.items()):
        for c, city in enumerate(cities):
            for i in range(count):
                name, seed = f"{city}_{i:06d}_000019", 100 * s + 10 * c + i
                labels[name] = truth(seed)
                save(root / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png", picture(seed))
                kind, values = ("labelTrainIds", labels[name]) if train_ids else ("labelIds", to_ids(labels[name]))
                save(root / f"gtFine/{split}/{city}/{name}_gtFine_{kind}.png", values)
                if not train_ids:
                    save(root / f"gtFine/{split}/{city}/{name}_gtFine_color.png", picture(0))
                    (root / f"gtFine/{split}/{city}/{name}_gtFine_polygons.json").write_text("{}")
                if depth:
                    save(root / f"disparity/{split}/{city}/{name}_disparity.png", disparity())
                    camera = root / f"camera/{split}/{city}/{name}_camera.json"
                    camera.parent.mkdir(parents=True, exist_ok=True)
                    camera.write_text(json.dumps(CAMERA))
    test = "berlin_000000_000019"
    save(root / f"leftImg8bit/test/berlin/{test}_leftImg8bit.png", picture(900))
    save(root / f"gtFine/test/berlin/{test}_gtFine_labelIds.png", np.full(SIZE, 3, np.uint8))
    return labels


def disparity() -> np.ndarray:
    """16-bit disparity file: none in the first rows, 1 (no finite depth) in one, then 2 to 64 pixels."""
    values = np.zeros(SIZE, np.uint16)
    values[4] = 1
    values[5:] = (np.linspace(2, 64, SIZE[0] - 5) * 256 + 1).astype(np.uint16)[:, None]
    return values


def weather_cityscapes(
    root: Path, split: str = "val", *, rain: tuple[int, ...] = (25, 50), fog: tuple[int, ...] = (750,)
) -> None:
    """Inria's rain and fog over the frames that `cityscapes` writes."""
    top = root / "weather_datasets/weather_cityscapes/leftImg8bit" / split
    for city in CITIES[split]:
        for i in range(2):
            name = f"{city}_{i:06d}_000019_leftImg8bit.png"
            for rate in rain:
                save(top / f"rain/{rate}mm/rainy_image/{city}/{name}", picture(rate + i))
                save(top / f"rain/{rate}mm/rain_mask/{city}/{name}", picture(1))
            for visibility in fog:
                save(top / f"fog/{visibility}m/{city}/{name}", picture(visibility + i))


def foggy_cityscapes(root: Path, betas: tuple[str, ...] = ("0.005", "0.01", "0.02")) -> None:
    for split, cities in CITIES.items():
        for city in cities:
            for i in range(2):
                for beta in betas:
                    name = f"{city}_{i:06d}_000019_leftImg8bit_foggy_beta_{beta}.png"
                    save(root / f"leftImg8bit_foggy/{split}/{city}/{name}", picture(i + int(1000 * float(beta))))


def acdc(root: Path, *, wrapped: bool = False) -> Labels:
    rgb = root / ("rgb_anon_trainvaltest/rgb_anon" if wrapped else "rgb_anon")
    gt = root / ("gt_trainval/gt" if wrapped else "gt")
    labels: Labels = {}
    for c, condition in enumerate(("fog", "night", "rain", "snow")):
        for split, count in (("train", 3), ("val", 2), ("test", 1)):
            for i in range(count):
                sequence = f"GOPR{475 + c:04d}" if i < 2 else "GP010476"
                name, seed = f"{sequence}_frame_{i + 1 + 10 * c:06d}", 50 * c + i
                save(rgb / condition / split / sequence / f"{name}_rgb_anon.png", picture(seed))
                save(rgb / condition / f"{split}_ref" / sequence / f"{name}_rgb_ref_anon.png", picture(seed + 7))
                if split != "test":
                    labels[f"{condition}/{split}/{name}"] = truth(seed)
                    folder = gt / condition / split / sequence
                    save(folder / f"{name}_gt_labelTrainIds.png", truth(seed))
                    save(folder / f"{name}_gt_labelIds.png", to_ids(truth(seed)))
                    save(folder / f"{name}_gt_labelColor.png", picture(0))
    return labels


def dark_zurich(root: Path) -> Labels:
    for time in ("day", "twilight", "night"):
        for i in range(3):
            sequence = "GOPR0345"
            save(
                root / f"Dark_Zurich_train_anon/rgb_anon/train/{time}/{sequence}/{sequence}_frame_{i:06d}_rgb_anon.png",
                picture(i),
            )
    labels: Labels = {}
    for i in range(2):
        name = f"GOPR0356_frame_{i:06d}"
        labels[name] = truth(i)
        top = root / "Dark_Zurich_val_anon"
        save(top / f"rgb_anon/val/night/GOPR0356/{name}_rgb_anon.png", picture(i))
        save(top / f"gt/val/night/GOPR0356/{name}_gt_labelTrainIds.png", labels[name])
        save(top / f"rgb_anon/val_ref/day/GOPR0356_ref/{name}_ref_rgb_ref_anon.png", picture(i + 9))
    return labels


CARLA_OF_TRAIN = {0: 7, 1: 8, 2: 1, 3: 11, 4: 2, 5: 5, 6: 18, 7: 12, 8: 9, 9: 22, 10: 13, 11: 4, 13: 10}
"""SHIFT's (CARLA's) ids of Cityscapes' train ids; the other six classes it has not."""

SHIFT_ROWS = (
    ("0aee-69fd", "clear", "clear", "daytime", "noon"),
    ("1b2c-77aa", "rainy", "small rain", "daytime", "afternoon"),
    ("2d3e-11bb", "clear", "clear", "night", "dark night"),
)
SHIFT_DEPTH_M = (0.0, 1.5, 80.0, 999.0)


def shift(root: Path, form: str = "zip", length: str = "discrete") -> Labels:
    """Two frames of three sequences, packed (`zip`), unpacked by group (`folder`) or all in one folder (`flat`)."""
    top = root / ("discrete/images" if length == "discrete" else f"continuous/images/{length}") / "val/front"
    top.mkdir(parents=True)
    labels: Labels = {}
    files: dict[str, dict[str, bytes]] = {"img": {}, "semseg": {}, "depth": {}}
    for s, (sequence, *_) in enumerate(SHIFT_ROWS):
        for i in (0, 10):
            wanted = truth(s + i)
            ids = np.vectorize(lambda value: CARLA_OF_TRAIN.get(int(value), 0))(wanted).astype(np.uint8)
            ids[1] = 6  # road line
            known = np.where(np.isin(wanted, list(CARLA_OF_TRAIN)), wanted, IGNORE).astype(np.uint8)
            known[1] = 0
            labels[f"{sequence}/{i:08d}"] = known
            files["img"][f"{sequence}/{i:08d}_img_front.jpg"] = encoded(picture(s + i), "JPEG")
            rgba = np.dstack([ids, np.zeros((*SIZE, 2), np.uint8), np.full(SIZE, 255, np.uint8)])
            files["semseg"][f"{sequence}/{i:08d}_semseg_front.png"] = encoded(rgba, "PNG")
            files["depth"][f"{sequence}/{i:08d}_depth_front.png"] = encoded(packed_depth(), "PNG")
    for group, members in files.items():
        if form == "zip":
            with zipfile.ZipFile(top / f"{group}.zip", "w") as archive:
                for name, data in members.items():
                    archive.writestr(name, data)
        for name, data in members.items() if form != "zip" else ():
            path = top / (group if form == "folder" else "") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    header = "video,view,shift_type,start_weather_coarse,start_weather_fine,start_timeofday_coarse,start_timeofday_fine"
    rows = [f"{video},front,none,{coarse},{fine},{time},{exact}" for video, coarse, fine, time, exact in SHIFT_ROWS]
    (top / "seq.csv").write_text("\n".join([header, *rows]) + "\n")
    return labels


def packed_depth() -> np.ndarray:
    """Four bands of known depth in CARLA's 24 bits, the last one the far end."""
    code = np.zeros(SIZE, np.int64)
    for band, metres in enumerate(SHIFT_DEPTH_M):
        code[8 * band : 8 * band + 8] = round(metres / 1000 * 256**3)
    code[-1] = 256**3 - 1
    return np.dstack([code % 256, code // 256 % 256, code // 65536]).astype(np.uint8)


def encoded(array: np.ndarray, form: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form)
    return buffer.getvalue()


def camvid(root: Path, form: str) -> Labels:
    """``segnet``: ids of 11 classes; ``full``: colours of 32; ``fastai``: ids of 32. Truth in the 11 or 32 classes."""
    labels: Labels = {}
    names = ("0001TP_006690", "0016E5_00390", "Seq05VD_f00000")
    for i, name in enumerate(names):
        if form == "segnet":
            split = ("train", "val", "test")[i]
            labels[name] = truth(i, 11)
            save(root / f"{split}/{name}.png", picture(i))
            save(root / f"{split}annot/{name}.png", np.where(labels[name] == IGNORE, 11, labels[name]).astype(np.uint8))
            (root / f"{split}.txt").write_text(
                f"/SegNet/CamVid/{split}/{name}.png /SegNet/CamVid/{split}annot/{name}.png\n"
            )
            continue
        labels[name] = truth(i, 31)
        if form == "full":
            colours = np.array([*CAMVID_32.palette, *[(0, 0, 0)] * 225], np.uint8)
            save(root / f"701_StillsRaw_full/{name}.png", picture(i))
            save(root / f"LabeledApproved_full/{name}_L.png", colours[labels[name]])
        else:
            raw = np.array([*range(30), 31, *[30] * 225], np.uint8)
            save(root / f"images/{name}.png", picture(i))
            save(root / f"labels/{name}_P.png", raw[labels[name]])
    return labels


def bdd100k(root: Path, *, old: bool = False) -> Labels:
    labels: Labels = {}
    for split in ("train", "val"):
        for i in range(2):
            name = f"{i:08x}-{split[:4]:0>8}".replace("t", "a").replace("r", "b").replace("i", "c").replace("n", "d")
            name = name.replace("v", "e").replace("l", "f")
            labels[name] = truth(i)
            images = "bdd100k/seg/images" if old else "bdd100k/images/10k"
            masks = "bdd100k/seg/labels" if old else "bdd100k/labels/sem_seg/masks"
            save(root / f"{images}/{split}/{name}.jpg", picture(i))
            save(root / f"{masks}/{split}/{name}{'_train_id' if old else ''}.png", labels[name])
    return labels


VISTAS = (
    ("animal--bird", None), ("construction--barrier--curb", 1), ("construction--flat--road", 0),
    ("construction--structure--building", 2), ("marking--general", 0), ("nature--sky", 10), ("human--person", 11),
    ("human--rider--bicyclist", 12), ("object--vehicle--car", 13), ("object--traffic-light", 6),
    ("construction--structure--bridge", None), ("void--unlabeled", None),
)  # fmt: skip
"""Some classes of Mapillary Vistas and what they are in Cityscapes."""


def mapillary(root: Path, version: str = "v1.2") -> Labels:
    labels: Labels = {}
    for s, split in enumerate(("training", "validation")):
        for i in range(2):
            ids = truth(s + i, len(VISTAS)) % len(VISTAS)
            name = f"_1Gn_xkw7sa_i9GU4mkxx{'abcd'[2 * s + i]}"
            table = np.array([IGNORE if wanted is None else wanted for _, wanted in VISTAS], np.uint8)
            labels[name] = table[ids]
            save(root / f"{split}/images/{name}.jpg", picture(i))
            folder = "labels" if version == "v1.2" else f"{version}/labels"
            palette = [value for index in range(256) for value in (index, 0, 255 - index)]
            path = root / f"{split}/{folder}/{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(ids.astype(np.uint8), "P")
            image.putpalette(palette)
            image.save(path)
    config = {"labels": [{"name": name, "readable": name, "color": [0, 0, 0], "evaluate": True} for name, _ in VISTAS]}
    (root / ("config.json" if version == "v1.2" else f"config_{version}.json")).write_text(json.dumps(config))
    return labels


def gta5(root: Path, *, colours: bool = False) -> Labels:
    from streams.datasets.gta5 import COLOURS

    labels: Labels = {}
    for i in range(1, 4):
        name = f"{i:05d}"
        labels[name] = truth(i)
        save(root / f"images/{name}.png", picture(i))
        ids = to_ids(labels[name])
        palette = [0] * 768
        for (red, green, blue), index in COLOURS:
            palette[3 * index : 3 * index + 3] = red, green, blue
        image = Image.fromarray(ids, "P")
        image.putpalette(palette)
        path = root / f"labels/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        (image.convert("RGB") if colours else image).save(path)
    return labels


SYNTHIA_OF_TRAIN = {0: 3, 1: 4, 2: 2, 3: 21, 4: 5, 5: 7, 6: 15, 7: 9, 8: 6, 9: 16, 10: 1, 11: 10, 12: 17, 13: 8, 14: 18,
                    15: 19, 16: 20, 17: 12, 18: 11}  # fmt: skip
"""specs/seed-systems.md F2, turned round."""


def synthia(root: Path) -> Labels:
    """16 bits a channel, written by OpenCV (BGR): class in the red channel, instance in the green one."""
    labels: Labels = {}
    top = root / "RAND_CITYSCAPES"
    for i in range(3):
        name, wanted = f"{i:07d}", truth(i)
        ids = np.vectorize(lambda value: SYNTHIA_OF_TRAIN.get(int(value), 0))(wanted).astype(np.uint16)
        labels[name] = np.where(np.isin(wanted, (9, 14, 16)), IGNORE, wanted).astype(np.uint8)  # not of the 16 classes
        save(top / f"RGB/{name}.png", picture(i))
        for kind in ("GT/LABELS", "Depth/Depth"):
            (top / kind).mkdir(parents=True, exist_ok=True)
        bgr = np.dstack([np.zeros(SIZE, np.uint16), np.full(SIZE, 513, np.uint16), ids])
        cv2.imwrite(str(top / f"GT/LABELS/{name}.png"), bgr)
        depth = np.full(SIZE, 1234, np.uint16)
        depth[0] = 65535
        cv2.imwrite(str(top / f"Depth/Depth/{name}.png"), depth)
    return labels


def listed(root: Path) -> Labels:
    """Three frames with all tasks, as JSON and as YAML."""
    labels: Labels = {}
    entries = []
    for i in range(3):
        labels[f"{i:06d} {i}"] = truth(i)
        save(root / f"x/{i}.jpg", picture(i))
        save(root / f"s/{i}.png", truth(i))
        save(root / f"m/{i}.png", np.where(truth(i) < 9, 255, 0).astype(np.uint8))
        if i % 2:
            np.save(
                save(root / f"d/{i}.png", np.zeros(SIZE, np.uint8)).with_suffix(".npy"), np.full(SIZE, 7.5, np.float32)
            )
        else:
            save(root / f"d/{i}.png", np.full(SIZE, 1280, np.uint16))
        entries.append(
            {"x": f"x/{i}.jpg", "s": f"s/{i}.png", "d": f"d/{i}.{'npy' if i % 2 else 'png'}", "m": f"m/{i}.png"}
        )
    (root / "frames.json").write_text(json.dumps(entries))
    lines = [f"- {{x: {e['x']}, s: {e['s']}, d: {e['d']}, m: {e['m']}}}" for e in entries]
    (root / "frames.yaml").write_text("\n".join(lines) + "\n")
    return labels
