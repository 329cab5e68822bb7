"""Every command beside run_stream.py: a mistake in its words is one line on stderr and exit status 2."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

COMMANDS = {
    "online_uda.report": ([], "required: RUN"),
    "online_uda.save": (["RUN", "--out", "x", "--format", "onnx"], "invalid choice: 'onnx'"),
    "online_uda.export.cli": (["RUN"], "required: --out"),
    "online_uda.training.cli": (["--out", "x", "--iterations", "many"], "'many' is not a whole number of at least 0"),
    "online_uda.data": (["chek", "x"], "invalid choice: 'chek'"),
    "online_uda.tune": (["--frames", "1"], "expected a whole number from 2 to 10000, got '1'"),
    "streams.weather.__main__": (["preview", "town"], "required: --event, --out"),
    "streams.weather.sheet": (["sheet.txt"], "sheet.txt: write a .png or .jpg file"),
    "streams.weather.timing": (["10", "512"], "10x512: width and height must be 32 to 4096"),
    "streams.city.sheet": (["sheet.txt"], "sheet.txt: write a .png or .jpg file"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistake_is_one_line(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words, expected = COMMANDS[command]
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(command).main(words)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert expected in line
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["streams.weather.sheet", "streams.city.sheet"])
def test_a_picture_that_cannot_be_written(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    module = importlib.import_module(command)
    monkeypatch.setattr(module, "make_sheet" if "weather" in command else "contact_sheet", lambda *_: None)
    if "weather" in command:
        monkeypatch.setattr(module, "_scene", lambda *_: None)
    with pytest.raises(SystemExit) as stop:
        module.main([str(tmp_path / "file" / "sheet.png")])
    assert stop.value.code == 2
    assert "sheet.png: could not be written" in capsys.readouterr().err
