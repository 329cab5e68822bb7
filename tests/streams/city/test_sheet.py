"""The contact sheet command."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from streams.city import Drive, sheet
from streams.classes import CITYSCAPES_19


def test_sheet_shows_image_labels_and_depth(tmp_path: Path) -> None:
    out = tmp_path / "town.png"
    sheet.main([str(out), "--drives", "2", "--width", "64", "--split", "train"])
    picture = cv2.imread(str(out))
    assert picture is not None
    picture = picture[:, :, ::-1]
    assert picture.shape == (4 * 32, 3 * 64, 3)
    scene = Drive("train", 1, (32, 64)).render(50)
    np.testing.assert_array_equal(picture[-32:, :64], scene.image)
    assert scene.label is not None
    np.testing.assert_array_equal(picture[-32:, 64:128], np.array(CITYSCAPES_19.palette, np.uint8)[scene.label])
    assert scene.depth_m is not None
    assert np.all(picture[-32:, 128:][np.isinf(scene.depth_m)] == 0)
