"""Data sets through the whole program: a schedule that plays them, labels scored, replay and training from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from online_uda.cli import main
from online_uda.config import RunConfig
from online_uda.inputs import open_inputs
from online_uda.resolve import resolve
from streams.bound_data import named_data
from streams.classes import CITYSCAPES_19
from streams.datasets.registry import absolute_spec
from streams.errors import StreamError
from streams.schedule import load_schedule
from streams.stream import Stream
from tests import data_kit as data
from tests.run_kit import assert_same, frames_of, method_state, summary_of, write_network
from tests.streams.datasets.test_readers import TREES

REPLAYS = "hamlet"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("network") / "network"
    write_network(folder, CITYSCAPES_19.names)
    return folder


def play(root: Path, network: Path, *words: str, out: str = "run", method: str = "tent") -> Path:
    """Runs the command line on tiny settings and returns the run folder."""
    common = ["--network", str(network), "--method", method, "--out", str(root / out), "--device", "cpu"]
    quiet = ["--threads", "1", "run.tensorboard=false", "run.report=false", "run.precision=fp32"]
    assert main([*common, *quiet, *words]) == 0
    return root / out


@pytest.mark.parametrize("name", TREES)
def test_a_schedule_plays_and_scores_every_data_set(tmp_path: Path, network: Path, name: str) -> None:
    TREES[name](tmp_path / "data")
    plain = f"{{domain: plain, {name}: {{root: data}}}}"
    rainy = f"{{domain: rain, {name}: {{root: data}}, weather: {{rain: 50}}, frames: 1}}"
    schedule = tmp_path / "s.yaml"
    schedule.write_text(f"size: [32, 64]\nvisits:\n  - {plain}\n  - {rainy}\n")
    summary = summary_of(play(tmp_path, network, "--schedule", str(schedule), "--frames", "2"))
    assert (summary["frames"], summary["scored_frames"], summary["faults"]) == (3, 3, 0)
    assert summary["overall_miou"] is not None
    depth = name in ("cityscapes", "shift", "synthia")
    assert [row["weather"] for row in summary["sources"]] == [
        None, "rendered on metric depth" if depth else "rendered on an assumed street canyon, without depth",
    ]  # fmt: skip


def test_what_the_stream_hands_out_is_what_the_files_hold(tmp_path: Path) -> None:
    wanted = data.acdc(tmp_path)
    given = named_data([f"acdc={tmp_path}"])
    with Stream(load_schedule("acdc", data=given), size=(32, 64)) as stream:
        assert len(stream.visits) == 40
        assert [visit.domain for visit in stream.visits[:5]] == ["fog", "night", "rain", "snow", "fog"]
        assert len(stream) == 120
        names = [name for name in wanted if name.startswith("night/train/")]
        for offset, name in enumerate(names):
            item = stream[3 + offset]
            assert item.truth.domain == "night"
            assert np.array_equal(item.truth.label, wanted[name])
    again = load_schedule("acdc", ["rounds=2"], given)
    assert (len(again.visits), again.rounds) == (8, 1)


def test_the_storm_on_cityscapes_takes_inria_rain_where_it_is(tmp_path: Path, network: Path) -> None:
    data.cityscapes(tmp_path / "cityscapes")
    spec = f"cityscapes={tmp_path / 'cityscapes'}"
    rendered = load_schedule("cs2rain", data=named_data([spec]))
    assert [visit.weather for visit in rendered.visits] == [visit.weather for visit in load_schedule("cs2rain").visits]
    assert all(visit.cityscapes is not None for visit in rendered.visits)
    assert (rendered.frames, rendered.size, rendered.methods) == (None, (512, 1024), {})
    assert load_schedule("cs2rain", data=named_data([f"gta5={tmp_path}"])).size is None
    data.weather_cityscapes(tmp_path)  # beside Cityscapes
    mixed = load_schedule("cs2rain", data=named_data([spec]))
    found = [visit.weather_cityscapes.rain if visit.weather_cityscapes else None for visit in mixed.visits]
    assert found == [None, 25, 50, None, None, None, None, None, 50, 25, None]
    summary = summary_of(
        play(tmp_path, network, "--schedule", "cs2rain", "--data", spec, "--size", "32x64", "--frames", "1")
    )
    assert summary["frames"] == summary["scored_frames"] == 11
    weather = {row["domain"]: (row["source"], row["weather"]) for row in summary["sources"]}
    assert weather["clear"] == ("cityscapes val", None)
    assert weather["rain25"] == ("weather_cityscapes val rain 25 mm/h", "images rendered by Inria")
    assert weather["rain200"] == ("cityscapes val", "rendered on metric depth")
    fog = load_schedule("cs2fog", data=named_data([spec, f"weather_cityscapes={tmp_path}"]))
    assert [visit.weather_cityscapes is not None for visit in fog.visits][:3] == [False, True, False]


@pytest.mark.slow
def test_the_report_says_where_rain_came_from(tmp_path: Path, network: Path) -> None:
    data.cityscapes(tmp_path / "city")
    words = ["--schedule", "cs2rain", "--data", f"cityscapes={tmp_path / 'city'}", "--size", "32x64", "--frames", "1"]
    folder = play(tmp_path, network, *words, "run.report=true")
    page = (folder / "report.html").read_text()
    assert "rendered on metric depth" in page
    assert "cityscapes val" in page


def test_replay_draws_from_the_training_part(tmp_path: Path, network: Path) -> None:
    data.cityscapes(tmp_path / "city")
    spec = f"cityscapes={tmp_path / 'city'}"
    base = {"schedule": "cs2rain", "data": (spec,), "network": str(network), "method": REPLAYS, "size": "32x64"}
    source = open_inputs(resolve(base)).source
    assert source is not None
    assert len(source) == 4
    assert {sample.name[:3] for sample in source.listing.samples} == {"aac", "ulm"}
    chosen = open_inputs(resolve({**base, "source": f"{spec},split=val,city=lindau"})).source
    assert {sample.name[:6] for sample in chosen.listing.samples} == {"lindau"}
    with pytest.raises(StreamError, match="replay must not draw from them"):
        open_inputs(resolve({**base, "data": (f"{spec},split=train",)}))
    town = open_inputs(resolve({key: value for key, value in base.items() if key != "network"})).source
    assert type(town).__name__ == "TownImages"  # the network that was trained there


def test_a_run_on_data_replays_and_resumes(tmp_path: Path, network: Path) -> None:
    data.cityscapes(tmp_path / "city")
    spec = f"cityscapes={tmp_path / 'city'}"
    words = ["--schedule", "quick", "--data", spec, "--size", "32x64", "--frames", "3", "--source", spec]
    whole = play(tmp_path, network, *words, out="whole", method="default")
    assert summary_of(whole)["frames"] == 9
    resumed = play(tmp_path, network, *words, "run.snapshot_every=4", out="part", method="default")
    for snapshot in sorted((resumed / "snapshots").iterdir())[1:]:
        snapshot.unlink()
    assert main(["--resume", str(resumed)]) == 0
    assert frames_of(resumed) == frames_of(whole)
    assert_same(method_state(resumed), method_state(whole))


def test_training_takes_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from online_uda.training.cli import main as train
    from online_uda.training.data import open_source

    data.cityscapes(tmp_path / "city")
    words = ["--size", "64x64", "--iterations", "1", "--light-iterations", "1", "--device", "cpu", "--threads", "1"]
    assert train([*words, "--data", f"cityscapes={tmp_path / 'city'}", "--out", str(tmp_path / "out")]) == 0
    assert "on 4 unseen images" in capsys.readouterr().out
    data.gta5(tmp_path / "gta")
    seen, unseen = open_source(f"gta5={tmp_path / 'gta'}", None, (32, 64), 10, 10)
    assert (len(seen), len(unseen)) == (2, 1)
    assert train([*words, "--data", f"gta5={tmp_path / 'none'}", "--out", str(tmp_path / "no")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'none'}: no such folder\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--schedule", "acdc"], "visits.0.acdc: where is the data? give --data acdc=DIR, or write 'root: DIR'"),
        (["--data", "/x"], "--data /x: write NAME=DIR, such as cityscapes=/x"),
        (["--data", "cityscapes=/x", "--data", "cityscapes=/y"], "--data: cityscapes is given twice"),
        (["--data", "acdc=/x", "--data", "gta5=/y"], "--data: acdc and gta5 cannot both play the town's visits"),
        (["--data", "weather_cityscapes=/x"], "lies over Cityscapes; give --data cityscapes=DIR as well"),
        (["--schedule", "acdc", "--data", "gta5=/x"], "--data gta5: no visit of this schedule takes it; it plays acdc"),
        (["--schedule", "acdc", "--data", "acdc=/nowhere"], "visits.0.acdc: /nowhere: no such folder"),
        (["--data", "cityscapes=/nowhere"], "visits.0.cityscapes: /nowhere: no such folder"),
        (["--source", "cityscapes=/nowhere", "--method", REPLAYS], "/nowhere: no such folder"),
    ],
)
def test_mistakes_get_one_line(
    network: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["--network", str(network), *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_what_is_scaled_to_the_town_stays_there(tmp_path: Path) -> None:
    data.cityscapes(tmp_path)
    town = resolve({"schedule": "cs2rain", "method": "hamlet"}).method
    own = resolve({"schedule": "cs2rain", "method": "hamlet", "data": (f"cityscapes={tmp_path}",)}).method
    plain = resolve({"schedule": "quick", "method": "hamlet"}).method
    assert town.trigger.window == 8
    assert own == plain
    assert own.trigger.window == 75


def test_texts_mean_the_same_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = resolve({"data": ("weather_cityscapes=a,b,labels=city", "cityscapes=city,split=train")}).run.data
    assert found == (
        f"weather_cityscapes={tmp_path}/a,b,labels={tmp_path}/city",
        f"cityscapes={tmp_path}/city,split=train",
    )
    assert resolve({"source": "shift=s,weather=small rain"}).run.source == f"shift={tmp_path}/s,weather=small rain"
    for text in found:
        assert absolute_spec(text) == text


def test_frames_beyond_the_data_are_refused(tmp_path: Path) -> None:
    data.gta5(tmp_path / "data")
    schedule = tmp_path / "s.yaml"
    schedule.write_text("visits:\n  - {domain: a, gta5: {root: data}, frames: 9}\n")
    with pytest.raises(StreamError, match="asks for 9 frames, there are 3"):
        Stream(load_schedule(schedule))
    config = RunConfig(schedule=str(schedule), method="frozen")
    assert "gta5" in resolve(config).as_dict()["schedule"]["visits"][0]
    assert "acdc" not in resolve(config).as_dict()["schedule"]["visits"][0]
