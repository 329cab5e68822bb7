"""Whole runs on odd frames and hostile YAML: done, or refused in clear lines; nothing is touched but the run folder."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from online_uda.cli import main
from tests.run_kit import SCHEDULE, SIZE, Kit, summary_of, write_kit
from tests.test_fuzz_streams import mutated

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "I", "F")
METHOD = """norm: {statistics: stream, momentum: 0.1}
scope: {parameters: norm}
optimizer: {name: adamw, learning_rate: 1e-3}
anchor: {pull: 0.02}
objectives:
  entropy: {weight: 1.0}
"""
HOSTILE = (
    "!!python/object/apply:os.system ['touch owned']", "&a [*a, *a]", "{a: &x [1, 1], <<: *x}", "..", "../../etc",
    "/etc/passwd", "~nobody/x", "\x00", "1e999", "-.inf", ".nan", "9" * 400, "0x7fffffffffffffffff", "{}", "[]", "null",
    "true", "1:30", "2026-11-29", "!!binary aGk=", "'", '"', "|\n  x", "{rain: {rain: {rain: 1}}}", "[" * 300,
    "é\u202e", "x" * 5000,
)  # fmt: skip


@pytest.fixture
def kit(tmp_path: Path, make_folder: Callable[..., Path]) -> Kit:
    return write_kit(tmp_path, make_folder)


def odd_picture(generator: np.random.Generator, ids: bool) -> bytes:
    """A file that may stand in place of an image or a label: any mode, depth, size and format, whole or cut."""
    size = SIZE if generator.random() < 0.6 else tuple(int(side) for side in generator.integers(1, 90, 2))
    mode = MODES[int(generator.integers(len(MODES)))]
    pixels = generator.integers(0, 14 if ids else 256, (*size, 3), np.uint8)
    if mode in ("I;16", "I", "F"):
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray((pixels[..., 0] * generator.choice([1, 1, 257, -3])).astype(kind))
    else:
        image = Image.fromarray(pixels).convert("RGB" if mode in ("LAB", "HSV") else mode)
        image = image.convert(mode) if mode == "HSV" else image
    file = io.BytesIO()
    for form in generator.permutation(["PNG", "TIFF", "JPEG", "BMP", "GIF"]).tolist():
        try:
            image.save(file, form)
            break
        except (OSError, ValueError):  # not every format holds every mode
            file = io.BytesIO()
    content = file.getvalue()
    return mutated(content, generator) if generator.random() < 0.3 else content


def untouched(kit: Kit, run: Path) -> dict[str, tuple[int, int]]:
    """What lies beside the run folder: size and time of every file."""
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(kit.root.rglob("*"))
        if path.is_file() and run not in path.parents
    }


def play(kit: Kit, capsys: pytest.CaptureFixture[str], arguments: list[str], run: Path) -> int:
    """Runs a command line that may be refused; checks that it said so in lines and stayed in its folder."""
    before = untouched(kit, run)
    status = main(arguments)
    captured = capsys.readouterr()
    assert status in (0, 2)
    assert "Traceback" not in captured.err
    if status == 2:
        lines = [line for line in captured.err.splitlines() if not line.startswith(("network: ", "warning: "))]
        assert lines
        assert all(line.startswith("error: ") and len(line) < 1000 for line in lines), captured.err[:3000]
    assert untouched(kit, run) == before
    return status


@pytest.mark.slow
def test_odd_frames_and_labels(
    kit: Kit, capsys: pytest.CaptureFixture[str], make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """120 odd files: a frame that cannot be used is counted, a label that means nothing ends the run with its name."""
    monkeypatch.chdir(kit.root)
    generator = np.random.default_rng(3)
    played = refused = faults = 0
    for number in range(60):
        folder = make_folder(f"odd_{number}", count=5, size=SIZE)
        for part in ("images", "labels") if number % 2 else ("images", "images"):
            index = int(generator.integers(1, 6))
            (folder / part / f"frame_{index}.png").write_bytes(odd_picture(generator, part == "labels"))
        (kit.root / "odd.yaml").write_text(f"classes: camvid11\nvisits:\n  - {{domain: x, folder: {folder.name}}}\n")
        run = kit.root / f"run_{number}"
        arguments = [*kit.arguments("frozen", run.name, schedule=kit.root / "odd.yaml"), "run.workers=0"]
        if play(kit, capsys, arguments, run):
            refused += 1
            continue
        played += 1
        summary = summary_of(run)
        assert summary["frames"] == 5
        faults += summary["faults"]
    assert played + refused == 60
    assert min(played, refused, faults) > 5, (played, refused, faults)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["schedule", "method"])
def test_hostile_yaml(
    kit: Kit, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """120 files: bytes changed at random, or a value replaced by something that no such file should hold."""
    monkeypatch.chdir(kit.root)
    text = SCHEDULE if which == "schedule" else METHOD
    generator = np.random.default_rng(len(which))
    refused = 0
    for number in range(60):
        content = text.encode()
        if number % 2:
            content = mutated(content, generator)
        else:
            places = [place for place, letter in enumerate(text) if letter == ":"]
            place = places[int(generator.integers(len(places)))] + 1
            ends = min(end for end in (text.find(mark, place) for mark in ",}\n") if end > 0)
            word = HOSTILE[number // 2 % len(HOSTILE)]
            content = f"{text[:place]} {word}{text[ends:]}".encode()
        path = kit.root / f"hostile_{which}.yaml"
        path.write_bytes(content)
        run = kit.root / f"run_{number}"
        flags = {"schedule": path} if which == "schedule" else {}
        method = path if which == "method" else "frozen"
        arguments = [*kit.arguments(method, run.name, **flags), "run.workers=0"]
        refused += play(kit, capsys, arguments, run) == 2
    assert refused > 30
    assert not (kit.root / "owned").exists()
