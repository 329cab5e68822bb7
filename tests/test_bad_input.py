"""Every mistake of the "Bad input" list: exit 2, clear lines, no traceback, and no run folder left behind."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from online_uda.cli import main
from streams.sources import folder as folders
from tests.run_kit import Kit, frames_of, summary_of, write_kit, write_network

Words = list[str]


@pytest.fixture
def kit(tmp_path: Path, make_folder: Callable[..., Path]) -> Kit:
    return write_kit(tmp_path, make_folder)


def errors(capsys: pytest.CaptureFixture[str]) -> Words:
    """The error lines of a command that printed nothing else but what network it had read."""
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if not line.startswith("network: ")]
    assert all(line.startswith("error: ") for line in lines), captured.err
    return [line.removeprefix("error: ") for line in lines]


def refused(kit: Kit, capsys: pytest.CaptureFixture[str], arguments: Words) -> str:
    """The one line with which a command line is refused, the run folder untouched."""
    before = sorted(kit.root.rglob("*"))
    assert main(arguments) == 2
    lines = errors(capsys)
    assert len(lines) == 1, lines
    assert sorted(kit.root.rglob("*")) == before
    return lines[0]


@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [
        (
            "--schedule",
            "cs2rian",
            "unknown schedule 'cs2rian' (did you mean 'cs2rain'?); run_stream.py --list",
        ),
        ("--schedule", "no/such.yaml", "no such schedule file"),
        ("--method", "hamlt", "unknown method 'hamlt' (did you mean 'hamlet'?); run_stream.py --list methods"),
        ("--method", "no/such.yaml", "no such method file"),
        ("--network", "segformer_twon", "unknown network 'segformer_twon' (did you mean 'segformer_b0_town'?)"),
        ("--seed", "one", "--seed: expected a whole number, got 'one'"),
        ("--seed", "-1", "--seed: must be at least 0, got -1"),
        ("--frames", "0", "--frames: must be at least 1, got 0"),
        ("--frames", "2.5", "--frames: expected a whole number, got '2.5'"),
        ("--size", "256", "--size: expected HEIGHTxWIDTH such as 256x512, got '256'"),
        ("--size", "8x64", "must be at least 32"),
        ("--threads", "none", "--threads: expected a whole number, got 'none'"),
        ("--device", "gpu", "--device: expected auto, cpu, cuda or cuda:N, got 'gpu'"),
        ("--source", "/no/such", "--source: /no/such: no such folder"),
    ],
)
def test_flags(kit: Kit, capsys: pytest.CaptureFixture[str], flag: str, value: str, expected: str) -> None:
    assert expected in refused(kit, capsys, [*kit.arguments(), f"{flag}={value}"])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("anchor.pul=0.1", "command line: anchor.pul=0.1: anchor.pul: unknown key (did you mean 'pull'?)"),
        ("anchr.pull=0.1", "command line: anchr.pull=0.1: anchr: unknown key (did you mean 'anchor'?)"),
        ("anchor.pull=much", "command line: anchor.pull=much: anchor.pull: expected a number, got 'much'"),
        ("anchor.pull=nan", "command line: anchor.pull=nan: anchor.pull: expected a number, got 'nan'"),
        ("scope.freeze=['*']", "scope.parameters norm fits nothing in this network that scope.freeze leaves"),
        ("anchor.pull=2", "command line: anchor.pull=2: anchor.pull: must be at most 1"),
        ("schedule.fsp=5", "command line: schedule.fsp=5: fsp: unknown key (did you mean 'fps'?)"),
        ("run.sede=5", "command line: run.sede=5: sede: unknown key (did you mean 'seed'?)"),
        ("run.precision=fp16", "unknown value 'fp16'"),
        ("seed=5", "command line: seed=5: is a key of the run; write run.seed=5"),
        ("fps=5", "command line: fps=5: is a key of the run and of the schedule; write run.fps=5 or schedule.fps=5"),
        ("method.anchor.pull=0", "keys of the method stand without a prefix; write anchor.pull=0"),
        ("schedule=quick", "command line: schedule=quick: write --schedule quick"),
        ("anchor.pull", "command line: anchor.pull: expected key=value"),
    ],
)
def test_overrides(kit: Kit, capsys: pytest.CaptureFixture[str], override: str, expected: str) -> None:
    assert expected in refused(kit, capsys, [*kit.arguments(), override])


def test_a_name_that_is_not_utf8(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*kit.arguments(), "--source", os.fsdecode(b"stra\xdfe")])
    assert stop.value.code == 2
    assert "'stra\\udcdfe' is not UTF-8; rename the file" in "".join(errors(capsys))


def test_all_errors_at_once_with_their_places(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    kit.schedule.write_text(
        "clases: camvid11\nclasses: camvid11\nvisits:\n"
        "  - {domain: day, folder: day, wheather: {rain: 5}}\n  - {domain: fog, folder: none}\n"
    )
    method = kit.root / "mine.yaml"
    method.write_text("description: mine\nscope: {parameters: nrom}\nsteps: many\n")
    arguments = [*kit.arguments(method), "--seed=x", "anchor.pull=-1", "run.precision=half"]
    assert main(arguments) == 2
    lines = errors(capsys)
    expected = [
        "--seed: expected a whole number",
        "run.precision=half: precision: unknown value 'half'",
        f"{kit.schedule}:1:1: clases: unknown key (did you mean 'classes'?)",
        f"{kit.schedule}:4:32: visits.0.wheather: unknown key (did you mean 'weather'?)",
        f"{kit.schedule}:5:27: visits.1.folder: {kit.root / 'none'}: no such folder",
        f"{method}:2:21: scope.parameters: unknown value 'nrom' (did you mean 'norm'?)",
        f"{method}:3:8: steps: expected a whole number, got 'many'",
        "command line: anchor.pull=-1: anchor.pull: must be at least 0",
    ]
    for fragment in expected:
        assert any(fragment in line for line in lines), (fragment, lines)
    assert len(lines) == len(expected)
    assert not (kit.root / "run").exists()


def test_inputs_are_checked_together(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    (kit.root / "run").mkdir()
    (kit.root / "run" / "notes.txt").write_text("mine")
    assert main([*kit.arguments(), "--network=no/net", "--source=no/src"]) == 2
    lines = errors(capsys)
    assert [any(text in line for line in lines) for text in ("is not empty", "no/net", "no/src")] == [True] * 3
    assert [path.name for path in (kit.root / "run").iterdir()] == ["notes.txt"]


def empty(folder: Path) -> str:
    for image in (folder / "images").iterdir():
        image.unlink()
    return "no images"


def lone_image(folder: Path) -> str:
    (folder / "labels" / "frame_2.png").unlink()
    return "labels (.png); 1 image(s) have no label, such as 'frame_2'"


def wrong_shape(folder: Path) -> str:
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(folder / "labels" / "frame_1.png")
    return "frame_1.png: the label is 48x48, its image 64x48"


def foreign_id(folder: Path) -> str:
    Image.fromarray(np.full((48, 64), 33, np.uint8)).save(folder / "labels" / "frame_1.png")
    return "frame_1.png: label id 33 is not in class set camvid11"


def no_visit(kit: Kit) -> str:
    kit.schedule.write_text("classes: camvid11\nvisits: []\n")
    return "a schedule needs at least one visit"


def bad_yaml(kit: Kit) -> str:
    kit.schedule.write_text("classes: camvid11\nvisits: [\n")
    return "storm.yaml:3:1: not valid YAML"


def stray_method(kit: Kit) -> str:
    kit.schedule.write_text(kit.schedule.read_text() + "methods: {hamlt: {steps: 2}}\n")
    return f"{kit.schedule}:7:11: methods.hamlt: unknown method 'hamlt' (did you mean 'hamlet'?)"


@pytest.mark.parametrize("spoil", [no_visit, bad_yaml, stray_method])
def test_schedules(kit: Kit, capsys: pytest.CaptureFixture[str], spoil: Callable[[Kit], str]) -> None:
    expected = spoil(kit)
    assert expected in refused(kit, capsys, kit.arguments())


@pytest.mark.parametrize("folder", ["dusk", "source"])
@pytest.mark.parametrize("spoil", [empty, lone_image, wrong_shape, foreign_id])
def test_folders(kit: Kit, capsys: pytest.CaptureFixture[str], folder: str, spoil: Callable[[Path], str]) -> None:
    expected = spoil(kit.root / folder)
    assert expected in refused(kit, capsys, kit.arguments("hamlet"))


def truncated(network: Path) -> str:
    file = network / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return "truncated or not a safetensors file"


def missing_keys(network: Path) -> str:
    file = network / "model.safetensors"
    weights = load_file(file)
    del weights["head.fuse.weight"], weights["stages.0.norm.bias"]
    save_file(weights, file)
    return "does not fit this architecture; 2 missing: head.fuse.weight, stages.0.norm.bias"


def other_sizes(network: Path) -> str:
    config = json.loads((network / "config.json").read_text())
    config["segformer"]["head_width"] = 24
    (network / "config.json").write_text(json.dumps(config))
    return "other shape: head."


def other_architecture(network: Path) -> str:
    save_file({"conv1.weight": torch.zeros(3)}, network / "model.safetensors")
    return "1 unexpected: conv1.weight"


def other_classes(network: Path) -> str:
    write_network(network, ("road", "car", "sky"))
    return "labelled with the 11 classes of camvid11"


class _Attack:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch pwned",)


def pickled_code(network: Path) -> str:
    (network / "model.safetensors").unlink()
    (network / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": _Attack()}))
    return "refused, not a plain tensor file (it may run code when unpickled)"


def no_config(network: Path) -> str:
    (network / "config.json").unlink()
    return "has no config.json"


@pytest.mark.parametrize(
    "spoil", [truncated, missing_keys, other_sizes, other_architecture, other_classes, pickled_code, no_config]
)
def test_networks(
    kit: Kit, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], str]
) -> None:
    monkeypatch.chdir(kit.root)
    expected = spoil(kit.network)
    assert expected in refused(kit, capsys, kit.arguments())
    assert not (kit.root / "pwned").exists()


def test_a_schedule_of_other_classes_needs_a_network(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(kit, capsys, ["--schedule", str(kit.schedule), "--out", str(kit.root / "run")])
    assert "--network: segformer_b0_town knows cityscapes19, this schedule is labelled in camvid11" in line


def test_a_method_with_replay_needs_source_images(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--schedule", str(kit.schedule), "--network", str(kit.network), "--out", str(kit.root / "run")]
    line = refused(kit, capsys, [*arguments, "--method", "hamlet"])
    assert "not camvid11; give --source DIR" in line


def test_run_folder_that_holds_something(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    (kit.root / "run").mkdir()
    (kit.root / "run" / "notes.txt").write_text("mine")
    line = refused(kit, capsys, kit.arguments())
    assert f"{kit.root / 'run'} is not empty; choose another --out, or continue that run with --resume" in line


def test_run_folder_below_a_file(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    (kit.root / "file").write_text("")
    assert f"{kit.root / 'file'} is a file" in refused(kit, capsys, kit.arguments(out="file"))
    assert f"{kit.root / 'file'} is a file" in refused(kit, capsys, kit.arguments(out="file/run"))


def test_run_folder_that_cannot_be_written(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    # Tests may run as root, whom no mode stops; /proc takes no folder from anybody.
    if not Path("/proc/self").is_dir():
        pytest.skip("needs /proc")
    assert "cannot make the run folder /proc/run" in refused(kit, capsys, kit.arguments(out="/proc/run"))


def test_cuda_asked_for_and_absent(
    kit: Kit, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = refused(kit, capsys, [*kit.arguments(), "--device=cuda"])
    assert line == (
        "--device cuda: this machine has no CUDA device that this torch can use; use --device auto or --device cpu"
    )


def test_resume_with_another_configuration(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    folder = kit.run(frames=1)
    capsys.readouterr()
    line = refused(kit, capsys, ["--resume", str(folder), "--seed", "4", "--frames=2", "anchor.pull=0.5"])
    for part in ("run.seed: 0 in the run, 4 now", "run.frames: 1 in the run, 2 now", "method.anchor.pull: 0.02 in"):
        assert part in line
    assert "run.method" not in line
    line = refused(kit, capsys, ["--resume", str(folder), "--method=frozen"])
    assert 'run.method: "tent" in the run, "frozen" now; leave these out' in line
    line = refused(kit, capsys, ["--resume", str(folder), "schedule.fps=7"])
    assert "schedule.fps: 4.0 in the run, 7.0 now" in line


def test_resume_of_what_is_no_run_or_has_changed(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no run folder" in refused(kit, capsys, ["--resume", str(kit.source)])
    folder = kit.run(frames=1)
    capsys.readouterr()
    assert "exclude each other" in refused(kit, capsys, ["--resume", str(folder), "--out=x"])
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("pull: 0.02", "pull: 0.03"))
    assert main(["--resume", str(folder)]) == 2
    assert "the configuration changed since the snapshot was written" in capsys.readouterr().err
    (folder / "config.yaml").write_text(config)
    weights = load_file(kit.network / "model.safetensors")
    weights["head.fuse.weight"] = weights["head.fuse.weight"] * 2
    save_file(weights, kit.network / "model.safetensors")
    assert main(["--resume", str(folder)]) == 2
    assert "the network weights changed since the snapshot was written" in capsys.readouterr().err


def test_resume_with_nothing_but_damaged_snapshots(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    folder = kit.run(frames=1)
    for path in (folder / "snapshots").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    before = summary_of(folder)
    assert main(["--resume", str(folder)]) == 2
    assert "no snapshot can be read" in capsys.readouterr().err
    assert summary_of(folder) == before


def test_frames_that_are_no_images_are_skipped_and_counted(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    (kit.root / "day" / "images" / "frame_2.png").write_bytes(b"\x89PNG\r\n\x1a\nrest is missing")
    folder = kit.run()
    assert summary_of(folder)["faults"] == 2
    assert summary_of(folder)["updates"] == 12
    assert [row["frame"] for row in frames_of(folder) if row["fault"]] == [1, 6]
    assert "2 frames could not be used and were never learned from" in capsys.readouterr().out


def test_what_fails_after_the_folder_was_made_takes_it_away(
    kit: Kit, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source label beyond those that are read beforehand is found while the replay buffer fills."""
    monkeypatch.setattr(folders, "_LABELS_READ_AHEAD", 2)
    bad = kit.source / "labels" / "frame_3.png"
    Image.fromarray(np.full((48, 64), 77, np.uint8)).save(bad)
    assert "label id 77" in refused(kit, capsys, kit.arguments("hamlet", out="deep/er/run"))
    assert threading.active_count() < 10


def test_in_a_process_of_its_own(kit: Kit) -> None:
    """What the user sees: lines on stderr, nothing on stdout, status 2."""
    command = [sys.executable, "run_stream.py", *kit.arguments("tnet"), "anchor.pull=x"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: unknown method 'tnet' (did you mean 'tent'?)")
    assert "Traceback" not in done.stderr
