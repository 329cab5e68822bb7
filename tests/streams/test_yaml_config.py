"""YAML with positions: each fault is named at its line and column, all at once, and hostile text costs one line."""

from __future__ import annotations

import math
import pickle
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationInfo, field_validator

from streams.yaml_config import ConfigError, ConfigModel, KeyedError, build, from_mapping, load_yaml, unknown_name


class Colour(Enum):
    RED = "red"
    GREEN = "green"


class Always(ConfigModel):
    kind: Literal["always"]


class Shift(ConfigModel):
    kind: Literal["shift"]
    window: int = Field(5, ge=1)


class Crop(ConfigModel):
    top: int
    left: int = 0


class Settings(ConfigModel):
    rate: float = 0.1
    steps: int = Field(1, ge=1)
    on: bool = False
    name: str = "x"
    size: tuple[int, int] | None = None
    colour: Colour = Colour.RED
    mode: Literal["fast", "exact"] = "fast"
    crop: bool | Crop = False
    limits: dict[str, float] = Field({})
    trigger: Annotated[Always | Shift, Field(discriminator="kind")] | None = None
    parts: list[Annotated[Always | Shift, Field(discriminator="kind")]] = Field([])
    folder: Path | None = None

    @field_validator("limits")
    @classmethod
    def _known(cls, limits: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        for name in limits:
            if name not in ("low", "high"):
                raise KeyedError(unknown_name("limit", name, ("low", "high")), name, at_key=True)
        return limits


def load(tmp_path: Path, text: str | bytes, *overrides: str) -> Settings:
    path = tmp_path / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return build(Settings, load_yaml(path), overrides)


def faults(tmp_path: Path, text: str | bytes, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, *overrides)
    lines = str(caught.value).split("\n")
    assert tuple(lines) == caught.value.lines
    return [line.replace(str(tmp_path) + "/", "") for line in lines]


def test_values_of_every_kind_arrive(tmp_path: Path) -> None:
    got = load(
        tmp_path,
        "rate: 1e-3\nsteps: 7\non: true\nname: on\nsize: [2, 3]\ncolour: green\nmode: exact\ncrop: {top: 4}\n"
        "limits: {low: .inf}\ntrigger: {kind: shift, window: 9}\nparts: [{kind: always}]\nfolder: a/b\n",
    )
    assert got == Settings(
        rate=1e-3, steps=7, on=True, name="on", size=(2, 3), colour=Colour.GREEN, mode="exact", crop=Crop(top=4),
        limits={"low": math.inf}, trigger=Shift(kind="shift", window=9), parts=[Always(kind="always")],
        folder=Path("a/b"),
    )  # fmt: skip
    with pytest.raises(Exception, match="frozen"):
        got.rate = 2.0  # type: ignore[misc]


def test_all_errors_come_at_once_with_positions(tmp_path: Path) -> None:
    text = "rate: fast\nstep: 3\nsteps: 0\nlimits:\n  low: 1\n  hihg: 2\ntrigger:\n  kind: shift\n  windw: 3\n"
    assert faults(tmp_path, text, "mode=exakt") == [
        "c.yaml:1:7: rate: expected a number, got 'fast'",
        "c.yaml:2:1: step: unknown key (did you mean 'steps'?)",
        "c.yaml:3:8: steps: must be at least 1, got 0",
        "c.yaml:6:3: limits.hihg: unknown limit 'hihg' (did you mean 'high'?)",
        "c.yaml:9:3: trigger.windw: unknown key (did you mean 'window'?)",
        "command line: mode=exakt: mode: unknown value 'exakt' (did you mean 'exact'?)",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("steps: true", "c.yaml:1:8: steps: expected a whole number, got true"),
        ("steps: 1:30", "c.yaml:1:8: steps: expected a whole number, got '1:30'"),
        ("steps: 2.5", "c.yaml:1:8: steps: expected a whole number, got 2.5"),
        ("steps: '5'", "c.yaml:1:8: steps: expected a whole number, got '5'; take the quotes away"),
        ("on: yes", "c.yaml:1:5: on: expected true or false, got 'yes'"),
        ("name: 25", "c.yaml:1:7: name: expected text, got 25; put it in quotes: '25'"),
        ("size: [1, 2, 3]", "c.yaml:1:7: size: expected at most 2 entries, got 3"),
        ("size: [1]", "c.yaml:1:7: size: expected 2 entries, entry 1 is missing"),
        ("size:\n  - 1\n  - b", "c.yaml:3:5: size.1: expected a whole number, got 'b'"),
        ("colour: gren", "c.yaml:1:9: colour: unknown value 'gren' (did you mean 'green'?)"),
        ("mode: quick", "c.yaml:1:7: mode: unknown value 'quick' (known: exact, fast)"),
        ("limits: 3", "c.yaml:1:9: limits: expected keys and values (key: value), got 3"),
        ("crop: 3", "c.yaml:1:7: crop: expected true or false or keys and values (key: value), got 3"),
        ("crop: {lft: 1, top: 2}", "c.yaml:1:8: crop.lft: unknown key (did you mean 'left'?)"),
        ("crop: {left: 1}", "c.yaml:1:7: crop.top: required key is missing"),
        ("trigger: {kind: shft}", "c.yaml:1:17: trigger.kind: unknown value 'shft' (did you mean 'shift'?)"),
        ("trigger: {window: 3}", "c.yaml:1:10: trigger.kind: required key is missing"),
        ("trigger: 3", "c.yaml:1:10: trigger: expected keys and values (key: value), got 3"),
        ("parts: [{kind: always}, {kind: shift, window: x}]",
         "c.yaml:1:47: parts.1.window: expected a whole number, got 'x'"),
        ("rate: 1\nrate: 2", "c.yaml:2:1: rate: key given twice, first at 1:1"),
        ("zzz: 1", "c.yaml:1:1: zzz: unknown key (known: colour, crop, folder, limits, mode, name, on, parts, rate, "
                   "size, steps, trigger)"),
    ],
)  # fmt: skip
def test_one_fault_one_line(tmp_path: Path, text: str, expected: str) -> None:
    assert faults(tmp_path, text) == [expected]


BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{b}: &{b} [*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "more than 20000 values"),
        ("a: " + "[" * 5000, "nested deeper"),
        ("rate: !!python/object/apply:os.system ['true']", "tags such as tag:yaml.org,2002:python/object/apply"),
        ("limits: &x {low: *x}", "contains itself"),
        ("limits: *nothing", "names no anchor"),
        ("<<: {rate: 1}", "merge keys"),
        ("[1, 2]", "expected keys and values (key: value), got a list"),
        ("just text", "expected keys and values (key: value), got a single value"),
        ("rate: 1\n---\nrate: 2", "c.yaml:2:1: a second document"),
        ("rate: [1", "not valid YAML"),
        ("rate:\n\t- 1", "indent with spaces"),
        ("? [1, 2]\n: 3", "a key must be plain text"),
        ('rate: "\\UFFFFFFFF"', "not valid YAML"),
        ('name: "a\\0b"', "control characters"),
        ("steps: " + "9" * 9000, "number is too large"),
        (b"\xff\xfe\x00a", "not UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00", "not UTF-8"),
        (b"rate: \x01", "not text"),
        (b"x" * 200_000, "too large"),
    ],
)
def test_hostile_text_costs_one_line(tmp_path: Path, text: str | bytes, words: str) -> None:
    lines = faults(tmp_path, text)
    assert any(words in line for line in lines)
    assert all(line.startswith("c.yaml") for line in lines)
    assert len(lines) <= 2


def test_missing_and_odd_paths(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="is not a file"):
        load_yaml(tmp_path)
    with pytest.raises(ConfigError, match=r"no such file|cannot be read"):
        load_yaml("a\0b")


def test_overrides_are_yaml_and_the_last_one_wins(tmp_path: Path) -> None:
    text = "rate: 1\nsize: [1, 2]\nlimits: {low: 1}\nparts: [{kind: always}]\n"
    got = load(
        tmp_path, text, "rate=2", "rate=1e-4", "size.1=9", "limits.high=3", "trigger.kind=shift",
        "parts.0={kind: shift, window: 2}", "parts.0.window=4", "name='5'",
    )  # fmt: skip
    assert (got.rate, got.size, got.name) == (1e-4, (1, 9), "5")
    assert got.limits == {"low": 1.0, "high": 3.0}
    assert got.trigger == Shift(kind="shift")
    assert got.parts == [Shift(kind="shift", window=4)]
    assert load(tmp_path, text, "size=").size is None


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("rate", "command line: rate: expected key=value with a dotted key, such as student.lr=1e-4"),
        ("=3", "command line: =3: expected key=value with a dotted key, such as student.lr=1e-4"),
        ("raet=3", "command line: raet=3: raet: unknown key (did you mean 'rate'?)"),
        ("rate=fast", "command line: rate=fast: rate: expected a number, got 'fast'"),
        ("limits=[", "command line: limits=[: not valid YAML"),
        ("rate.x=1", "command line: rate.x=1: rate: is a single value and has no key 'x'"),
        ("size.5=1", "command line: size.5=1: size: has entries 0 to 1, not '5'"),
        ("limits.hig=1", "command line: limits.hig=1: limits.hig: unknown limit 'hig' (did you mean 'high'?)"),
    ],
)
def test_a_faulty_override_is_named(tmp_path: Path, override: str, expected: str) -> None:
    (line,) = faults(tmp_path, "rate: 1\nsize: [1, 2]\n", override)
    assert line.startswith(expected)


def test_an_override_does_not_reach_through_an_alias(tmp_path: Path) -> None:
    got = load(tmp_path, "parts: [&a {kind: shift, window: 2}, *a]", "parts.1.window=8")
    assert [part.window for part in got.parts if isinstance(part, Shift)] == [2, 8]


def test_a_mapping_made_in_python(tmp_path: Path) -> None:
    assert build(Settings, from_mapping({"rate": 3.0}, "flags"), ["steps=4"]).steps == 4
    with pytest.raises(ConfigError, match=r"^flags: rate: expected a number"):
        build(Settings, from_mapping({"rate": "x"}, "flags"))


KEYS = st.sampled_from(["rate", "steps", "crop", "limits", "trigger", "parts", "kind", "size", "name", "low", "a b"])
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
YAML_TEXT = st.text(alphabet=st.sampled_from(list("abkr:-[]{},&*!|>?'\"\\%@`#~ \n\t0123456789.eExuU\x00\x07é\ud800")))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80) | YAML_TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_fuzzed_text_raises_nothing_but_config_errors(tmp_path: Path, text: bytes) -> None:
    try:
        load(tmp_path, text)
    except ConfigError as error:
        lines = str(error).split("\n")
    else:
        lines = []
    assert all(line.startswith(str(tmp_path)) for line in lines)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(KEYS, TREES, max_size=5), st.lists(st.text(max_size=12), max_size=2))
def test_fuzzed_trees_are_explained_in_words(tree: dict[str, Any], overrides: list[str]) -> None:
    try:
        build(Settings, from_mapping(tree, "fuzz"), overrides)
    except ConfigError as error:
        for line in str(error).split("\n"):
            assert line.startswith(("fuzz", "command line"))
            assert "pydantic" not in line
            assert "Input should" not in line


def test_a_fault_crosses_processes_with_its_lines() -> None:
    fault = ConfigError(["a.yaml:1:1: x: one", "a.yaml:2:1: y: two"])
    again = pickle.loads(pickle.dumps(fault))
    assert (again.lines, str(again)) == (fault.lines, str(fault))
