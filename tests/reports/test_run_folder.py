"""The run folder: refusals, atomic files, environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from online_uda.errors import UserError
from online_uda.reports import run_folder
from online_uda.reports.environment import describe_environment, git_state, hide_credentials
from online_uda.reports.run_folder import RunFolder, default_folder, write_atomically


def test_new_or_empty_folders_are_taken_and_others_refused(tmp_path):
    folder = RunFolder.create(tmp_path / "a" / "b")
    assert folder.path.is_dir()
    assert RunFolder.create(tmp_path / "a" / "b").path == folder.path
    (folder.path / "old.txt").write_text("mine")
    with pytest.raises(UserError, match=r"b is not empty; choose another --out, or continue that run with --resume"):
        RunFolder.create(folder.path)
    assert [path.name for path in folder.path.iterdir()] == ["old.txt"]
    with pytest.raises(UserError, match="is a file"):
        RunFolder.create(folder.path / "old.txt")
    with pytest.raises(UserError, match=r"cannot make the run folder .*old\.txt is a file"):
        RunFolder.create(folder.path / "old.txt" / "deeper")


def test_unwritable_folder_is_refused(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(run_folder.tempfile, "TemporaryFile", refuse)
    with pytest.raises(
        UserError, match=r"cannot write into the run folder .*: Permission denied; choose another --out"
    ):
        RunFolder.create(tmp_path / "run")


def test_reopen_needs_a_run(tmp_path):
    with pytest.raises(UserError, match=r"is no run folder: it has no config\.yaml"):
        RunFolder.reopen(tmp_path)
    RunFolder(tmp_path).write_config({"seed": 1}, "run_stream.py --seed 1")
    assert RunFolder.reopen(tmp_path).read_config() == {"seed": 1}


def test_config_keeps_order_and_types_under_its_command(tmp_path):
    config = {"schedule": "cs2rain", "seed": 0, "lr": 1e-3, "paths": [Path("a/b")], "deep": {"z": None, "a": True}}
    folder = RunFolder.create(tmp_path / "run")
    folder.write_config(config, "run_stream.py --schedule cs2rain")
    text = folder.config.read_text()
    assert text.startswith("# Resolved configuration of one run; repeat it with\n# run_stream.py --schedule cs2rain\n")
    assert folder.read_config() == {**config, "paths": ["a/b"]}
    assert list(yaml.safe_load(text)) == list(config)
    folder.config.write_text("a: [")
    with pytest.raises(UserError, match=r"config\.yaml is damaged"):
        folder.read_config()
    folder.config.write_text("- 1")
    with pytest.raises(UserError, match="expected a mapping of keys, found list"):
        folder.read_config()


def test_summary_is_valid_json_and_replaced_whole(tmp_path, monkeypatch):
    folder = RunFolder.create(tmp_path / "run")
    folder.write_summary({"hmean": float("nan"), "domain": "Zürich"})
    assert json.loads(folder.summary.read_text(encoding="utf-8")) == {"hmean": None, "domain": "Zürich"}

    def torn(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", torn)
    with pytest.raises(OSError, match="disk full"):
        folder.write_summary({"hmean": 1.0})
    assert json.loads(folder.summary.read_text(encoding="utf-8"))["hmean"] is None
    assert [path.name for path in folder.path.iterdir()] == ["summary.json"]


def test_atomic_files_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_default_names_do_not_collide(tmp_path):
    now = datetime(2026, 11, 21, 8, 5, 9)
    first = default_folder("../data/my storm.yaml", "default", now, tmp_path)
    assert first == tmp_path / "my_storm-default-20261121-080509"
    first.mkdir()
    assert default_folder("../data/my storm.yaml", "default", now, tmp_path).name.endswith("-080509-2")
    assert default_folder("cs2rain", "v1.5", now).as_posix() == "runs/cs2rain-v1.5-20261121-080509"


def test_environment_describes_machine_software_and_command(tmp_path):
    pytest.importorskip("torch")
    facts = describe_environment(["run_stream.py", "--stream", "rtsp://me:secret@10.0.0.7/cam"])
    assert facts["command"][-1] == "rtsp://***@10.0.0.7/cam"
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["packages"]["numpy"][0].isdigit()
    assert facts["cores"] >= 1
    assert facts["torch"]["threads"] >= 1
    assert facts["cpu"]
    folder = RunFolder.create(tmp_path / "run")
    names = [folder.write_environment(facts).name for _ in range(3)]
    assert names == ["environment.json", "environment-2.json", "environment-3.json"]
    assert json.loads(folder.environment.read_text())["platform"] == facts["platform"]


def test_credentials_with_odd_characters_are_hidden():
    assert hide_credentials("rtsp://u:p@ss@host/x") == "rtsp://***@host/x"
    assert hide_credentials("http://host/a@b") == "http://host/a@b"


def test_git_state_tells_commit_and_changes(tmp_path):
    assert git_state(tmp_path) is None

    def git(*arguments):
        identity = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "core.hooksPath=/dev/null")
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "a")
    state = git_state(tmp_path)
    assert state is not None
    assert len(state["commit"]) == 40
    assert state["modified"] is False
    (tmp_path / "a").write_text("2")
    changed = git_state(tmp_path)
    assert changed is not None
    assert changed["modified"] is True


def test_reports_do_not_load_torch_before_they_are_opened():
    code = (
        "import sys; import online_uda.reports.console, online_uda.reports.jsonl, online_uda.reports.run_folder,"
        "online_uda.reports.tensorboard, online_uda.reports.environment, online_uda.evaluation.summary;"
        "print([m for m in ('torch', 'tensorboard', 'cv2', 'tqdm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
