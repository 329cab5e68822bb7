"""What may be tuned: a table of keys of a method's YAML, each with its range and the methods that it makes sense for.

A method is searched over the rows whose slot it fills, so that no search invents a slot: an option that a method does
not have is not tuned. Ranges always take in what the method ships with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import optuna

from online_uda.adaptation.settings import MethodSettings
from online_uda.config import find_method
from streams.yaml_config import Located, build, load_yaml, with_overrides

Values = dict[str, Any]
Fits = Callable[[MethodSettings], bool]
DIGITS = 3
"""Significant digits of a tuned number: recipes are read by people."""


def _always(_: MethodSettings) -> bool:
    return True


@dataclass(frozen=True)
class Span:
    """A number between two bounds.

    Attributes:
        key: Dotted key of the method's YAML.
        low: Smallest value.
        high: Largest value.
        log: Whether it is drawn by its logarithm.
        whole: Whether it is a whole number.
        fits: Methods that it makes sense for, of those that fill its slot.
    """

    key: str
    low: float
    high: float
    log: bool = False
    whole: bool = False
    fits: Fits = _always

    def suggest(self, trial: optuna.trial.Trial, name: str) -> Any:
        """Draws a value."""
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return round_off(trial.suggest_float(name, self.low, self.high, log=self.log))

    def around(self, value: Any) -> list[Any]:
        """Values to measure the sensitivity at, ``value`` among them."""
        if self.log:
            points = [value * factor for factor in (0.1, 0.3, 1.0, 3.0, 10.0)]
        else:
            points = [self.low + share * (self.high - self.low) for share in (0.0, 1 / 3, 2 / 3, 1.0)] + [value]
        inside = {min(max(point, self.low), self.high) for point in points}
        return sorted({round(point) if self.whole else round_off(point) for point in inside})

    def taking_in(self, shipped: Any) -> Span:
        """The span, wide enough for what a method ships with."""
        return replace(self, low=min(self.low, shipped), high=max(self.high, shipped))


@dataclass(frozen=True)
class Choice:
    """One of several values; see `Span`."""

    key: str
    choices: tuple[Any, ...]
    fits: Fits = _always

    def suggest(self, trial: optuna.trial.Trial, name: str) -> Any:
        """Draws a value."""
        return trial.suggest_categorical(name, self.choices)

    def around(self, value: Any) -> list[Any]:
        """All values."""
        return list(self.choices)

    def taking_in(self, shipped: Any) -> Choice:
        """The choice, with what a method ships with."""
        return self if shipped in self.choices else replace(self, choices=(shipped, *self.choices))


Option = Span | Choice


def _learns(method: MethodSettings) -> bool:
    # HAMLET's trigger sets the rate of every step itself.
    return method.scope.parameters != "none" and method.trigger.kind != "hamlet"


def _acts_by_frames(method: MethodSettings) -> bool:
    acts = method.scope.parameters != "none" or method.norm.moves
    return acts and method.trigger.kind in ("always", "drift")


def _whole_scope(method: MethodSettings) -> bool:
    # Adapters, HAMLET's suffix and patterns are what the method is; among the plain scopes any will do.
    return method.scope.parameters in ("norm", "head", "all")


def _learns_from_two(method: MethodSettings) -> bool:
    return method.objectives.replay is not None


def _follows(method: MethodSettings) -> bool:
    return method.norm.statistics in ("stream", "iabn")


def _kind(*kinds: str) -> Fits:
    return lambda method: method.trigger.kind in kinds


TABLE: tuple[Option, ...] = (
    Span("optimizer.learning_rate", 1e-6, 1e-2, log=True, fits=_learns),
    Choice("scope.parameters", ("norm", "all"), _whole_scope),
    Span("optimizer.sharpness", 0.005, 0.5, log=True, fits=lambda m: m.optimizer.sharpness > 0.0),
    Span("anchor.pull", 0.0, 0.2, fits=lambda m: m.scope.parameters != "none"),
    Span("anchor.relax", 0.0, 1.0, fits=_kind("drift")),
    Span("anchor.restore", 0.0, 0.1, fits=lambda m: m.anchor.restore > 0.0),
    Span("anchor.kalman.noise", 5e-4, 0.5, log=True),
    Span("norm.momentum", 0.003, 0.3, log=True, fits=_follows),
    Span("norm.alpha", 0.01, 1.0, log=True, fits=lambda m: m.norm.statistics == "alpha"),
    Span("norm.decay", 0.8, 0.99, fits=lambda m: m.norm.statistics == "dua"),
    Span("norm.shrink", 0.5, 10.0, log=True, fits=lambda m: m.norm.statistics == "iabn"),
    Span("alignment.strength", 0.1, 1.0),
    Span("alignment.half_life_frames", 1.0, 16.0, log=True),
    Span("alignment.own", 0.0, 1.0),
    Span("teacher.half_life_frames", 1.0, 64.0, log=True),
    Choice("teacher.cap", (0.9, 0.97, 0.99, 0.997, 0.999)),
    Span("pseudo_labels.confidence", 0.5, 0.99),
    Span("objectives.entropy.weight", 0.03, 3.0, log=True, fits=_learns_from_two),
    Span("objectives.entropy.class_balance", 0.0, 0.8),
    Span("objectives.entropy.max_entropy", 0.1, 1.0),
    Span("objectives.entropy.redundancy.limit", 0.05, 1.0),
    Span("objectives.entropy.shuffle.min_drop", 0.0, 0.5),
    Span("objectives.fisher.weight", 1.0, 1e5, log=True),
    Span("objectives.taught.confidence", 0.5, 0.99, fits=lambda m: m.objectives.taught.trust != "views"),  # type: ignore[union-attr]
    Span("objectives.taught.mask.share", 0.1, 0.8),
    Span("objectives.likelihood.consistency", 0.0, 2.0),
    Span("objectives.likelihood.temperature", 0.1, 3.0, log=True),
    Choice("prior_correction", (False, True), lambda m: m.objectives.likelihood is not None),
    Span("objectives.distilled.target", 0.5, 0.99),
    Span("objectives.prototype.confidence", 0.0, 0.9),
    Span("objectives.feature_distance.weight", 1e-4, 0.1, log=True),
    Choice("trigger.every", (1, 2, 4), _acts_by_frames),
    Span("trigger.learning_rate.1", 1.5e-5, 1e-3, log=True, fits=_kind("hamlet")),
    Span("trigger.window", 3, 75, log=True, whole=True, fits=_kind("hamlet")),
    Span("trigger.base_frames", 4, 750, log=True, whole=True, fits=_kind("hamlet")),
)


def round_off(value: float) -> float:
    """A number to `DIGITS` significant digits."""
    return float(f"{value:.{DIGITS}g}")


def _same(value: Any, shipped: Any) -> bool:
    if isinstance(value, float) and isinstance(shipped, float):
        return value == round_off(shipped)
    return bool(value == shipped)


@dataclass(frozen=True)
class Space:
    """What is tuned of one method.

    Attributes:
        method: Name in configs/methods, or a file.
        document: Its YAML.
        options: Rows of `TABLE` that its slots have, widened to take in what it ships with.
        shipped: Its own values of these.
    """

    method: str
    document: Located
    options: tuple[Option, ...]
    shipped: Values

    def suggest(self, trial: optuna.trial.Trial) -> Values:
        """Draws a value of every option; what rounds to the shipped value is that."""
        drawn = {option.key: option.suggest(trial, self.name(option.key)) for option in self.options}
        return {key: self.shipped[key] if _same(value, self.shipped[key]) else value for key, value in drawn.items()}

    def name(self, key: str) -> str:
        """The parameter of a study: two methods do not share what they know of a key."""
        return f"{self.method}:{key}"

    def parameters(self, values: Values) -> dict[str, Any]:
        """A trial with these values, as a study wants it."""
        return {"method": self.method, **{self.name(key): value for key, value in values.items()}}

    def with_values(self, values: Mapping[str, Any]) -> Located:
        """The method's YAML with these values; what it ships with stays as it is written."""
        changed = {key: value for key, value in values.items() if value != self.shipped[key]}
        if "trigger.every" in changed and "trigger" not in self.document.data:
            changed = {"trigger.kind": "always", **changed}  # the slot's keys hang on its kind
        return with_overrides(self.document, [f"{key}={json.dumps(value)}" for key, value in changed.items()])

    def settings(self, values: Mapping[str, Any]) -> MethodSettings:
        """The method with these values.

        Raises:
            ConfigError: They do not go together.
        """
        return build(MethodSettings, self.with_values(values))


def space_of(method: str) -> Space:
    """What can be tuned of a method.

    Raises:
        UserError: No such method.
        ConfigError: Its file is faulty.
    """
    document = load_yaml(find_method(method))
    settings = build(MethodSettings, document)
    options, shipped = [], {}
    for option in TABLE:
        value = value_at(settings, option.key)
        if value is not None and option.fits(settings):
            options.append(option.taking_in(value))
            shipped[option.key] = value
    return Space(method, document, tuple(options), shipped)


def value_at(settings: MethodSettings, key: str) -> Any:
    """What a method has at a dotted key; None where it has no such slot."""
    node: Any = settings
    for part in key.split("."):
        node = node[int(part)] if isinstance(node, tuple) else getattr(node, part, None)
    return node
