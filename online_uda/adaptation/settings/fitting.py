"""Which slots go together: an objective needs what it draws from, and no slot lies idle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from streams.yaml_config import KeyedError

if TYPE_CHECKING:
    from online_uda.adaptation.settings.method import MethodSettings


def faults_of(method: MethodSettings) -> Iterator[KeyedError]:
    """Combinations of slots that cannot work, each with its key and what to do."""
    for rule in RULES:
        yield from rule(method)


def _replay(method: MethodSettings) -> Iterator[KeyedError]:
    wanted = method.objectives
    calibrates = method.trigger.kind in ("drift", "hamlet")
    if method.replay is None:
        for name in ("replay", "feature_distance", "adversarial", "discrepancy", "whitening", "transfer"):
            if getattr(wanted, name) is not None:
                yield KeyedError("needs the slot replay", "objectives", name)
        if calibrates:
            yield KeyedError(f"trigger {method.trigger.kind} needs the slot replay", "trigger")
    elif wanted.feature_distance is not None and wanted.replay is None:
        yield KeyedError("needs objectives.replay, whose features it compares", "objectives", "feature_distance")
    elif wanted.whitening is not None and wanted.replay is None:
        yield KeyedError("needs objectives.replay, whose maps it whitens", "objectives", "whitening")
    elif not wanted.draws_source and not calibrates:
        yield KeyedError("no objective or trigger uses this slot; drop it", "replay")


def _contrast(method: MethodSettings) -> Iterator[KeyedError]:
    slot = method.objectives.contrast
    if slot is None:
        return
    for name in ("replay", "mixed"):
        if slot.of in (name, "both") and getattr(method.objectives, name) is None:
            text = f"is {slot.of}, which needs objectives.{name}; add that or choose another value"
            yield KeyedError(text, "objectives", "contrast", "of")


def _adversarial(method: MethodSettings) -> Iterator[KeyedError]:
    slot = method.objectives.adversarial
    if slot is None or slot.phase != "disc_only":
        return
    if method.norm.moves or method.student_mode == "train":
        text = "disc_only leaves the segmenter alone; set norm.statistics to source or batch, and student_mode to eval"
        yield KeyedError(text, "objectives", "adversarial", "phase")


def _mixed(method: MethodSettings) -> Iterator[KeyedError]:
    if method.objectives.mixed is None:
        for name in ("mixing", "pseudo_labels"):
            if getattr(method, name) is not None:
                yield KeyedError("only objectives.mixed uses this slot; add it or drop the slot", name)
        return
    missing = [name for name in ("replay", "teacher", "mixing", "pseudo_labels") if getattr(method, name) is None]
    if missing:
        noun = "slot" if len(missing) == 1 else "slots"
        yield KeyedError(f"needs the {noun} {', '.join(missing)}", "objectives", "mixed")


def _teacher(method: MethodSettings) -> Iterator[KeyedError]:
    users = [
        name
        for name in ("mixed", "taught", "prototype", "fused", "remembered")
        if getattr(method.objectives, name) is not None
    ]
    if method.teacher is None:
        for name in users:
            if name != "mixed":  # which says so with the other slots it needs
                yield KeyedError("needs the slot teacher", "objectives", name)
    elif not users and method.deploy != "teacher":
        yield KeyedError("no objective asks it and deploy is student; add one or drop it", "teacher")


def _deploy(method: MethodSettings) -> Iterator[KeyedError]:
    if method.deploy != "teacher":
        return
    if method.teacher is None:
        yield KeyedError("needs the slot teacher", "deploy")
    if method.scope.parameters == "none":
        yield KeyedError("the teacher averages learning steps, and scope.parameters none takes none", "deploy")


def _scope(method: MethodSettings) -> Iterator[KeyedError]:
    learns = any(getattr(method.objectives, name) is not None for name in type(method.objectives).model_fields)
    if learns and method.scope.parameters == "none":
        text = "is none, so the objectives have nothing to move; choose a scope or drop them"
        yield KeyedError(text, "scope", "parameters")
    if not learns and method.scope.parameters != "none":
        yield KeyedError("no objective is given; set scope.parameters to none or add an objective", "scope")
    if (method.scope.parameters == "names") != bool(method.scope.names):
        yield KeyedError("goes with scope.parameters names, and that with patterns here", "scope", "names")


def _adapters(method: MethodSettings) -> Iterator[KeyedError]:
    if method.adapters is None:
        if method.scope.parameters in ("adapters", "hybrid"):
            yield KeyedError("needs the slot adapters, such as adapters.kind=lora", "scope", "parameters")
        return
    if method.scope.parameters in ("none", "norm", "bias", "head"):
        text = f"scope.parameters {method.scope.parameters} would never train them; set it to adapters"
        yield KeyedError(text, "adapters")
    if method.adapters.kind in ("adaptformer", "side") and method.teacher is not None:
        text = f"{method.adapters.kind} cannot be folded into a teacher's weights; take lora, conv or two_rank"
        yield KeyedError(text, "adapters", "kind")


def _guards(method: MethodSettings) -> Iterator[KeyedError]:
    if method.guards is not None and method.scope.parameters == "none" and not method.norm.moves:
        yield KeyedError("this method never moves a weight, so there is nothing to guard; drop it", "guards")


def _fisher(method: MethodSettings) -> Iterator[KeyedError]:
    others = [name for name in type(method.objectives).model_fields if name != "fisher"]
    if method.objectives.fisher is not None and all(getattr(method.objectives, name) is None for name in others):
        yield KeyedError("only holds weights back; add an objective that moves them", "objectives", "fisher")


def _sharpness(method: MethodSettings) -> Iterator[KeyedError]:
    if method.optimizer.sharpness > 0.0 and method.objectives.draws_source:
        text = "takes the same step twice, and replayed images would differ; drop it or the objectives that draw them"
        yield KeyedError(text, "optimizer", "sharpness")


def _recovery(method: MethodSettings) -> Iterator[KeyedError]:
    if method.anchor.reset_below is not None and method.objectives.entropy is None:
        yield KeyedError("watches objectives.entropy; add it or drop this", "anchor", "reset_below")
    if method.anchor.ensemble is not None and method.trigger.kind != "drift":
        text = "needs trigger.kind drift, which measures distances; with another, set anchor.ensemble=null"
        yield KeyedError(text, "anchor", "ensemble")
    if method.scope.parameters != "none":
        return
    for key in ("restore", "reset_every", "reset_below", "reset_above", "kalman", "ensemble"):
        if getattr(method.anchor, key) not in (None, 0.0):
            yield KeyedError("no parameter learns, so there is nothing to put back; drop it", "anchor", key)


def _mad(method: MethodSettings) -> Iterator[KeyedError]:
    for key in ("draw", "decay"):
        plain = type(method.scope).model_fields[key].default
        if method.scope.select != "mad" and getattr(method.scope, key) != plain:
            yield KeyedError("belongs to scope.select mad; set that or drop it", "scope", key)


def _stride(method: MethodSettings) -> Iterator[KeyedError]:
    if method.trigger.kind == "stride" and method.objectives.distilled is None:
        yield KeyedError("stride asks how well objectives.distilled is met; add it or take another kind", "trigger")


def _memory(method: MethodSettings) -> Iterator[KeyedError]:
    if method.memory is None:
        return
    if method.trigger.kind != "drift":
        yield KeyedError("needs trigger.kind drift, which tells domains apart; with another, set memory=null", "memory")
    if method.scope.parameters == "none" and not method.norm.moves:
        yield KeyedError("this method never moves a weight, so there is nothing to remember; drop it", "memory")
    if method.anchor.restart > 0.0:
        yield KeyedError("is 0 beside the slot memory, which knows where to start again", "anchor", "restart")


def _reservoir(method: MethodSettings) -> Iterator[KeyedError]:
    if method.reservoir is None:
        return
    if method.memory is not None:
        yield KeyedError("and the slot memory both choose the weights at work; drop one", "reservoir")
    if method.scope.parameters == "none" and not method.norm.moves:
        yield KeyedError("this method never moves a weight, so there is nothing to keep; drop it", "reservoir")


def _activations(method: MethodSettings) -> Iterator[KeyedError]:
    if method.activations is None:
        return
    if method.scope.parameters == "none":
        yield KeyedError("no parameter learns, so there is no graph to make smaller; drop it", "activations")
    if method.activations.kind == "prune" and method.scope.parameters == "bias":
        yield KeyedError(
            "prunes inputs for gradients of weights, and only biases learn; drop it", "activations", "kind"
        )


RULES = (
    _replay, _mixed, _teacher, _deploy, _scope, _adapters, _guards, _fisher, _sharpness, _recovery, _stride,
    _memory, _contrast, _adversarial, _mad, _reservoir, _activations,
)  # fmt: skip
