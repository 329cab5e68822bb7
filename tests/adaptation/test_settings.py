"""The slots as a YAML file fills them: shipped methods, ranges, and one readable line for every fault."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from online_uda.adaptation.settings import MethodSettings
from streams.yaml_config import ConfigError, build, from_mapping, load_yaml

METHODS = Path(__file__).parents[2] / "configs" / "methods"
SHIPPED = sorted(path.stem for path in METHODS.glob("*.yaml"))


def load(name: str, *overrides: str) -> MethodSettings:
    return build(MethodSettings, load_yaml(METHODS / f"{name}.yaml"), overrides)


def faults(text: str, tmp_path: Path) -> list[str]:
    path = tmp_path / "method.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        build(MethodSettings, load_yaml(path))
    return [line.replace(f"{path}:", "") for line in caught.value.lines]


def test_the_four_methods_are_shipped() -> None:
    assert {"default", "frozen", "hamlet", "tent"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_methods_load_and_survive_the_resolved_config(name: str) -> None:
    settings = load(name)
    again = build(MethodSettings, from_mapping(settings.model_dump(mode="json"), "resolved"))
    assert again == settings


@pytest.mark.parametrize("name", SHIPPED)
def test_the_override_in_the_first_lines_works(name: str) -> None:
    """Every method file starts with its command and one override: the override is taken and changes something."""
    head = (METHODS / f"{name}.yaml").read_text().splitlines()[:2]
    assert head[0].startswith("# python run_stream.py --schedule ")
    assert name == "default" or f"--method {name}" in head[0]
    override = re.search(r"One override: (\S+=\S+)", head[1])
    assert override is not None
    assert load(name, override[1]) != load(name)


def test_hamlet_has_the_values_of_the_paper() -> None:
    """specs/hamlet.md 2.1, 2.3 - 2.10: every default that the recipe names."""
    slots = load("hamlet").model_dump()
    assert slots["student_mode"] == "train"
    scope, optimizer, trigger = slots["scope"], slots["optimizer"], slots["trigger"]
    assert (scope["parameters"], scope["select"], scope["train_fuse"]) == ("suffix", "hamt", False)
    assert scope["speeds_hz"] == (4.21, 4.83, 5.11, 5.73)
    assert (scope["temperature"], scope["rate"]) == (1.75, 0.1)
    assert optimizer == {
        "name": "adamw", "learning_rate": 1.5e-5, "weight_decay": 0.01, "momentum": 0.9, "head_factor": 10.0,
        "sharpness": 0.0, "warm_up": 0, "warm_up_ratio": 1e-6,
    }  # fmt: skip
    assert (slots["teacher"]["cap"], slots["teacher"]["buffers"]) == (0.999, "keep")
    replay = slots["replay"]
    assert (replay["frames"], replay["fill"], replay["sampling"]) == (1000, "rare_class", "rare_class")
    assert (replay["temperature"], replay["batch"], replay["style"]) == (0.01, 1, None)
    assert slots["mixing"] == {
        "ratio": (0.5, 0.75), "jitter_probability": 0.8, "jitter_strength": 0.2, "blur_probability": 0.5,
        "draw": "evenly", "opacity": 1.0, "rare": 0, "rare_pool": 5,
    }  # fmt: skip
    assert slots["pseudo_labels"] == {"confidence": 0.968, "ignore_top": 15 / 512, "ignore_bottom": 120 / 512}
    assert {name: slot for name, slot in slots["objectives"].items() if slot is not None} == {
        "replay": {"weight": 1.0, "stride": 1}, "mixed": {"weight": 1.0},
        "feature_distance": {"weight": 0.005, "min_share": 0.75},
    }  # fmt: skip
    assert trigger == {
        "kind": "hamlet", "window": 75, "up": 0.23, "down": -0.23, "near_value": 0.8, "far_value": 2.55,
        "base_frames": 750, "max_frames": 4450, "return_factor": (0.25, 0.75), "learning_rate": (1.5e-5, 6e-5),
    }  # fmt: skip
    assert slots["steps"] == 1
    assert not any(slots["anchor"].values()), "nothing pulls back"


@pytest.mark.parametrize(("name", "needs"), [("frozen", False), ("tent", False), ("hamlet", True), ("default", True)])
def test_who_needs_source_images(name: str, needs: bool) -> None:
    assert load(name).needs_source is needs


LEARNS = "description: x\nobjectives: {entropy: {}}\n"
MIXED = """description: x
objectives: {mixed: {}}
"""
FAULTY = [
    ("description: x\nscop: {parameters: none}\n", ["2:1: scop: unknown key (did you mean 'scope'?)"]),
    (
        LEARNS + "optimizer: {name: adamww, learning_rte: 1}\n",
        [
            "3:19: optimizer.name: unknown value 'adamww' (did you mean 'adamw'?)",
            "3:27: optimizer.learning_rte: unknown key (did you mean 'learning_rate'?)",
        ],
    ),
    (LEARNS + "steps: two\n", ["3:8: steps: expected a whole number, got 'two'"]),
    (LEARNS + "norm: {momentum: 2}\n", ["3:18: norm.momentum: must be at most 1.0, got 2"]),
    (
        LEARNS + "trigger: {kind: hamlett}\n",
        ["3:17: trigger.kind: unknown value 'hamlett' (did you mean 'hamlet'?)"],
    ),
    (LEARNS + "trigger: {kind: drift}\n", ["3:10: trigger: trigger drift needs the slot replay"]),
    (
        LEARNS + "teacher: {}\n",
        ["3:10: teacher: no objective asks it and deploy is student; add one or drop it"],
    ),
    (LEARNS + "replay: {}\n", ["3:9: replay: no objective or trigger uses this slot; drop it"]),
    (MIXED, ["2:21: objectives.mixed: needs the slots replay, teacher, mixing, pseudo_labels"]),
    (
        MIXED + "replay: {}\nteacher: {}\nmixing: {}\n",
        ["2:21: objectives.mixed: needs the slot pseudo_labels"],
    ),
    (
        "description: x\nobjectives:\n  replay: {}\n  feature_distance: {}\n",
        [
            "3:11: objectives.replay: needs the slot replay",
            "4:21: objectives.feature_distance: needs the slot replay",
        ],
    ),
    (
        MIXED.replace("mixed: {}", "mixed: {}, feature_distance: {}")
        + "replay: {}\nteacher: {}\nmixing: {}\npseudo_labels: {}\n",
        ["2:43: objectives.feature_distance: needs objectives.replay, whose features it compares"],
    ),
    (
        LEARNS + "scope: {parameters: none}\n",
        [
            "3:21: scope.parameters: is none, so the objectives have nothing to move; choose a scope or drop them",
        ],
    ),
    (
        "description: x\nscope: {parameters: norm}\n",
        ["2:8: scope: no objective is given; set scope.parameters to none or add an objective"],
    ),
    (
        LEARNS.replace("entropy: {}", "entropy: {eta_weighting: true}"),
        ["2:23: objectives.entropy: eta_weighting needs max_entropy (ETA: 0.4)"],
    ),
    (LEARNS + "deploy: teacher\n", ["3:9: deploy: needs the slot teacher"]),
    (
        "description: x\nscope: {parameters: none}\nteacher: {cap: 0.9, half_life_frames: 3}\n",
        ["3:10: teacher: give cap or half_life_frames, not both"],
    ),
    ("scope: {parameters: none}\n", ["1:1: description: required key is missing"]),
]


@pytest.mark.parametrize(("text", "expected"), FAULTY, ids=[lines[0] for _, lines in FAULTY])
def test_faults_name_place_key_and_remedy(text: str, expected: list[str], tmp_path: Path) -> None:
    assert faults(text, tmp_path) == expected


TRIGGER = {
    "description": "x", "replay": {}, "objectives": {"replay": {}},
    "trigger": {"kind": "hamlet", "near_value": 3.0, "far_value": 2.0},
}  # fmt: skip


def test_hamlet_values_are_in_order() -> None:
    with pytest.raises(ConfigError, match="near_value 3 must be below far_value 2"):
        build(MethodSettings, from_mapping(TRIGGER, "m"))


def test_strength_of_the_style_is_in_order() -> None:
    text = re.escape("replay.style.strength: [0.8, 0.2] runs backwards; give the smaller strength first")
    with pytest.raises(ConfigError, match=text):
        build(MethodSettings, from_mapping(FULL, "m"), ["replay.style.strength=[0.8, 0.2]"])


FULL: dict[str, Any] = {
    "description": "x",
    "objectives": {"entropy": {}, "replay": {}, "mixed": {}, "feature_distance": {}},
    "replay": {"style": {}}, "teacher": {}, "mixing": {}, "pseudo_labels": {},
}  # fmt: skip
OUTSIDE = [
    ("norm.momentum", -0.1), ("norm.momentum", 1.1), ("scope.first_module", 0), ("scope.first_module", 5),
    ("scope.speeds_hz", [1, 2, 3]), ("scope.speeds_hz", [0, 1, 2, 3]), ("scope.temperature", 0), ("scope.rate", 0),
    ("optimizer.learning_rate", 0), ("optimizer.weight_decay", -1), ("optimizer.momentum", 1),
    ("optimizer.head_factor", 0), ("anchor.pull", 2), ("anchor.relax", -1), ("steps", 0), ("steps", 17),
    ("teacher.cap", 1), ("teacher.half_life_frames", 0), ("replay.frames", 0), ("replay.temperature", 0),
    ("replay.crop", [0, 1]), ("replay.crop", [1, 1.5]), ("replay.batch", 0), ("replay.style.grid", [0, 1]),
    ("replay.style.grid", 4), ("replay.style.strength", [0.5, 1.5]), ("replay.style.strength", 0.5),
    ("replay.style.half_life_frames", 0), ("replay.style.detail", -1),
    ("mixing.ratio", [0.5, 1.5]), ("mixing.jitter_probability", 2), ("mixing.jitter_strength", 1.5),
    ("mixing.blur_probability", -1), ("pseudo_labels.confidence", 0), ("pseudo_labels.ignore_top", -1),
    ("pseudo_labels", "{ignore_top: 0.5, ignore_bottom: 0.5}"), ("objectives.entropy.weight", -1),
    ("objectives.entropy.max_entropy", 0), ("objectives.entropy.class_balance", 2), ("objectives.replay.weight", -1),
    ("objectives.feature_distance.min_share", 2), ("trigger", "{kind: drift, scale: 0}"),
    ("trigger", "{kind: always, every: 0}"), ("trigger", "{kind: hamlet, window: 0}"),
    ("trigger", "{kind: hamlet, down: 0.1}"), ("trigger", "{kind: hamlet, base_frames: 0}"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), OUTSIDE)
def test_values_out_of_range_are_refused_at_once(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"command line: {key}={value}: {key}")):
        build(MethodSettings, from_mapping(FULL, "m"), [f"{key}={value}"])


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
@pytest.mark.parametrize("key", ["optimizer.learning_rate", "replay.style.detail", "objectives.mixed.weight"])
def test_no_number_is_infinite(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=key):
        build(MethodSettings, from_mapping(FULL, "m"), [f"{key}={value}"])


def test_infinite_detector_values_are_refused() -> None:
    for key in ("near_value", "far_value", "up", "down"):
        with pytest.raises(ConfigError, match=key):
            build(MethodSettings, from_mapping(FULL, "m"), [f"trigger={{kind: hamlet, {key}: .nan}}"])


def test_every_bound_is_reachable() -> None:
    """The ends of the ranges are legal, so that the refusals above are not those of a narrower range."""
    overrides = [
        "norm.momentum=0", "norm.momentum=1", "scope.first_module=4", "optimizer.momentum=0", "anchor.pull=1",
        "steps=16",
        "teacher.cap=0", "replay.crop=[1, 0.1]", "replay.style.strength=[1, 1]", "replay.style.grid=[32, 1]",
        "replay.style.strength=[0, 0]", "pseudo_labels.confidence=1", "objectives.entropy.max_entropy=1",
        "trigger={kind: drift, scale: 1}",
    ]  # fmt: skip
    for override in overrides:
        build(MethodSettings, from_mapping(FULL, "m"), [override])
