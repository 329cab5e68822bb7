"""One row for every option of every slot: with it, something that can be seen of a run differs from without it.

A new option without a row fails `test_every_option_has_a_row`. Rows are here, in the table of `test_recipe_options`, or
name the test of the part that the option belongs to, where a recipe would need hundreds of frames to show it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import BaseModel
from recipe_kit import CAMVID_11, SourceSet, copy_of, settings_of, stream, trained
from test_recipe_options import CASES

from online_uda.adaptation.build import build_method
from online_uda.adaptation.settings import MethodSettings
from online_uda.errors import UserError
from online_uda.networks.checkpoints import LoadedNetwork

HERE = Path(__file__).parent
Data = dict[str, Any]

SGD: Data = {"name": "sgd", "learning_rate": 0.05, "momentum": 0.0}
TENT: Data = {"norm": {"statistics": "stream"}, "scope": {"parameters": "all"}, "optimizer": SGD,
              "objectives": {"entropy": {}}}  # fmt: skip
PRUNE: Data = {**TENT, "activations": {"kind": "prune", "keep": 0.5}}
STILL: Data = {"scope": {"parameters": "none"}}
DUA: Data = {**STILL, "norm": {"statistics": "dua"}}
SUFFIX: Data = {"scope": {"parameters": "suffix"}, "optimizer": SGD, "objectives": {"entropy": {}}}
FIXED: Data = {**SUFFIX, "scope": {"parameters": "suffix", "select": "fixed"}}
NAMES: Data = {**TENT, "scope": {"parameters": "names", "names": ["stages.0"]}}
LORA: Data = {**TENT, "scope": {"parameters": "adapters"}, "adapters": {"kind": "lora"}}
TWO: Data = {**LORA, "adapters": {"kind": "two_rank", "rank": 1, "high_rank": 2}}
FORMER: Data = {**LORA, "adapters": {"kind": "adaptformer"}}
REPLAY: Data = {**TENT, "replay": {"frames": 8, "fill": "uniform", "sampling": "uniform"},
                "objectives": {"replay": {}}}  # fmt: skip
KALMAN: Data = {**TENT, "anchor": {"kalman": {"drift": 0.9, "noise": 0.05, "gain": [0.8, 0.9999], "blend": 0.8}}}
ETA: Data = {**TENT, "objectives": {"entropy": {"max_entropy": 0.8, "eta_weighting": True}}}
PIXELS: Data = {**TENT, "objectives": {"entropy": {"redundancy": {"of": "pixels", "limit": 0.9}}}}
SHUFFLE: Data = {**TENT, "objectives": {"entropy": {"shuffle": {"min_drop": 0.0}}}}
FISHER: Data = {**TENT, "objectives": {"entropy": {}, "fisher": {"weight": 10.0, "frames": 2}}}
TAUGHT: Data = {**TENT, "teacher": {"cap": 0.9, "warm_up": False, "follows": "after"}, "deploy": "teacher",
                "objectives": {"taught": {"views": {"scales": [1.0, 0.5], "flip": True}, "trust": "anchor",
                                          "confidence": 0.5, "labels": "soft"}}}  # fmt: skip
MASK: Data = {**TAUGHT, "objectives": {"taught": {"mask": {"share": 0.5, "patch": 32}}}}
ROID: Data = {**TENT, "objectives": {"likelihood": {"blur_probability": 1.0}}}
DISTIL: Data = {**TENT, "objectives": {"distilled": {"network": "segformer_b0_town", "classes": "cityscapes19"}}}
HYBRID: Data = {**TENT, "scope": {"parameters": "hybrid", "window": 3, "rise": 0.02, "memory": 0.9},
                "adapters": {"kind": "lora"}}  # fmt: skip
STRIDE: Data = {**DISTIL, "trigger": {"kind": "stride", "smallest": 2, "largest": 4}}
KEEPS_UP: Data = {**STRIDE, "objectives": {"distilled": {**DISTIL["objectives"]["distilled"], "target": 1e-4}}}
DRIFT: Data = {**REPLAY, "trigger": {"kind": "drift"}}
ADVERSARY: Data = {**REPLAY, "objectives": {"adversarial": {"ramp": 0}}}
RAMP: Data = {**REPLAY, "objectives": {"adversarial": {"ramp": 2}}}
MMD: Data = {**REPLAY, "objectives": {"discrepancy": {"cells": 8, "weight": 1.0}}}
IRW: Data = {**REPLAY, "objectives": {"replay": {}, "whitening": {"kind": "irw", "stages": [1]}}}
ISW: Data = {**REPLAY, "objectives": {"replay": {}, "whitening": {"stages": [1], "frames": 2}}}
CONTRAST: Data = {**REPLAY, "objectives": {"replay": {}, "contrast": {}}}
MIXED: Data = {**TENT, "teacher": {}, "mixing": {}, "pseudo_labels": {"confidence": 0.4},
               "replay": REPLAY["replay"], "objectives": {"mixed": {}}}  # fmt: skip
FUSED: Data = {**TENT, "teacher": TAUGHT["teacher"], "objectives": {"fused": {"views": 2, "upper": 0.5}}}
STRONG: Data = {**TAUGHT, "objectives": {"taught": {"strong": {}}}}
PROTO: Data = {**TENT, "teacher": TAUGHT["teacher"],
               "objectives": {"prototype": {"prior": "static", "frames": 4, "consistency": 1.0}}}  # fmt: skip
ROTTA: Data = {**TENT, "teacher": TAUGHT["teacher"], "objectives": {"remembered": {}}}
GTTA: Data = {**REPLAY, "objectives": {"transfer": {}}}
ECO: Data = {**TENT, "objectives": {"entropy": {}, "near_source": {}}}
MAD: Data = {**SUFFIX, "scope": {"parameters": "suffix", "select": "mad", "decay": 0.1}}

ROWS: list[tuple[str, Any, Data, int]] = [
    # option, value, the method it is compared with, frames
    ("norm__alpha", 0.5, {**STILL, "norm": {"statistics": "alpha"}}, 1),
    ("norm__decay", 0.5, DUA, 2),
    ("norm__floor", 0.2, DUA, 2),
    ("norm__views", 2, DUA, 2),
    ("norm__crop", 0.75, DUA, 2),
    ("norm__shrink", 30.0, {**STILL, "norm": {"statistics": "iabn"}}, 1),
    ("scope__parameters", "bias", TENT, 1),
    ("scope__names", ["stages.1"], NAMES, 1),
    ("scope__freeze", ["stages.0"], TENT, 1),
    ("scope__spare_last", 2, TENT, 1),
    ("scope__select", "hamt", {**FIXED, "scope": {**FIXED["scope"], "first_module": 4}}, 1),
    ("scope__first_module", 3, FIXED, 1),
    ("scope__rate", 1.0, SUFFIX, 8),
    ("scope__train_fuse", True, FIXED, 1),
    ("adapters__kind", "conv", LORA, 2),
    ("adapters__rank", 1, LORA, 2),
    ("adapters__scale", 3.0, LORA, 2),
    ("adapters__targets", ["stages.0.*"], LORA, 2),
    ("adapters__high_rank", 4, TWO, 2),
    ("adapters__high_scale", 3.0, TWO, 2),
    ("adapters__placement", "sequential", FORMER, 2),
    ("optimizer__sharpness", 0.5, TENT, 1),
    ("anchor__restore", 0.5, TENT, 1),
    ("anchor__reset_every", 2, TENT, 2),
    ("anchor__reset_below", 9.0, TENT, 1),
    ("anchor__kalman__drift", 0.5, KALMAN, 3),
    ("anchor__kalman__noise", 0.5, KALMAN, 3),
    ("anchor__kalman__gain", [0.1, 0.2], KALMAN, 3),
    ("anchor__kalman__blend", 0.3, KALMAN, 3),
    ("teacher__warm_up", True, TAUGHT, 3),
    ("teacher__follows", "before", TAUGHT, 3),
    ("replay__frames", 4, REPLAY, 3),
    ("replay__fill", "rare_class", {**REPLAY, "replay": {**REPLAY["replay"], "frames": 3}}, 3),
    ("objectives__replay__stride", 2, REPLAY, 1),
    ("objectives__entropy__reference", 0.2, ETA, 1),
    ("objectives__entropy__redundancy__limit", 0.5, PIXELS, 2),
    ("objectives__entropy__redundancy__of", "frame", PIXELS, 2),
    ("objectives__entropy__redundancy__rate", 1.0, PIXELS, 3),
    ("objectives__entropy__shuffle__min_drop", 0.3, SHUFFLE, 1),
    ("objectives__entropy__shuffle__grid", [2, 2], SHUFFLE, 1),
    ("objectives__entropy__shuffle__window", 2, SHUFFLE, 1),
    ("objectives__fisher__weight", 100.0, FISHER, 3),
    ("objectives__fisher__frames", 6, FISHER, 3),
    ("objectives__taught__weight", 0.1, TAUGHT, 1),
    ("objectives__taught__views__scales", [1.0], TAUGHT, 1),
    ("objectives__taught__views__flip", False, TAUGHT, 1),
    ("objectives__taught__trust", "views", TAUGHT, 1),
    ("objectives__taught__confidence", 0.95, TAUGHT, 1),
    ("objectives__taught__labels", "hard", TAUGHT, 1),
    ("objectives__taught__loss", "symmetric", TAUGHT, 1),
    ("objectives__taught__mask__share", 0.9, MASK, 1),
    ("objectives__taught__mask__patch", 16, MASK, 1),
    ("objectives__likelihood__weight", 0.1, ROID, 1),
    ("objectives__likelihood__clip", 0.7, ROID, 1),
    ("objectives__likelihood__temperature", 2.0, ROID, 1),
    ("objectives__likelihood__rate", 1.0, ROID, 3),
    ("objectives__likelihood__consistency", 0.0, ROID, 1),
    ("objectives__likelihood__jitter_strength", 0.7, ROID, 1),
    ("objectives__likelihood__blur_probability", 0.0, ROID, 1),
    ("objectives__distilled__weight", 0.1, DISTIL, 1),
    ("objectives__distilled__target", 1e-4, DISTIL, 1),
    ("objectives__entropy__normalised", True, TENT, 1),
    ("objectives__entropy__variance", 0.5, TENT, 1),
    ("objectives__adversarial__weight", 0.1, ADVERSARY, 1),
    ("objectives__adversarial__reversal", 0.5, ADVERSARY, 1),
    ("objectives__adversarial__ramp", 4, RAMP, 2),
    ("objectives__adversarial__sees", "output", ADVERSARY, 1),
    ("objectives__adversarial__phase", "disc_only", {**ADVERSARY, "norm": {}}, 1),
    ("objectives__adversarial__loss", "least_squares", ADVERSARY, 1),
    ("objectives__adversarial__width", 8, ADVERSARY, 1),
    ("objectives__adversarial__learning_rate", 0.1, ADVERSARY, 2),
    ("objectives__discrepancy__weight", 0.1, MMD, 1),
    ("objectives__discrepancy__stage", 1, MMD, 1),
    ("objectives__discrepancy__cells", 4, MMD, 1),
    ("objectives__whitening__weight", 0.1, IRW, 1),
    ("objectives__whitening__kind", "iw", {**IRW, "objectives": {"replay": {}, "whitening": {}}}, 1),
    ("objectives__whitening__stages", [3], IRW, 1),
    ("objectives__whitening__margin", 0.02, IRW, 1),
    ("objectives__whitening__frames", 6, ISW, 1),
    ("objectives__whitening__trials", 6, ISW, 1),
    ("objectives__whitening__clusters", 12, ISW, 1),
    ("objectives__whitening__jitter_strength", 0.05, ISW, 1),
    ("objectives__contrast__weight", 0.5, CONTRAST, 1),
    ("objectives__contrast__temperature", 0.3, CONTRAST, 1),
    ("objectives__contrast__min_share", 0.99, CONTRAST, 1),
    ("objectives__contrast__exclude", ["sky", "road"], CONTRAST, 1),
    ("objectives__contrast__of", "both", {**MIXED, "objectives": {"replay": {}, "mixed": {}, "contrast": {}}}, 1),
    ("optimizer__warm_up", 4, TENT, 2),
    ("optimizer__warm_up_ratio", 0.5, {**TENT, "optimizer": {**SGD, "warm_up": 2}}, 1),
    ("mixing__opacity", 0.5, MIXED, 1),
    ("mixing__rare", 2, MIXED, 1),
    ("mixing__rare_pool", 9, {**MIXED, "mixing": {"rare": 1}}, 2),
    ("teacher__every", 2, TAUGHT, 3),
    ("objectives__remembered__weight", 0.1, ROTTA, 1),
    ("objectives__remembered__frames", 1, ROTTA, 3),
    ("objectives__remembered__jitter_strength", 0.0, ROTTA, 1),
    ("objectives__remembered__blur_probability", 0.0, ROTTA, 3),
    ("objectives__transfer__weight", 0.1, GTTA, 1),
    ("objectives__transfer__of_frame", 1.0, GTTA, 1),
    ("objectives__transfer__rate", 0.9, GTTA, 2),
    ("objectives__transfer__min_pixels", 3000, GTTA, 1),
    ("objectives__near_source__weight", 5.0, ECO, 2),
    ("objectives__near_source__distance", "l2", ECO, 2),
    ("objectives__taught__mask__where", "ambiguous", MASK, 1),
    ("mixing__draw", "ambiguous", MIXED, 2),
    ("scope__draw", "round_robin", MAD, 4),
    ("anchor__reset_above", 0.01, TENT, 1),
    ("objectives__fused__weight", 0.1, FUSED, 1),
    ("objectives__fused__views", 4, FUSED, 1),
    ("objectives__fused__zoom", [0.3, 0.4], FUSED, 1),
    ("objectives__fused__upper", 1.0, FUSED, 1),
    ("objectives__fused__lower", 0.9, FUSED, 1),
    ("objectives__fused__beta", 0.9, FUSED, 1),
    ("objectives__fused__rate", 1.0, FUSED, 2),
    ("objectives__fused__focal", 0.0, FUSED, 1),
    ("objectives__fused__jitter_strength", 0.0, FUSED, 4),
    ("objectives__fused__blur_probability", 1.0, FUSED, 4),
    *(
        (f"objectives__taught__strong__{key}", value, STRONG, 1)
        for key, value in (
            ("zoom", [0.3, 0.4]),
            ("angle", 45.0),
            ("jitter_strength", 0.9),
            ("blur_probability", 0.0),
            ("cutout", 0.7),
        )
    ),
    ("objectives__taught__strong__flip", False, STRONG, 4),
    *(
        (
            f"objectives__prototype__strong__{key}",
            value,
            {**PROTO, "objectives": {"prototype": {"prior": "static", "frames": 4, "strong": {}}}},
            1,
        )
        for key, value in (
            ("zoom", [0.3, 0.4]),
            ("angle", 45.0),
            ("jitter_strength", 0.9),
            ("blur_probability", 0.0),
            ("cutout", 0.7),
        )
    ),
    (
        "objectives__prototype__strong__flip",
        False,
        {**PROTO, "objectives": {"prototype": {"prior": "static", "frames": 4, "strong": {}}}},
        4,
    ),
    ("objectives__prototype__consistency", 5.0, PROTO, 1),
    ("objectives__prototype__spread", False, PROTO, 1),
    ("deploy", "student", TAUGHT, 2),
    ("prior_correction", True, TENT, 1),
    ("scope__window", 1, HYBRID, 8),
    ("scope__rise", 0.9, HYBRID, 8),
    ("scope__memory", 0.0, HYBRID, 8),
    ("trigger[always]__every", 2, {**TENT, "trigger": {"kind": "always"}}, 2),
    ("trigger[stride]__smallest", 1, STRIDE, 3),
    ("trigger[stride]__largest", 2, KEEPS_UP, 4),
    ("trigger[drift]__scale", 0.25, DRIFT, 1),
    ("activations[prune]__keep", 0.1, PRUNE, 1),
    ("activations[prune]__rule", "even", PRUNE, 1),
    ("activations[prune]__every", 3, PRUNE, 3),
    ("activations[prune]__crop", 1.0, PRUNE, 1),
]

ELSEWHERE = {
    "description": "test_settings.py::test_shipped_methods_load_and_survive_the_resolved_config",
    "activations[recompute]__kind": "test_recompute.py::test_the_graph_is_smaller",
    "activations[prune]__kind": "test_prune.py::test_less_is_kept_and_whole_shares_keep_every_bit",
    "alignment__own": "test_look.py::test_own_is_the_share_of_the_streams_own_near_look",
    **{
        f"reservoir__{key}": "test_reservoir.py::test_every_option_counts"
        for key in ("models", "quantile", "slack", "frames", "window", "rate")
    },
    "fusion__weight": "test_fusion.py::test_a_still_scene_is_a_running_mean",
    "memory__states": "test_memory.py::test_the_bank_is_bounded_and_the_state_unused_longest_goes",
    "memory__window": "test_memory.py::test_the_window_says_which_frames_are_of_the_new_domain",
    "scope__speeds_hz": "test_scope_select.py::test_check_7_default_weights_scale_the_gain",
    "scope__temperature": "test_scope_select.py::test_check_7_weights",
    "scope__decay": "test_second_wave.py::test_mad_by_hand",
    "scope__exploration": "test_scope_bandit.py::test_without_exploration_the_best_so_far_is_kept",
    "anchor__relax": "test_anchor.py::test_rest_ends_at_home_to_the_bit",
    **{f"anchor__ensemble__{key}": "test_ensemble.py::test_every_option_counts" for key in ("near", "full")},
    "anchor__restart": "test_recipe.py::test_restart_acts_before_the_step_at_a_change_back_towards_the_source",
    "objectives__distilled__network": "test_option_table.py::test_the_network_that_is_named_labels_the_frames",
    "objectives__distilled__classes": "test_option_table.py::test_a_bigger_network_of_other_classes",
    **{
        f"objectives__prototype__{key}": "test_onda.py::test_every_option_moves_the_step"
        for key in ("weight", "temperature", "rate", "min_cells", "frames", "confidence", "cross_entropy", "reverse",
                    "regular", "prior")
    },
    **{
        f"objectives__prototype__{key}": "test_onda.py::test_every_option_of_the_switch_counts"
        for key in ("window", "gray", "slope")
    },
    "trigger[always]__kind": "test_build.py::test_always_override_learns_from_the_first_frame",
    "trigger[drift]__kind": "test_build.py::test_default_scale_reaches_the_detector",
    "trigger[drift]__every": (
        "test_policies.py::test_drift_learns_on_every_nth_far_frame_and_on_each_that_shows_a_change"
    ),
    "trigger[stride]__kind": "test_switch_and_distillation.py::test_stride_doubles_and_halves",
    "trigger[hamlet]__kind": "test_build.py::test_hamlet_trigger_options_reach_detector_and_budget",
    **{
        f"trigger[hamlet]__{key}": "test_build.py::test_hamlet_trigger_options_reach_detector_and_budget"
        for key in ("window", "up", "down", "near_value", "far_value", "base_frames", "max_frames", "return_factor",
                    "learning_rate")
    },
    "guards__every": "test_guards.py::test_every_says_how_often_the_canary_is_asked",
    "guards__canary": "test_guards.py::test_without_a_canary_the_other_guards_stand",
    "guards__canary_most": "test_guards.py::test_a_candidate_that_looks_worse_is_compared_on_more_images",
    "guards__margin": "test_guards.py::test_a_candidate_that_the_canary_does_not_survive",
    "guards__disagreement": "test_guards.py::test_weights_that_act_on_the_stream_alone_are_found",
    "guards__collapse": "test_guards.py::test_a_collapsed_prediction_is_blamed_on_the_weights_if_the_source_sees_more",
    "guards__rate_factor": "test_guard_signs.py::test_the_ladder_goes_down_by_failures_and_up_by_passes",
    "guards__patience": "test_guards.py::test_after_patience_the_source_predicts_for_a_while",
    "guards__rest": "test_guards.py::test_after_patience_the_source_predicts_for_a_while",
}  # fmt: skip


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    else:
        for part in get_args(annotation):
            yield from _models(part)


def _options(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of a method, ``__`` for the dot; a slot of several kinds says which."""
    for name, field in model.model_fields.items():
        parts = list(dict.fromkeys(_models(field.annotation)))
        if not parts:
            yield prefix + name
        for part in parts:
            kind = f"[{get_args(part.model_fields['kind'].annotation)[0]}]" if len(parts) > 1 else ""
            yield from _options(part, f"{prefix}{name}{kind}__")


def test_every_option_has_a_row() -> None:
    known = {name for name, *_ in ROWS} | {name for name, *_ in CASES} | set(ELSEWHERE)
    options = set(_options(MethodSettings))
    assert len(options) > 130
    assert not options - known, "options without a row"
    assert not set(ELSEWHERE) - options, "rows of options that are no more"


@pytest.mark.parametrize("test", sorted(set(ELSEWHERE.values())))
def test_tests_that_rows_name_exist(test: str) -> None:
    file, _, name = test.partition("::")
    assert f"def {name}(" in (HERE / file).read_text()


def outcome(settings: MethodSettings, frames: int) -> dict[str, Any]:
    """Weights, answers and reports after some frames, each comparable with ==."""
    kind = "layernorm" if settings.adapters is not None else "batchnorm"
    method = build_method(
        settings, name="m", network=LoadedNetwork(trained(kind), CAMVID_11.names, True, kind), classes=CAMVID_11,
        source=SourceSet(), size=None, seed=0, device=torch.device("cpu"), bf16=False,
    )  # fmt: skip
    answers, reports = [], []
    for index, frame in enumerate(stream(frames)):
        frame = frame if index % 2 else frame * 0.8
        prediction = method.predict(frame)
        answers.append(prediction.logits.flatten().tolist())
        reports.append(method.observe(frame, prediction))
    weights = {name: tensor.tolist() for name, tensor in copy_of(method.student).items()}
    return {"weights": weights, "answers": answers, "reports": reports}


@pytest.mark.parametrize(("option", "value", "base", "frames"), ROWS, ids=[f"{row[0]}={row[1]}" for row in ROWS])
def test_with_it_differs_from_without(option: str, value: Any, base: Data, frames: int) -> None:
    key = option.partition("[")[0] + option.partition("]")[2] if "[" in option else option
    changes = {key: value, "deploy": "student"} if option == "deploy" else {key: value}
    if option.endswith("__trust"):
        changes["objectives__taught__confidence"] = base["objectives"]["taught"]["confidence"]
    without, with_it = settings_of(base), settings_of(base, **changes)
    assert without != with_it
    assert outcome(without, frames) != outcome(with_it, frames)


def test_without_a_difference_nothing_differs() -> None:
    """Otherwise every row above would pass on noise."""
    for base in (TAUGHT, FISHER, DUA):
        assert outcome(settings_of(base), 2) == outcome(settings_of(base), 2)


def test_a_bigger_network_of_other_classes() -> None:
    """Its own classes are named, and it answers in the stream's; without them it is refused."""
    assert outcome(settings_of(DISTIL), 1)["reports"][0].losses["distilled"] > 0.0
    with pytest.raises(UserError, match="11 classes"):
        outcome(settings_of(DISTIL, objectives__distilled__classes=None), 1)


def test_the_network_that_is_named_labels_the_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def named(name: str, *_: Any) -> LoadedNetwork:
        asked.append(name)
        return LoadedNetwork(trained("layernorm" if name == "one" else "batchnorm"), CAMVID_11.names, True, name)

    monkeypatch.setattr("online_uda.adaptation.build.load_network", named)
    one, two = (
        outcome(settings_of(DISTIL, objectives__distilled__network=name, objectives__distilled__target=1.0), 1)
        for name in ("one", "two")
    )
    assert asked == ["one", "two"]
    assert one["reports"][0].losses["distilled"] != two["reports"][0].losses["distilled"]
