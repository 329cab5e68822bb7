"""Options that are one of several words: a run with any of them differs from a run with any other."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel
from recipe_kit import settings_of
from test_option_table import (
    ADVERSARY,
    HYBRID,
    LORA,
    MIXED,
    PROTO,
    REPLAY,
    STILL,
    SUFFIX,
    TAUGHT,
    TENT,
    Data,
    _models,
    outcome,
)

from online_uda.adaptation.settings import MethodSettings

WHITENING: Data = {**REPLAY, "objectives": {"replay": {}, "whitening": {"stages": [1]}}}
DECAYED: Data = {**TENT, "optimizer": {"learning_rate": 0.01, "weight_decay": 0.1}}
CONTRAST: Data = {**MIXED, "objectives": {"replay": {}, "mixed": {}, "contrast": {}}}
STILL_STATISTICS: Data = {**ADVERSARY, "norm": {"statistics": "source"}}

CASES: list[tuple[str, tuple[str | int, ...], Data, int]] = [
    # option, its words, the method they are tried in, frames
    ("norm__statistics", ("source", "stream", "batch", "alpha", "dua", "iabn"), STILL, 3),
    ("scope__parameters", ("norm", "bias", "head", "all", "suffix"), TENT, 1),
    ("scope__parameters", ("all", "adapters", "hybrid"), HYBRID, 6),
    ("scope__select", ("hamt", "fixed", "measured", "mad"), SUFFIX, 8),
    ("adapters__kind", ("lora", "two_rank", "conv", "adaptformer", "side"), LORA, 2),
    ("optimizer__name", ("adamw", "adam", "sgd"), DECAYED, 1),
    ("teacher__buffers", ("copy", "ema", "keep"), TAUGHT, 3),
    ("objectives__replay__stride", (1, 2, 4), REPLAY, 1),
    ("objectives__taught__trust", ("views", "anchor", "better"), TAUGHT, 3),
    ("objectives__prototype__prior", ("static", "dynamic"), PROTO, 3),
    ("objectives__adversarial__sees", ("image", "pixel", "patch", "output", "entropy", "multi"), ADVERSARY, 1),
    ("objectives__adversarial__phase", ("both", "disc_only", "seg_only"), STILL_STATISTICS, 2),
    ("objectives__whitening__kind", ("iw", "irw", "isw"), WHITENING, 1),
    ("objectives__contrast__of", ("replay", "mixed", "both"), CONTRAST, 1),
]
ELSEWHERE = {
    # 'none' learns nothing (test_settings), 'names' has a row in test_option_table
    "scope__parameters": {"none", "names"},
    # by its scores: test_second_wave.py::test_mad_draws_by_its_scores_and_goes_on_after_a_pause
    "scope__draw": {"sample", "random", "round_robin", "best"},
    # against both others: test_onda.py::test_switch_by_hand
    "objectives__prototype__prior": {"switch"},
}


@pytest.mark.parametrize(("option", "words", "base", "frames"), CASES, ids=[f"{row[0]}-{row[1][-1]}" for row in CASES])
def test_every_word_differs_from_every_other(
    option: str, words: tuple[str | int, ...], base: Data, frames: int
) -> None:
    found = {}
    for word in words:
        changes: Data = {option: word}
        if option.endswith("__trust"):
            changes["objectives__taught__confidence"] = 0.5
        found[word] = outcome(settings_of(base, **changes), frames)
    assert not [pair for pair in combinations(words, 2) if found[pair[0]] == found[pair[1]]]


def _words(annotation: Any) -> Iterator[str | int]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    else:
        for part in get_args(annotation):
            yield from _words(part)


def _choices(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, set[str | int]]]:
    for name, option in model.model_fields.items():
        parts = list(dict.fromkeys(_models(option.annotation)))
        if not parts and len(words := set(_words(option.annotation))) > 2:
            yield prefix + name, words
        for part in parts:
            yield from _choices(part, f"{prefix}{name}__")


def test_every_option_of_more_than_two_words_is_tried_with_each() -> None:
    """One of two words differs from the other by its row in test_option_table."""
    tried: dict[str, set[str | int]] = {name: set(words) for name, words in ELSEWHERE.items()}
    for option, words, *_ in CASES:
        tried.setdefault(option, set()).update(words)
    assert tried == dict(_choices(MethodSettings))
