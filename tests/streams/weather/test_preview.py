"""The preview command: panels of every strength, and one clear line for each mistake."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from streams.frame import Scene
from streams.weather import EVENTS, preview, render
from streams.weather.__main__ import main
from streams.weather.preview import LADDERS, preview_sheet


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (48, 96, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "frame.png"), noise)
    return tmp_path / "frame.png"


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_has_a_ladder_that_leads_away_from_the_image(event: str, road: Scene) -> None:
    sheet = preview_sheet(road, event, LADDERS[event], {}, seed=3)
    assert sheet.shape == (3 * 256, 2 * 512, 3)
    panels = sheet.reshape(3, 256, 2, 512, 3).swapaxes(1, 2).reshape(6, 256, 512, 3)[:, 40:].astype(float)
    away = [np.abs(panel - road.image[40:]).mean() for panel in panels]
    assert away[0] == 0
    assert away == sorted(away)


def test_the_command_writes_the_strengths_and_options_asked_for(picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "sheet.png"
    assert main(["preview", str(picture), "--event", "night", "--strength", "0.5", "--out", str(out)]) == 0
    sheet = cv2.imread(str(out))[..., ::-1]
    assert sheet.shape == (48, 192, 3)
    scene = Scene(np.ascontiguousarray(cv2.imread(str(picture))[..., ::-1]))
    expected, _ = render(scene, "night", 0.5, seed=5, t_seconds=1.0, ego_speed_mps=8.0)
    np.testing.assert_array_equal(sheet[40:, 96:], expected[40:])
    plain = main(
        ["preview", str(picture), "--event", "night", "--strength", "0.5", "--set", "noise=false", "--out", str(out)]
    )
    assert plain == 0
    assert (cv2.imread(str(out))[40:, 96:, ::-1] != expected[40:]).any()


def test_depth_comes_as_png_or_npy(picture: Path, tmp_path: Path) -> None:
    metres = np.full((48, 96), 20.0)
    cv2.imwrite(str(tmp_path / "depth.png"), (metres * 256).astype(np.uint16))
    np.save(tmp_path / "depth.npy", metres)
    sheets = []
    for depth in (["--depth", str(tmp_path / "depth.png")], ["--depth", str(tmp_path / "depth.npy")], []):
        out = tmp_path / "out.png"
        assert main(["preview", str(picture), "--event", "fog", "--strength", "40", *depth, "--out", str(out)]) == 0
        sheets.append(cv2.imread(str(out)))
    np.testing.assert_array_equal(sheets[0], sheets[1])
    assert (sheets[0] != sheets[2]).any()


def test_list_names_every_parameter(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for event in EVENTS.values():
        assert f"{event.name}: " in text
        assert all(f"  {parameter.key} " in text for parameter in event.parameters)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.png", "--event", "fog"], "nowhere.png: not a readable image"),
        (["IMAGE", "--event", "fogg"], "unknown event 'fogg' (did you mean fog or smog?)"),
        (["IMAGE", "--event", "night", "--strength", "dark"], "--strength: expected numbers, got 'dark'"),
        (["IMAGE", "--event", "night", "--strength", "7"], "weather night: strength must be a number from 0 to 1"),
        (["IMAGE", "--event", "night", "--set", "lamp=false"], "unknown parameter 'lamp' (did you mean lamps?)"),
        (["IMAGE", "--event", "night", "--set", "lamps"], "--set: expected KEY=VALUE, got 'lamps'"),
        (["IMAGE", "--event", "fog", "--depth", "none.png"], "none.png: depth must be a 16-bit PNG"),
        (["IMAGE", "--event", "fog", "--depth", "none.npy"], "none.npy: not readable depth"),
        (["town", "--event", "fog", "--depth", "none.npy"], "--depth: the town has its own depth"),
        (["IMAGE", "--event", "fog", "--out", "sheet.txt"], "sheet.txt: write a .png or .jpg file"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], message: str, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(picture) if word == "IMAGE" else word for word in words]
    out = [] if "--out" in words else ["--out", str(tmp_path / "out.png")]
    assert main(["preview", *words, *out]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_a_panel_is_named_by_all_that_was_asked_for(road: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    monkeypatch.setattr(preview, "with_name", lambda image, name: (names.append(name), image)[1])
    preview_sheet(road, "rain", (25, 50), {"wet": True, "wind": 3})
    assert names == ["as it is", "rain 25 mm/h, wet, wind 3", "rain 50 mm/h, wet, wind 3"]


def test_progress_is_told_picture_by_picture(picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["preview", str(picture), "--event", "fog", "--strength", "300", "40", "--out", str(tmp_path / "out.png")]
    assert main(words) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0].rsplit(" ", 2)[0] for line in lines] == ["pictures of fog 1/2", "pictures of fog 2/2"]
