"""Every option of every slot moves what it should, and nothing before it, after the same frames with the same seed."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from recipe_kit import changed, copy_of, make_recipe, play, settings_of, stream, trained

from online_uda.adaptation.recipe import Recipe

EVERYTHING: dict[str, Any] = {
    "norm": {"statistics": "stream"},
    "scope": {"parameters": "all"},
    "optimizer": {"name": "sgd", "learning_rate": 0.02, "momentum": 0.0},
    "teacher": {},
    "replay": {"fill": "uniform", "sampling": "uniform", "crop": [1.0, 0.75], "style": {"detail": 0.5}},
    "mixing": {"blur_probability": 0.5},
    "pseudo_labels": {"confidence": 0.5},
    "objectives": {"entropy": {}, "replay": {}, "mixed": {}, "feature_distance": {}},
}
"""Every slot filled; plain SGD, so that a step is the gradient."""


@dataclass(frozen=True)
class Outcome:
    """What can be seen of a run: each part is comparable with ==."""

    parts: dict[str, Any]

    @staticmethod
    def of(recipe: Recipe, frames: int) -> Outcome:
        """Plays ``frames`` frames and looks at everything."""
        before = copy_of(recipe.student)
        first = None
        reports = []
        for frame in stream(frames):
            prediction = recipe.predict(frame)
            last = prediction.logits.flatten().tolist()
            first = last if first is None else first
            reports.append(recipe.observe(frame, prediction))
        after = copy_of(recipe.student)
        parts: dict[str, Any] = {"prediction": first, "last": last, "updates": [report.updated for report in reports]}
        for name in ("entropy", "replay", "mixed", "feature_distance"):
            parts[f"loss.{name}"] = reports[-1].losses.get(name)
        statistics = {name for name in after if "running" in name}
        for part, names in (
            ("encoder", {name for name in after if name.startswith("stages.")} - statistics),
            ("head", {name for name in after if name.startswith("head.")} - statistics),
            ("statistics", {name for name in statistics if not name.startswith("light_head.")}),
        ):
            parts[part] = {name: (after[name] - before[name]).tolist() for name in sorted(names)}
        if recipe.teacher is not None:
            saved = copy_of(recipe.teacher.module)
            parts["teacher"] = {n: t.tolist() for n, t in saved.items() if "running" not in n and "num_" not in n}
            parts["teacher.statistics"] = {n: t.tolist() for n, t in saved.items() if "running" in n}
        return Outcome(parts)


@functools.cache
def reference(kind: str, frames: int, base: tuple[tuple[str, Any], ...] = ()) -> Outcome:
    return Outcome.of(make_recipe(settings_of(EVERYTHING, **dict(base)), trained(kind)), frames)


STEP = {"encoder", "head"}
LOSSES = {"loss.entropy", "loss.replay", "loss.mixed"}
LOOK = {"alignment__strength": 0.5}
CASES: list[tuple[str, Any, set[str], set[str], int, dict[str, Any]]] = [
    # option, value, parts that move, parts that stay, frames, changes to the base it is compared with
    ("alignment", {"rows": 4}, {"loss.entropy"}, {"prediction", "loss.replay"}, 1, {}),
    ("alignment", {"rows": 4}, {"last"}, {"prediction"}, 2, {}),
    ("alignment__strength", 0.9, {"loss.entropy"}, {"prediction", "loss.replay"}, 1, LOOK),
    ("alignment__rows", 2, {"loss.entropy"}, {"loss.replay"}, 1, LOOK),
    ("alignment__columns", 3, {"loss.entropy"}, {"loss.replay"}, 1, LOOK),
    ("alignment__haze", 0.8, {"loss.entropy"}, {"prediction", "loss.replay"}, 1, LOOK),
    ("alignment__half_life_frames", 0.1, {"last"}, {"prediction"}, 3, LOOK),
    ("norm__statistics", "source", {"statistics", "loss.entropy"}, {"prediction"}, 1, {}),
    ("norm__statistics", "batch", {"prediction", "statistics", "loss.replay"}, {"loss.entropy"}, 1, {}),
    ("norm__momentum", 0.5, {"statistics", "loss.replay"}, {"prediction", "loss.entropy"}, 1, {}),
    ("norm__momentum", 0.5, {"last"}, {"prediction"}, 2, {}),
    ("optimizer__name", "adam", STEP, LOSSES | {"statistics"}, 1, {}),
    ("optimizer__name", "adamw", STEP, LOSSES | {"statistics"}, 1, {}),
    ("optimizer__name", "adamw", STEP, LOSSES, 1, {"optimizer__name": "adam", "optimizer__weight_decay": 0.1}),
    ("optimizer__learning_rate", 0.04, STEP, LOSSES | {"statistics"}, 1, {}),
    ("optimizer__weight_decay", 0.1, STEP, LOSSES | {"statistics"}, 1, {}),
    ("optimizer__momentum", 0.9, STEP, {"prediction"}, 2, {}),
    ("optimizer__head_factor", 5.0, {"head"}, LOSSES | {"encoder"}, 1, {}),
    ("anchor__pull", 0.5, STEP | {"statistics"}, LOSSES, 1, {}),
    ("steps", 2, STEP | {"loss.entropy"}, {"prediction", "statistics"}, 1, {}),
    ("student_mode", "train", STEP | LOSSES | {"statistics"}, {"prediction"}, 1, {}),
    ("teacher__cap", 0.0, {"teacher"}, {"loss.replay", "loss.entropy"}, 2, {}),
    ("teacher__half_life_frames", 0.25, {"teacher"}, {"loss.replay", "loss.entropy"}, 2, {}),
    ("teacher__buffers", "keep", {"teacher.statistics"}, {"teacher"}, 2, {}),
    ("teacher__buffers", "ema", {"teacher.statistics"}, {"teacher"}, 2, {}),
    ("replay__sampling", "rare_class", {"loss.replay"}, {"loss.entropy"}, 1, {}),
    ("replay__temperature", 10.0, {"loss.replay"}, {"prediction"}, 2, {"replay__sampling": "rare_class"}),
    ("replay__crop", [0.5, 0.5], {"loss.replay"}, {"loss.entropy"}, 1, {}),
    ("replay__batch", 3, {"loss.replay"}, {"loss.entropy"}, 1, {}),
    ("replay__style", None, {"loss.replay"}, {"loss.entropy"}, 1, {}),
    ("replay__style__grid", [1, 1], {"loss.replay"}, {"loss.entropy"}, 1, {}),
    ("replay__style__grid", [6, 4], {"loss.replay"}, {"loss.entropy"}, 1, {}),
    ("replay__style__half_life_frames", 0.1, {"loss.replay"}, {"prediction"}, 3, {}),
    ("replay__style__detail", 0.0, {"loss.replay"}, {"loss.entropy"}, 1, {}),
    ("replay__style__strength", [0.0, 0.0], {"loss.replay"}, {"loss.entropy"}, 1, {}),
    ("replay__style__strength", [1.0, 1.0], {"loss.replay"}, {"loss.entropy"}, 1, {}),
    ("mixing__ratio", [1.0, 0.75], {"loss.mixed"}, {"loss.replay", "loss.entropy"}, 1, {}),
    ("mixing__jitter_probability", 0.0, {"loss.mixed"}, {"loss.replay"}, 1, {"mixing__jitter_probability": 1.0}),
    ("mixing__jitter_strength", 0.9, {"loss.mixed"}, {"loss.replay"}, 1, {"mixing__jitter_probability": 1.0}),
    ("mixing__blur_probability", 0.0, {"loss.mixed"}, {"loss.replay"}, 1, {"mixing__blur_probability": 1.0}),
    ("pseudo_labels__confidence", 0.9, {"loss.mixed"}, {"loss.replay", "loss.entropy"}, 1, {}),
    ("pseudo_labels__ignore_top", 0.5, {"loss.mixed"}, {"loss.replay", "loss.entropy"}, 1, {}),
    ("pseudo_labels__ignore_bottom", 0.5, {"loss.mixed"}, {"loss.replay", "loss.entropy"}, 1, {}),
    ("objectives__entropy__weight", 2.0, STEP, LOSSES, 1, {}),
    ("objectives__entropy__max_entropy", 0.8, {"loss.entropy"}, {"loss.replay"}, 1, {}),
    ("objectives__entropy__eta_weighting", True, {"loss.entropy"}, {"loss.replay"}, 1,
     {"objectives__entropy__max_entropy": 0.8}),
    ("objectives__entropy__class_balance", 1.0, {"loss.entropy"}, {"loss.replay"}, 1, {}),
    ("objectives__replay__weight", 2.0, STEP, LOSSES, 1, {}),
    ("objectives__mixed__weight", 2.0, STEP, LOSSES, 1, {}),
    ("objectives__feature_distance__weight", 1.0, {"encoder"}, {"head"}, 2, {"replay__crop": [1.0, 1.0]}),
    ("objectives__feature_distance__min_share", 0.01, {"loss.feature_distance"}, {"prediction"}, 2, {}),
    ("objectives__entropy", None, STEP | {"loss.entropy"}, {"loss.replay", "loss.mixed"}, 1, {}),
    ("objectives__feature_distance", None, {"loss.feature_distance", *STEP}, {"prediction"}, 3,
     {"replay__crop": [1.0, 1.0]}),
    ("trigger", {"kind": "always", "every": 2}, {"updates"} | STEP, {"prediction"}, 2, {}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[f"{name}={value}" for name, value, *_ in CASES])
def test_option_moves_what_it_should(case: tuple[str, Any, set[str], set[str], int, dict[str, Any]]) -> None:
    name, value, moves, stays, frames, base = case
    base = {key: tuple(item) if isinstance(item, list) else item for key, item in base.items()}
    with_base = reference("batchnorm", frames, tuple(base.items()))
    changes = {**base, name: value}
    with_option = Outcome.of(make_recipe(settings_of(EVERYTHING, **changes), trained("batchnorm")), frames)
    assert with_base.parts.keys() == with_option.parts.keys()
    equal = {part for part in with_base.parts if with_base.parts[part] == with_option.parts[part]}
    assert not moves & equal, "did not move"
    assert stays <= equal, "moved, but should not"


def test_the_same_settings_and_seed_give_the_same_run() -> None:
    """Without this, every case above would pass on noise; dropout in train mode is part of it."""
    for mode in ("eval", "train"):
        settings = settings_of(EVERYTHING, student_mode=mode)
        runs = []
        for disturbance in (1, 2):
            torch.manual_seed(disturbance)
            runs.append(Outcome.of(make_recipe(settings, trained("layernorm")), 2))
        assert runs[0] == runs[1]


def test_another_seed_draws_other_source_images() -> None:
    other = Outcome.of(make_recipe(settings_of(EVERYTHING), trained("batchnorm"), seed=7), 1)
    assert other.parts["loss.replay"] != reference("batchnorm", 1).parts["loss.replay"]


def test_train_mode_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    play(make_recipe(settings_of(EVERYTHING, student_mode="train"), trained("layernorm")), stream(1))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_a_weight_scales_the_gradient_of_its_objective(weight: float) -> None:
    """One SGD step is -rate * (other gradients + weight * gradient): linear in the weight."""

    def step(value: float) -> torch.Tensor:
        recipe = make_recipe(settings_of(EVERYTHING, objectives__mixed__weight=value), trained("batchnorm"))
        before = copy_of(recipe.student)
        play(recipe, stream(1))
        after = copy_of(recipe.student)
        return torch.cat([(after[n] - before[n]).flatten() for n, p in recipe.student.named_parameters()])

    one, two, chosen = step(1.0), step(2.0), step(weight)
    torch.testing.assert_close(chosen, one + (weight - 1.0) * (two - one), atol=2e-6, rtol=1e-4)


SCOPES: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"parameters": "norm"}, ("norm",)),
    ({"parameters": "head"}, ("head.",)),
    ({"parameters": "all"}, ("stages.", "head.")),
    *(
        (
            {"parameters": "suffix", "select": "fixed", "first_module": first},
            tuple(f"{part}.{index}." for part in ("stages", "head.linears") for index in range(first - 1, 4)),
        )
        for first in (1, 2, 3, 4)
    ),
    (
        {"parameters": "suffix", "select": "fixed", "first_module": 4, "train_fuse": True},
        ("stages.3.", "head.linears.3.", "head.fuse", "head.norm", "head.classifier"),
    ),
]


@pytest.mark.parametrize(("scope", "learning"), SCOPES, ids=[str(list(s.values())) for s, _ in SCOPES])
def test_check_8_exactly_the_scope_changes(scope: dict[str, Any], learning: tuple[str, ...]) -> None:
    """Ten AdamW steps with weight decay: declared parameters all move, every other bit of the network stays."""
    settings = settings_of(
        EVERYTHING, scope=scope, optimizer={"learning_rate": 1e-3, "weight_decay": 0.1}, norm={"statistics": "source"}
    )
    recipe = make_recipe(settings, trained("layernorm"))
    before = copy_of(recipe.student)
    play(recipe, stream(10))
    names = {name for name, _ in recipe.student.named_parameters() if not name.startswith("light_head.")}
    if learning == ("norm",):
        expected = {name for name in names if ".norm" in name}
    else:
        expected = {name for name in names if name.startswith(learning)}
    assert changed(before, copy_of(recipe.student)) == expected


def test_check_8_frozen_stays_frozen_after_it_was_trained() -> None:
    """HAMT moves on from module 1: AdamW's momentum and decay must not move what it left behind."""
    settings = settings_of(
        EVERYTHING, scope={"parameters": "suffix"}, optimizer={"weight_decay": 0.1}, norm={"statistics": "source"}
    )
    recipe = make_recipe(settings, trained("layernorm"))
    seen = []
    for frame in stream(20):
        before = copy_of(recipe.student)
        scope = recipe.observe(frame, recipe.predict(frame)).scope
        assert scope is not None
        first = int(scope.split()[1].split("-")[0])
        seen.append(first)
        frozen = tuple(f"{part}.{index}." for part in ("stages", "head.linears") for index in range(first - 1))
        moved = changed(before, copy_of(recipe.student))
        assert not any(name.startswith(frozen) for name in moved)
        assert any(name.startswith(f"stages.{first - 1}.") for name in moved)
    assert seen[0] == 1
    assert len(set(seen)) > 1


@pytest.mark.parametrize(
    ("option", "value"),
    [("speeds_hz", [1.0, 5.0, 5.0, 20.0]), ("temperature", 0.2), ("rate", 1.0)],
)
def test_options_of_the_module_choice_move_its_scores(option: str, value: Any) -> None:
    def scores(**scope: Any) -> Any:
        settings = settings_of(EVERYTHING, scope={"parameters": "suffix", **scope})
        recipe = make_recipe(settings, trained("layernorm"))
        play(recipe, stream(3))
        return recipe.state_dict()["selector"]["scores"]

    assert scores(**{option: value}) != scores()
