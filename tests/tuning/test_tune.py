"""The command: a recipe that loads and keeps its promise, a study that goes on, and what is refused."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import optuna
import pytest

from online_uda.adaptation.settings import MethodSettings
from online_uda.networks.checkpoints import load_folder
from online_uda.tune import main
from online_uda.tuning import session
from online_uda.tuning.footage import open_footage
from online_uda.tuning.outcome import Outcome
from online_uda.tuning.rehearsal import rehearse
from online_uda.tuning.search import Search
from online_uda.tuning.stage import Stage
from streams.classes import CAMVID_11
from streams.yaml_config import build, load_yaml
from tests.hparams_kit import columns, session_of
from tests.tuning.conftest import TuneKit, measure_sensitivity


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "tune.json").read_text())


def test_the_recipe_loads_and_scores_as_reported(kit: TuneKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_measure", measure_sensitivity)
    folder = kit.tune(trials="4", harm="0")
    found = record(folder)
    assert found["trials"] == 4
    assert found["held_out"]
    assert found["streams"]["search-0"] != found["streams"]["held_out-0"]
    text = (folder / "recipe.yaml").read_text()
    assert "python -m online_uda.tune" in text
    settings = build(MethodSettings, load_yaml(folder / "recipe.yaml"))
    best = found["chosen"]
    assert best is not None, "with no weight on harm something beats a random network"
    assert f"value {best['value']:+.2f}" in text
    network = load_folder(kit.root / "network")
    network.network.requires_grad_(False).eval()
    footage = open_footage(str(kit.root / "source"), CAMVID_11, None, 0)
    stage = Stage(network, CAMVID_11, footage.replayed, seed=0, harm=0.0)
    streams = [
        rehearse(kit.root / "again", footage, network.network, "any", role="held_out", number=number, seed=0, length=2)
        for number in range(2)
    ]
    score = stage.score("norm_ema", settings, streams)
    assert score.as_dict() == {key: best[key] for key in score.as_dict()}
    assert (folder / "sensitivity.png").stat().st_size > 1000
    curves = json.loads((folder / "sensitivity.json").read_text())["curves"]
    assert len(curves["norm.momentum"]) >= 3
    assert [point["setting"] for point in curves["trigger.every"]] == [1, 2, 4]
    assert "## Finalists on streams that the search never saw" in (folder / "tune.md").read_text()
    settings, metrics = columns(folder / "tensorboard")
    assert settings["norm.momentum"], "candidates differ in it"
    assert {tag for _, tag in metrics} == {"value", "hmean", "gain", "worst_visit", "worst_visit_gain"}
    rows = sorted(path.name for path in (folder / "tensorboard").iterdir())
    assert len(rows) == len(found["search"]) + len(found["held_out"])
    first = found["search"][0]
    tried, scores = session_of(folder / "tensorboard" / f"search_{first['trial']:04d}")
    assert tried["norm.momentum"] == pytest.approx(first["settings"]["norm.momentum"])
    assert scores["value"] == pytest.approx(first["value"], abs=1e-4)


def test_a_study_goes_on_where_it_stopped(kit: TuneKit, capsys: pytest.CaptureFixture[str]) -> None:
    folder = kit.tune(trials="2")
    before = record(folder)
    frames = (folder / "streams" / "search-0" / "frames.npy").stat().st_mtime_ns
    assert main(["--resume", str(folder), "--trials", "4", "--minutes", "5", "--threads", "1"]) == 0
    after = record(folder)
    assert after["trials"] == 4
    assert (folder / "streams" / "search-0" / "frames.npy").stat().st_mtime_ns == frames
    old = {entry["trial"]: entry for entry in before["search"]}
    assert all(entry == old[entry["trial"]] for entry in after["search"] if entry["trial"] in old)
    assert len({json.dumps(entry["settings"]) for entry in after["search"]}) == len(after["search"])
    capsys.readouterr()
    assert main(["--resume", str(folder), "--seed", "3"]) == 2
    assert "--seed: a study goes on as it began" in capsys.readouterr().err
    assert main(["--resume", str(kit.root)]) == 2
    assert "holds no study" in capsys.readouterr().err


def test_candidates_that_fall_behind_are_stopped_early(kit: TuneKit, monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[int] = []
    whole = Stage.play

    def play(self: Stage, name: str, settings: MethodSettings, streams: Any) -> Any:
        played.append(0)
        for visit in whole(self, name, settings, streams):
            played[-1] += 1
            # The later a candidate comes, the worse it is.
            yield type(visit)(visit.stream, visit.domain, 50.0 - len(played), 50.0)

    monkeypatch.setattr(Stage, "play", play)
    found = record(kit.tune(trials="7"))
    assert found["pruned"] >= 2
    assert played[:4] == [12] * 4
    assert min(played) == 2  # after the first visit that may be judged


def test_ctrl_c_leaves_the_best_so_far_and_the_study_goes_on(
    kit: TuneKit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trying = Search._try

    def interrupted(self: Search, trial: optuna.trial.Trial, deadline: Any) -> bool:
        if trial.number == 2:
            raise KeyboardInterrupt
        return trying(self, trial, deadline)

    monkeypatch.setattr(Search, "_try", interrupted)
    assert main(kit.words(trials="4")) == 130
    folder = kit.root / "study"
    assert f"--resume {folder} goes on" in capsys.readouterr().err
    assert record(folder)["interrupted"]
    text = (folder / "recipe.yaml").read_text()
    assert "NOT YET VALIDATED" in text or "frozen" in text
    build(MethodSettings, load_yaml(folder / "recipe.yaml"))
    monkeypatch.setattr(Search, "_try", trying)
    assert main(["--resume", str(folder), "--trials", "4", "--minutes", "5", "--threads", "1"]) == 0
    assert record(folder)["trials"] == 4
    assert not record(folder)["interrupted"]


def test_where_nothing_beats_frozen_the_recipe_is_frozen(kit: TuneKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Outcome, "chosen", None)
    folder = kit.tune()
    settings = build(MethodSettings, load_yaml(folder / "recipe.yaml"))
    assert settings.keeps_the_source
    assert not (folder / "sensitivity.png").exists()


def test_every_option_changes_what_it_should(kit: TuneKit) -> None:
    one = record(kit.tune(out="one", trials="1", harm="0"))

    def other(**changes: str) -> dict[str, Any]:
        return record(kit.tune(out="-".join(changes), **{"trials": "1", "harm": "0", **changes}))

    for changed in (other(frames="3"), other(size="64x96"), other(seed="1")):
        assert changed["search"][0]["hmean_frozen"] != one["search"][0]["hmean_frozen"]
    fall = max(0.0, -one["search"][0]["worst_gain"])
    assert fall > 0.0
    assert other(harm="3")["search"][0]["value"] == pytest.approx(one["search"][0]["value"] - 3.0 * fall)
    two = other(methods="norm_ema iabn", trials="2")
    assert {entry["method"] for entry in two["search"]} == {"norm_ema", "iabn"}
    assert (one["trials"], two["trials"]) == (1, 2)
    assert one["facts"]["threads"] == 1
    assert other(classes="camvid11")["search"] == one["search"]  # the network names them; and a study is repeatable


def test_minutes_end_a_search(kit: TuneKit, monkeypatch: pytest.MonkeyPatch) -> None:
    trying, now = Search._try, [0.0]

    def a_minute_long(self: Search, trial: optuna.trial.Trial, deadline: Any) -> bool:
        over = trying(self, trial, deadline)
        now[0] += 60.0
        return over

    monkeypatch.setattr(Search, "_try", a_minute_long)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    found = record(kit.tune(trials="100", minutes="5"))
    assert found["trials"] == 4  # 0.65 of 5 minutes are over in the fourth
    assert len(found["held_out"]) > 1


def test_the_target_stream_is_refused(kit: TuneKit, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--schedule", "cs2rain"], ["--schedule=dusk.yaml"], ["--stream", "0"]):
        with pytest.raises(SystemExit) as stopped:
            main([*kit.words(), *words])
        assert stopped.value.code == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert "never sees the target stream" in lines[0]
    target = kit.root / "dusk.yaml"
    target.write_text("classes: camvid11\nvisits:\n  - {domain: day, folder: source}\n")
    assert main(kit.words(source=str(target))) == 2
    assert "never sees a target stream or schedule" in capsys.readouterr().err
    assert not (kit.root / "study").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": "tnt"}, "did you mean 'tent'?"),
        ({"methods": "frozen"}, "--methods frozen: has no option that can be tuned"),
        ({"methods": "tent tent"}, "one is named twice"),
        ({"size": "64"}, "--size: expected HEIGHTxWIDTH"),
        ({"size": "8x8"}, "--size 8x8: height and width must be 32 to 4096"),
        ({"source": "nowhere"}, "no such folder"),
        ({"network": "nowhere"}, "nowhere"),
        ({"classes": "camvid_11"}, "camvid11"),
        ({"device": "cuda:7"}, "--device cuda:7"),
    ],
)
def test_a_mistake_is_one_line(
    kit: TuneKit, capsys: pytest.CaptureFixture[str], change: dict[str, str], message: str
) -> None:
    assert main(kit.words(**change)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("error: ")]) == 1
    assert message in lines[-1]


@pytest.mark.parametrize("flag", ["--trials", "--minutes", "--frames", "--seed", "--harm", "--threads"])
def test_a_number_out_of_range_is_one_line(kit: TuneKit, capsys: pytest.CaptureFixture[str], flag: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*kit.words(), flag, "-1"])
    assert stopped.value.code == 2
    assert "number from" in capsys.readouterr().err


def test_a_folder_in_use_is_refused(kit: TuneKit, capsys: pytest.CaptureFixture[str]) -> None:
    (kit.root / "study").mkdir()
    (kit.root / "study" / "mine.txt").write_text("x")
    assert main(kit.words()) == 2
    assert "is not empty; choose another, or go on with --resume" in capsys.readouterr().err


def test_a_network_that_changed_is_refused(kit: TuneKit, capsys: pytest.CaptureFixture[str]) -> None:
    folder = kit.tune(trials="1")
    (folder / "inputs.json").write_text(
        (folder / "inputs.json").read_text().replace('"network weights": "', '"network weights": "0')
    )
    assert main(["--resume", str(folder)]) == 2
    assert "the network weights changed since the study began" in capsys.readouterr().err
