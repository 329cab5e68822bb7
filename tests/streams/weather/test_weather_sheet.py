"""The contact sheet: ten named panels, written where asked."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from streams.frame import Scene
from streams.weather import render
from streams.weather.sheet import RATES_MM_H, VISIBILITIES_M, main, make_sheet


def test_sheet_holds_every_panel_in_order(road: Scene) -> None:
    sheet = make_sheet(road)
    panels = sheet.reshape(5, 256, 2, 512, 3).swapaxes(1, 2).reshape(10, 256, 512, 3)
    below_name = np.s_[40:]
    np.testing.assert_array_equal(panels[0][below_name], road.image[below_name])
    expected, _ = render(road, "fog", VISIBILITIES_M[-1], ego_speed_mps=8.0, t_seconds=1.0)
    np.testing.assert_array_equal(panels[-1][below_name], expected[below_name])
    assert len(RATES_MM_H) + len(VISIBILITIES_M) == len({panel.tobytes() for panel in panels})


def test_command_writes_a_picture_of_an_image_file(tmp_path: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 255, (48, 96, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "frame.png"), frame)
    out = tmp_path / "new" / "sheet.png"
    main([str(out), "--image", str(tmp_path / "frame.png"), "--seed", "3"])
    sheet = cv2.imread(str(out))
    assert sheet.shape == (240, 192, 3)
    np.testing.assert_array_equal(sheet[40:48, :96], frame[40:])


def test_command_refuses_a_file_that_is_no_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "frame.png").write_text("no picture")
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path / "out.png"), "--image", str(tmp_path / "frame.png")])
    assert caught.value.code == 2
    assert "not a readable image" in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()
