"""Schedules: the form of the files, named schedules, and errors that name file, line and key."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.datasets import DATASETS
from streams.errors import StreamError
from streams.schedule import SCHEDULES, Schedule, find_schedule, list_schedules, load_schedule
from streams.weather import parse_weather
from streams.yaml_config import ConfigError, build, from_mapping


def write(tmp_path: Path, text: str, name: str = "s.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_folders_are_relative_to_the_file(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    make_folder("day")
    path = write(tmp_path, "classes: camvid11\nvisits:\n  - {domain: day, folder: day}\n"
                           "  - {domain: rain50, folder: day, weather: {rain: 50}, frames: 4}\n")  # fmt: skip
    schedule = load_schedule(path)
    assert schedule.name == "s"
    assert schedule.class_set.name == "camvid11"
    assert [visit.folder for visit in schedule.visits] == [tmp_path / "day"] * 2
    assert schedule.visits[1].weather == {"rain": 50}
    assert schedule.visits[1].frames == 4
    assert schedule.visits[0].town is None


def test_overrides_reach_into_visits(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    make_folder("day")
    path = write(tmp_path, "classes: camvid11\nvisits:\n  - {domain: day, folder: day}\n")
    schedule = load_schedule(path, ["visits.0.weather.rain=25", "fps=5", "size=[64, 96]", "name=mine"])
    assert (schedule.visits[0].weather, schedule.fps, schedule.size) == ({"rain": 25}, 5.0, (64, 96))
    assert schedule.name == "mine"


def test_the_town_takes_true_or_options(tmp_path: Path) -> None:
    path = write(tmp_path, "frames: 5\nvisits:\n  - {domain: a, town: true}\n"
                           "  - {domain: b, town: {route: per_visit, seed: 3}, frames: 2}\n")  # fmt: skip
    first, second = load_schedule(path).visits
    assert first.town is not None
    assert (first.town.route, first.town.seed) == ("shared", None)
    assert second.town is not None
    assert (second.town.route, second.town.seed) == ("per_visit", 3)


def test_all_errors_at_once_with_positions(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    make_folder("day")
    path = write(tmp_path, "classes: camvid\nfps: 0\nvisit: 3\nvisits:\n  - {domain: a, folder: dya}\n"
                           "  - {domain: b, folder: day, weather: {rian: 5, fgo: 1}}\n"
                           "  - {domain: c, folder: day, weather: {rain: -5}}\n"
                           "  - {domain: d, folder: day, town: true}\n  - {domain: e}\n"
                           "  - {domain: f, folder: day, frames: 7}\n"
                           "  - {domain: g, town: {rout: shared}}\n")  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        load_schedule(path)
    lines = [line.replace(f"{tmp_path}/", "") for line in caught.value.lines]
    assert lines == [
        "s.yaml:1:10: classes: unknown class set 'camvid' (did you mean 'camvid32'?); a YAML file works as well",
        "s.yaml:2:6: fps: must be greater than 0.0, got 0",
        "s.yaml:3:1: visit: unknown key (did you mean 'visits'?)",
        "s.yaml:5:25: visits.0.folder: dya: no such folder",
        "s.yaml:6:40: visits.1.weather.rian: unknown weather 'rian' (did you mean 'rain'?)",
        "s.yaml:6:49: visits.1.weather.fgo: unknown weather 'fgo' (did you mean 'fog'?)",
        "s.yaml:7:46: visits.2.weather.rain: " + lines[6].split("visits.2.weather.rain: ")[1],
        "s.yaml:8:5: visits.3: a visit names one source (folder, town, stream or a data set), got folder and town",
        "s.yaml:9:5: visits.4: a visit names one source (folder, town, stream or a data set), got none",
        "s.yaml:10:38: visits.5.frames: asks for 7 frames, day has 6",
        "s.yaml:11:24: visits.6.town.rout: unknown key (did you mean 'route'?)",
    ]
    assert "-5" in lines[6]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("visits: []", "visits: a schedule needs at least one visit"),
        ("", "visits: required key is missing"),
        ("visits:\n  - {domain: a, town: true}", "visits.0: the town has no end; give 'frames'"),
        ("frames: 3\nclasses: camvid11\nvisits:\n  - {domain: a, town: true}",
         "visits.0.town: the town is labelled in cityscapes19, this schedule in camvid11"),
        ("frames: 3\nvisits:\n  - {domain: a, town: false}", "visits.0.town: write 'town: true'"),
        ("frames: 3\nvisits:\n  - {domain: a, town: yes}", "visits.0.town: expected keys and values"),
        ("frames: 3\nvisits:\n  - {domain: 25, town: true}", "visits.0.domain: expected text, got 25"),
        ("size: [512]\nvisits:\n  - {domain: a, town: true, frames: 3}", "size: expected 2 entries"),
        ("size: [8, 512]\nvisits:\n  - {domain: a, town: true, frames: 3}", "size.0: must be at least 32, got 8"),
        ("frames: true\nvisits:\n  - {domain: a, town: true}", "frames: expected a whole number, got true"),
    ],
)  # fmt: skip
def test_one_fault_each(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_schedule(write(tmp_path, text))
    (line,) = caught.value.lines
    assert words in line
    assert re.match(r".*s\.yaml:\d+:\d+: ", line)


def test_an_empty_folder_is_an_error_at_its_key(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"s\.yaml:2:25: visits\.0\.folder: .*no images"):
        load_schedule(write(tmp_path, "visits:\n  - {domain: a, folder: empty}\n"))


def test_names_are_found_and_near_ones_suggested(tmp_path: Path) -> None:
    assert find_schedule("cs2rain") == SCHEDULES / "cs2rain.yaml"
    mine = write(tmp_path, "")
    assert find_schedule(mine) == mine
    with pytest.raises(
        StreamError, match=r"unknown schedule 'cs2rian' \(did you mean 'cs2rain'\?\); .*--list schedules"
    ):
        find_schedule("cs2rian")
    with pytest.raises(StreamError, match="no such schedule file"):
        find_schedule(tmp_path / "none.yaml")


def test_every_shipped_schedule_loads_and_starts_with_its_command() -> None:
    listed = dict(list_schedules())
    assert {"cs2rain", "cs2fog", "clear", "quick"} <= listed.keys()
    here = {key: settings(root=Path("/data")) for key, settings in DATASETS.items()}
    for name, description in listed.items():
        assert len(description) > 20
        named = next((key for key in here if f"needs --data {key}=" in description), None)
        schedule = load_schedule(name, data={} if named is None else {named: here[named]})
        assert schedule.name == name
        comments = [line for line in (SCHEDULES / f"{name}.yaml").read_text().split("\n") if line.startswith("#")]
        assert sum(f"python run_stream.py --schedule {name}" in line for line in comments) == 2
        assert all(visit.dataset is None or visit.dataset.root == Path("/data") for visit in schedule.visits)
        for visit in schedule.visits if named is None else ():
            assert parse_weather(visit.weather).effects or visit.domain == "clear"


def ladder(schedule: Schedule, event: str) -> list[float]:
    return [float(visit.weather.get(event, 0)) for visit in schedule.visits]


def test_the_storms_have_the_published_steps() -> None:
    rain = load_schedule("cs2rain")
    assert ladder(rain, "rain") == [0, 25, 50, 75, 100, 200, 100, 75, 50, 25, 0]
    assert rain.frames == 60
    assert [visit.domain for visit in rain.visits][:3] == ["clear", "rain25", "rain50"]
    assert ladder(load_schedule("cs2fog"), "fog") == [0, 750, 375, 150, 75, 150, 375, 750, 0]


KEYS = st.sampled_from(
    ["classes", "visits", "size", "fps", "frames", "domain", "folder", "town", "weather", "rain", "fog", "rate",
     "route", "seed", "visibility", "~nobody/x"]
)  # fmt: skip
LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats()
    | st.sampled_from(["camvid11", "shared", "day", ".", "/", "~nobody", "x" * 300])
)  # fmt: skip
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4))
VISITS = st.lists(st.dictionaries(KEYS, TREES, max_size=4) | TREES, max_size=3)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(KEYS, TREES, max_size=4), VISITS)
def test_fuzzed_schedules_raise_nothing_but_config_errors(tree: dict[str, Any], visits: list[Any]) -> None:
    message = "fuzz"
    try:
        build(Schedule, from_mapping({**tree, "visits": visits}, "fuzz"))
    except ConfigError as error:
        message = str(error)
    assert all(line.startswith("fuzz") for line in message.split("\n"))
