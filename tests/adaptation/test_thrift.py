"""Memory that runs out in a step: the step is left out, later ones are smaller, predictions go on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recipe_kit import HAMLET, REPLAY, TENT, changed, copy_of, make_recipe, play, settings_of, stream, trained

from online_uda.adaptation.pieces import Effort
from online_uda.adaptation.thrift import Thrift
from online_uda.out_of_memory import is_out_of_memory

SHORTAGES = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: error code 12"),
]


@pytest.mark.parametrize("error", SHORTAGES)
def test_what_counts_as_running_out_of_memory(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("sizes do not match"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_less_and_less_and_back_again() -> None:
    thrift = Thrift(4, patience=2)
    assert thrift.limit(Effort()) == Effort()
    limits = []
    for _ in range(6):
        thrift.fall_short()
        limits.append(thrift.limit(Effort()))
    assert [limit.first_stage for limit in limits] == [2, 3, 4, 4, 4, 4]
    assert [limit.crop for limit in limits] == [1.0, 1.0, 1.0, 0.5, 0.25, 0.25]
    assert thrift.limit(Effort(crop=0.1)) == Effort(crop=0.1, first_stage=4)
    for _ in range(4):
        thrift.succeed()
    assert thrift.limit(Effort()) == Effort(1.0, 4)
    again = Thrift(4, patience=2)
    again.load_state_dict(thrift.state_dict())
    for _ in range(6):
        again.succeed()
    assert again.limit(Effort()) == Effort()


@pytest.mark.parametrize("data", [TENT, REPLAY, HAMLET])
@pytest.mark.parametrize("error", SHORTAGES)
def test_a_step_that_does_not_fit_is_left_out(
    data: dict[str, Any], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, frames = make_recipe(settings_of(data), trained("layernorm")), list(stream(4))
    play(recipe, iter(frames[:1]))
    before = copy_of(recipe.student)

    def full(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("online_uda.adaptation.frame_pass.backward_pieces", full)
        report = play(recipe, iter(frames[1:2]))[0]
    assert not report.updated
    assert not changed(before, copy_of(recipe.student))
    assert not any(module.training for module in recipe.student.modules())
    assert [(event.action, event.cause) for event in recipe.take_events()] == [("spare", "out of memory")]
    report = play(recipe, iter(frames[2:3]))[0]
    assert report.updated
    moved = {name for name in changed(before, copy_of(recipe.student)) if name.startswith("stages.0.")}
    assert not moved
    assert report.scope in ("norm, stages 2-4", "all, stages 2-4", "modules 2-4", "modules 3-4", "modules 4-4")


def test_other_errors_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make_recipe(settings_of(TENT), trained("layernorm"))

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("sizes do not match")

    monkeypatch.setattr("online_uda.adaptation.entropy_step.selected_entropy", broken)
    with pytest.raises(RuntimeError, match="sizes do not match"):
        play(recipe, stream(1))
