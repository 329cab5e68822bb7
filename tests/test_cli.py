"""The command line: quick help, lists, and that every option changes what it should."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from online_uda.cli import main
from online_uda.networks.catalogue import DEFAULT_NETWORK, NETWORK_DESCRIPTIONS, NETWORK_FORMS
from online_uda.networks.checkpoints import load_folder
from online_uda.networks.zoo import NETWORKS
from tests.run_kit import Kit, assert_same, frames_of, method_state, summary_of, write_kit

ROOT = Path(__file__).parents[1]


@pytest.fixture
def kit(tmp_path: Path, make_folder: Callable[..., Path]) -> Kit:
    return write_kit(tmp_path, make_folder)


def config_of(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "config.yaml").read_text())


@pytest.mark.parametrize("words", [["--help"], ["--list", "schedules"], ["--list", "methods"], ["--list", "networks"]])
def test_help_and_lists_import_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys\n"
        "from online_uda.cli import main\n"
        "try:\n    status = main(sys.argv[1:])\nexcept SystemExit as stop:\n    status = stop.code\n"
        "heavy = {'torch', 'numba', 'cv2', 'tensorboard', 'safetensors'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)\nsys.exit(status)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0
    assert done.stderr == "[]\n"
    expected = {"--help": "--resume DIR", "schedules": "cs2rain", "methods": "tent", "networks": DEFAULT_NETWORK}
    assert expected[words[-1]] in done.stdout


def test_mistakes_in_files_are_found_without_torch(kit: Kit) -> None:
    code = "import sys\nfrom online_uda.cli import main\nmain(sys.argv[1:])\nprint('torch' in sys.modules)\n"
    words = [*kit.arguments("hamlet"), "--source", "no/such"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout == "False\n"
    assert "no such folder" in done.stderr


def test_lists_show_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    for what, folder in (("schedules", "schedules"), ("methods", "methods")):
        assert main(["--list", what]) == 0
        names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
        assert names == sorted(file.stem for file in (ROOT / "configs" / folder).glob("*.yaml"))
    assert main(["--list", "networks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert list(NETWORKS) == list(NETWORK_DESCRIPTIONS)
    described = sorted(file.stem for file in (ROOT / "configs" / "networks").glob("*.yaml"))
    assert [line.split()[0] for line in lines] == [*NETWORKS, *described, *NETWORK_FORMS]
    assert all(entry.description in line for entry, line in zip(NETWORKS.values(), lines, strict=False))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--shedule", "quick"], "unknown option '--shedule' (did you mean --schedule?)"),
        (["--sched", "quick"], "unknown option '--sched'"),
        (["--frames"], "argument --frames: expected one argument"),
        (["--list", "method"], "argument --list: invalid choice: 'method'"),
    ],
)
def test_unknown_options(capsys: pytest.CaptureFixture[str], words: list[str], expected: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {expected}")


def test_a_run_leaves_what_it_promises(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*kit.arguments(), "run.tensorboard=true"]
    assert main(words) == 0
    captured = capsys.readouterr()
    folder = kit.root / "run"
    assert "Adapting" in captured.out
    assert "harmonic mean" in captured.out
    assert f"run folder: {folder}" in captured.err
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.yaml", "environment.json", "frames.jsonl", "snapshots", "summary.json", "tensorboard"}
    summary = json.loads((folder / "summary.json").read_text())
    needed = "schema schedule method network seed frames hmean hmean_frozen visits detections boundaries latency_ms"
    assert set(needed.split()) <= summary.keys()
    assert set(summary["visits"][0]) >= {"domain", "visit", "frames", "miou", "miou_frozen", "updates"}
    for stage in ("predict", "adapt", "frame"):
        assert set(summary["latency_ms"][stage]) >= {"p50", "p95", "p99", "max"}
    assert (summary["schedule"], summary["method"], summary["network"]) == ("storm", "tent", "network")
    assert (folder / "config.yaml").read_text().splitlines()[1] == "# python run_stream.py " + " ".join(words)
    assert json.loads((folder / "environment.json").read_text())["command"][2:] == words


def test_without_tensorboard_there_is_none(kit: Kit) -> None:
    assert not (kit.run(frames=1) / "tensorboard").exists()


def test_frames_caps_every_visit(kit: Kit) -> None:
    assert [visit["frames"] for visit in summary_of(kit.run(frames=3))["visits"]] == [3, 3, 3]
    assert [visit["frames"] for visit in summary_of(kit.run(out="all"))["visits"]] == [5, 5, 4]


def test_schedule_size_and_seed(kit: Kit) -> None:
    base = kit.run(out="base", frames=2)
    sized = kit.run(out="sized", frames=2, size="96x64")
    assert summary_of(sized)["size"] == [96, 64]
    assert frames_of(sized)[0]["miou"] != frames_of(base)[0]["miou"]
    # Large enough for drops to be seen: a clear frame of a folder knows no seed, rain falls elsewhere.
    one, other = (kit.run(out=f"seed{seed}", frames=1, size="192x256", seed=seed) for seed in (0, 9))
    assert summary_of(other)["seed"] == 9
    assert frames_of(other)[0]["losses"] == frames_of(one)[0]["losses"]
    assert frames_of(other)[1]["losses"] != frames_of(one)[1]["losses"]
    short = kit.root / "short.yaml"
    short.write_text("classes: camvid11\nvisits:\n  - {domain: dusk, folder: dusk}\n")
    assert main([*kit.arguments(out="short", frames=2), "--schedule", str(short)]) == 0
    assert [visit["domain"] for visit in summary_of(kit.root / "short")["visits"]] == ["dusk"]


def test_method_and_its_overrides(kit: Kit) -> None:
    frozen = kit.run(method="frozen", out="frozen", frames=2)
    assert summary_of(frozen)["updates"] == 0
    assert method_state(frozen)["student"] == {}
    tent = kit.run(out="tent", frames=2)
    assert summary_of(tent)["updates"] == 6
    faster = kit.run("optimizer.learning_rate=1e-2", "schedule.fps=8", out="faster", frames=2)
    assert frames_of(faster)[1]["lr"] == 1e-2
    assert frames_of(faster)[1]["timestamp_s"] == 1 / 8
    assert config_of(faster)["method"]["optimizer"]["learning_rate"] == 1e-2
    mine = kit.root / "mine.yaml"
    mine.write_text("description: mine\nscope: {parameters: head}\nobjectives: {entropy: {weight: 1.0}}\n")
    own = kit.run(method=mine, out="own", frames=2)
    assert summary_of(own)["method"] == "mine"
    assert frames_of(own)[0]["scope"] == "head"


def test_a_schedule_tunes_a_method_below_the_command_line(kit: Kit) -> None:
    tuned = "methods: {tent: {optimizer: {learning_rate: 5e-3}, anchor: {pull: 0.5}}, hamlet: {steps: 2}}\n"
    kit.schedule.write_text(kit.schedule.read_text() + tuned)
    method = config_of(kit.run("anchor.pull=0.25", frames=1))["method"]
    assert method["optimizer"]["learning_rate"] == 5e-3  # the schedule's, over the method's own 1e-3
    assert method["optimizer"]["name"] == "adamw"
    assert method["anchor"]["pull"] == 0.25  # the command line's, over the schedule's
    assert method["steps"] == 1
    assert config_of(kit.run(method="frozen", out="f", frames=1))["method"]["anchor"]["pull"] == 0.0


def test_network_and_source(kit: Kit, make_folder: Callable[..., Path]) -> None:
    hamlet = ("replay.frames=4", "trigger.window=1", "trigger.base_frames=9", "trigger.up=1e-6", "trigger.down=-1e-6")
    one = kit.run(*hamlet, method="hamlet", out="one", frames=3)
    other_source = make_folder("other_source", count=6, size=(48, 64), seed=11)
    assert main([*kit.arguments("hamlet", "two", frames=3), *hamlet, "--source", str(other_source)]) == 0
    assert summary_of(one)["updates"] > 0
    assert summary_of(kit.root / "two")["updates"] > 0
    with pytest.raises(AssertionError):
        assert_same(method_state(one), method_state(kit.root / "two"))
    assert main([*kit.arguments(out="b0", frames=1), "--network", "segformer_b0", "--init", "random"]) == 0
    assert summary_of(kit.root / "b0")["network"] == "segformer_b0"
    assert "stages.0.blocks.1.norm1.weight" in method_state(kit.root / "b0")["student"]  # the tiny one has one block


def test_random_weights_follow_the_seed(kit: Kit) -> None:
    scores = []
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        words = [*kit.arguments("frozen", out, frames=1, seed=seed), "--network", "segformer_b0", "--init", "random"]
        assert main(words) == 0
        scores.append(frames_of(kit.root / out)[0]["miou"])
    assert scores[0] == scores[1] != scores[2]


def test_threads_device_and_precision_are_used_and_written_down(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = kit.run("run.precision=bf16", frames=2)
    assert torch.get_num_threads() == 1
    run = config_of(folder)["run"]
    assert (run["threads"], run["device"], run["precision"]) == (1, "cpu", "bf16")
    assert frames_of(folder)[1]["losses"] != frames_of(kit.run(out="fp32", frames=2))[1]["losses"]
    wanted: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", wanted.append)  # two threads on busy cores spin for a minute
    assert main([*kit.arguments(out="two", frames=1), "--threads", "2"]) == 0
    assert wanted == [2]
    assert config_of(kit.root / "two")["run"]["threads"] == summary_of(kit.root / "two")["threads"] == 2


def test_snapshots_come_as_often_as_asked(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    from online_uda.runtime import snapshot_writer

    written: list[int] = []
    write = snapshot_writer.write_snapshot

    def noted(folder: Path, state: Any) -> Path:
        written.append(state.next_frame)
        return write(folder, state)

    monkeypatch.setattr(snapshot_writer, "write_snapshot", noted)
    kit.run("run.snapshot_every=4")
    assert written == [4, 8, 12, 14]
    assert len(list((kit.root / "run" / "snapshots").iterdir())) == 2


def test_flags_and_overrides_mix_in_any_order(kit: Kit) -> None:
    words = kit.arguments(frames=1)
    words = ["anchor.pull=0.1", *words[:4], "optimizer.momentum=0.5", *words[4:], "anchor.pull=0.2"]
    assert main(words) == 0
    method = config_of(kit.root / "run")["method"]
    assert (method["anchor"]["pull"], method["optimizer"]["momentum"]) == (0.2, 0.5)


def test_default_folder_is_below_runs(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(kit.root)
    words = kit.arguments(frames=1)
    at = words.index("--out")
    assert main([*words[:at], *words[at + 2 :]]) == 0
    (folder,) = (kit.root / "runs").iterdir()
    assert folder.name.startswith("storm-tent-")
    assert summary_of(folder)["frames"] == 3


def test_paths_hold_when_a_run_is_resumed_elsewhere(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(kit.root)
    words = ["--schedule", "storm.yaml", "--network", "network", "--source", "source", "--method", "tent"]
    assert main([*words, "--out", "run", "--frames", "1", "run.tensorboard=false"]) == 0
    before = summary_of(kit.root / "run")
    (kit.root / "elsewhere").mkdir()
    monkeypatch.chdir(kit.root / "elsewhere")
    assert main(["--resume", "../run"]) == 0
    assert summary_of(kit.root / "run") == before


def test_the_town_in_the_rain(kit: Kit) -> None:
    """The built-in sources: no folder anywhere, replay from the town, weather on rendered depth."""
    hamlet = ["--method", "hamlet", "replay.frames=2", "replay.crop=[1,1]", "trigger.window=1", "run.tensorboard=false"]
    words = [
        "--schedule",
        "quick",
        "--network",
        "segformer_b0",
        "--init",
        "random",
        "--frames",
        "1",
        "--size",
        "64x128",
        "--threads",
        "1",
    ]
    assert main([*words, *hamlet, "--out", str(kit.root / "town"), "--device", "cpu"]) == 0
    summary = summary_of(kit.root / "town")
    assert [visit["domain"] for visit in summary["visits"]] == ["clear", "rain100", "clear"]
    assert summary["scored_frames"] == 3


def test_an_encoder_with_a_head_runs_by_its_name(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*kit.arguments(out="any", frames=2), "--network", "timm:resnet18+upernet", "--init", "random"]
    assert main(words) == 0
    assert "what it predicts before training means nothing" in capsys.readouterr().err
    assert summary_of(kit.root / "any")["network"] == "resnet18+upernet"
    assert main([*kit.arguments(out="other", frames=1), "--network", "timm:resnet18+upernet"]) == 2
    assert "--init random" in capsys.readouterr().err
    assert not (kit.root / "other").exists()
    assert main([*kit.arguments(out="other", frames=1), "--init", "random"]) == 2
    assert "has trained weights" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["tent", "hamlet"])
def test_a_module_of_ones_own_is_adapted(kit: Kit, capsys: pytest.CaptureFixture[str], method: str) -> None:
    words = [*kit.arguments(method, "own", frames=3), "--network", "examples.unet:make", "trigger.window=1"]
    own = ["replay.frames=4", "scope.select=fixed", "scope.first_module=2", "trigger.up=1e-6", "trigger.down=-1e-6"]
    assert main([*words, *own] if method == "hamlet" else words[:-1]) == 0
    assert "stages ending in down.1 (stride 4" in capsys.readouterr().err
    assert summary_of(kit.root / "own")["updates"] > 0
    if method == "hamlet":
        assert main([*words, *own, "scope.first_module=4", "--out", str(kit.root / "deep")]) == 2
        assert "this network has 3 modules; give 1 to 3" in capsys.readouterr().err


def test_scope_and_freeze_choose_what_learns_and_print_a_table(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main([*kit.arguments(out="part", frames=2), "--scope", "stages.3,head.norm.*", "--freeze", "stages.3.norm"])
        == 0
    )
    assert "measured once at 64x48" in capsys.readouterr().err
    plan = config_of(kit.root / "part")["method"]["scope"]
    assert plan["parameters"] == "names"
    assert plan["names"] == ["stages.3", "head.norm.*"]
    start, end = load_folder(kit.network).network.state_dict(), method_state(kit.root / "part")["student"]
    moved = {name for name in end if not torch.equal(start[name], end[name])}
    assert any(name.startswith("stages.3.blocks.") for name in moved)
    assert all(name.startswith(("stages.3.", "head.norm.")) and not name.startswith("stages.3.norm.") for name in moved)
    kit.run("--scope", "adapters", "adapters.rank=2", frames=2, out="lora")
    assert any(".adapter." in name for name in method_state(kit.root / "lora")["student"])
    assert main([*kit.arguments(out="wrong", frames=2), "--scope", "stagse.3"]) == 2
    assert "fits no parameter" in capsys.readouterr().err
