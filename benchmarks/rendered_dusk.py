"""A dusk rendered over labelled day frames, with a cut to other streets: frames and a schedule to choose settings on.

    python -m benchmarks.rendered_dusk PATH/camvid --out dusk_over_day
    python -m benchmarks.methods dusk_over_day/cut.yaml --methods default \
        --networks PATH/camvid/segformer_b0_camvid_day --source PATH/camvid/source_day

At dusk the sky is still bright when the street is not, and the camera opens up for the sum of both: the ground keeps a
share of its light, colours fade a little, exposure brings the frame to a share of the day's mean, the sky clips, and
photon noise comes up. Where the sky is, labels say, so that this is a benchmark's weather and none of a stream's. Day
visits show the source's own streets, dusk visits others: what changes is the light and the place at once, as it does
where recordings are cut.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from streams.classes import CAMVID_11
from streams.sources.folder import FolderImages
from streams.weather.colour import linear_to_srgb, srgb_to_linear

VISITS = (("dusk20", "day_1", 0.2, 0.75), ("dusk12", "day_2", 0.12, 0.65))
"""Name, folder of day frames, share of light that the ground keeps, share of the day's mean that exposure reaches."""
DAY, DAY_FRAMES = "source_day", 20
_TINT = (0.95, 1.0, 1.1)
_COLOUR, _BLUR, _EDGE = 0.8, 0.7, 1.5
_PHOTONS, _READ_NOISE = 1e-4, 0.004


def at_dusk(
    image: NDArray[np.uint8], sky: NDArray[np.bool_], light: float, exposure: float, random: np.random.Generator
) -> NDArray[np.uint8]:
    """A day frame as a camera sees it at dusk.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        sky: ``(H, W)`` bool.
        light: Share of its light that everything else keeps.
        exposure: Share of the day's mean brightness that the camera brings the frame to; it never takes light away.
        random: Of the noise.

    Returns:
        ``(H, W, 3)`` uint8 RGB.
    """
    bright = cv2.GaussianBlur(sky.astype(np.float32), (0, 0), _EDGE)[..., None]
    linear = srgb_to_linear(cv2.GaussianBlur(image, (0, 0), _BLUR) / 255.0)
    grey = linear.mean(2, keepdims=True)
    linear = (grey + (linear - grey) * _COLOUR) * (light * np.array(_TINT) * (1 - bright) + bright)
    wanted, low, high = exposure * image.mean() / 255.0, 1.0, 32.0
    for _ in range(20):
        gain = (low * high) ** 0.5
        reached = linear_to_srgb(np.clip(linear * gain, 0, 1)).mean() >= wanted
        low, high = (low, gain) if reached else (gain, high)
    seen = np.clip(linear * gain, 0, 1)
    seen = seen + random.normal(0, 1, seen.shape) * np.sqrt(seen * _PHOTONS * gain + _READ_NOISE**2)
    return (linear_to_srgb(np.clip(seen, 0, 1)) * 255 + 0.5).astype(np.uint8)


def write(data: Path, out: Path, seed: int = 0) -> Path:
    """Writes the dusk frames with their labels, and a schedule that cuts between them and the source's days.

    Args:
        data: Folder with ``source_day``, ``day_1`` and ``day_2``, each with images and labels in CamVid's 11 classes.
        out: A new folder.
        seed: Of the noise.

    Returns:
        The schedule.
    """
    frames = min(DAY_FRAMES, len(FolderImages(data / DAY, CAMVID_11, None)))
    day = {"domain": "day", "folder": str((data / DAY).resolve()), "frames": frames}
    visits = [day]
    random = np.random.default_rng(seed)
    for name, folder, light, exposure in VISITS:
        pairs = FolderImages(data / folder, CAMVID_11, None)
        (out / name / "images").mkdir(parents=True)
        shutil.copytree(data / folder / "labels", out / name / "labels", copy_function=shutil.copyfile)
        stems = sorted(path.stem for path in (out / name / "labels").iterdir())
        for index, stem in enumerate(tqdm(stems, desc=name)):
            pair = pairs[index]
            frame = at_dusk(pair.image, pair.label == CAMVID_11.sky, light, exposure, random)
            Image.fromarray(frame).save(out / name / "images" / f"{stem}.png")
        visits += [{"domain": name, "folder": name}, dict(day)]
    schedule = out / "cut.yaml"
    head = f"# python run_stream.py --schedule {schedule} --network NETWORK --source {data / DAY}\n"
    schedule.write_text(head + yaml.safe_dump({"classes": "camvid11", "visits": visits}, sort_keys=False), "utf-8")
    return schedule


def main() -> None:
    """Writes the frames."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("data", type=Path, help="folder with source_day, day_1 and day_2")
    flags.add_argument("--out", type=Path, required=True, help="a new folder")
    flags.add_argument("--seed", type=int, default=0)
    options = flags.parse_args()
    print(f"wrote {write(options.data, options.out, options.seed)}")


if __name__ == "__main__":
    main()
