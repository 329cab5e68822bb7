"""Contact sheet of the town: image, coloured labels and depth of several drives.

Run ``python -m streams.city.sheet OUT.png [--split val] [--drives 8] [--width 384]``. The last two rows are
consecutive moments of one drive.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from streams.arguments import OneLineParser
from streams.city.drive import SPLITS, Drive
from streams.classes import CITYSCAPES_19
from streams.errors import StreamError
from streams.frame import Scene
from streams.picture_file import check_picture_name, write_picture

DEPTH_RANGE_M = (2.0, 200.0)


def _colour_depth(depth_m: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Logarithmic depth as colours, near bright, sky black; ``(H, W, 3)`` RGB."""
    low, high = np.log(DEPTH_RANGE_M)
    level = (high - np.log(np.clip(depth_m, *DEPTH_RANGE_M))) / (high - low)
    coloured = cv2.applyColorMap((level * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[:, :, ::-1].copy()
    coloured[~np.isfinite(depth_m)] = 0
    return coloured


def _row(scene: Scene) -> NDArray[np.uint8]:
    assert scene.label is not None
    assert scene.depth_m is not None
    palette = np.array(CITYSCAPES_19.palette, np.uint8)
    return np.hstack([scene.image, palette[scene.label], _colour_depth(scene.depth_m)])


def contact_sheet(split: str, drives: int, width: int) -> NDArray[np.uint8]:
    """Rows of image | label | depth: one moment of each drive, then two later moments of the last one.

    Args:
        split: Split of the drives.
        drives: How many drives.
        width: Width of one picture in pixels; its height is half of that.
    """
    size = (width // 2, width)
    rows = [_row(Drive(split, seed, size).render(40)) for seed in range(drives)]
    last = Drive(split, drives - 1, size)
    rows += [_row(last.render(t)) for t in (45, 50)]
    return np.vstack(rows)


def main(arguments: list[str] | None = None) -> None:
    """Write the contact sheet to a PNG file."""
    parser = OneLineParser(description="Contact sheet of the built-in town: image | label | depth.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--split", choices=SPLITS, default="val")
    parser.add_argument("--drives", type=int, default=8)
    parser.add_argument("--width", type=int, default=384)
    options = parser.parse_args(arguments)
    try:
        check_picture_name(options.out)
        write_picture(options.out, contact_sheet(options.split, options.drives, options.width))
    except StreamError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
