"""The student's modes: switched without a walk they are what a walk makes of them."""

from __future__ import annotations

import pytest
from recipe_kit import KINDS, trained
from torch import nn

from online_uda.adaptation.student_mode import SwitchedModes
from online_uda.networks.segmenter import Segmenter


class Own(nn.Identity):
    """Does more than set a flag when its mode changes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[bool] = []

    def train(self, mode: bool = True) -> Own:
        self.calls.append(mode)
        return super().train(mode)


def modes_of(network: Segmenter) -> dict[str, bool]:
    return {name: module.training for name, module in network.named_modules()}


@pytest.mark.parametrize("looked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_modes_are_those_of_a_walk(kind: str, looked: bool) -> None:
    student = trained(kind)
    student.stages[1].add_module("dropout", nn.Dropout(0.5))
    norms = [module for module in student.modules() if isinstance(module, nn.BatchNorm2d | nn.LayerNorm)]
    norms[0].keeps_source_statistics = True  # type: ignore[assignment]
    student.train()
    student.light_head.eval()
    wanted = modes_of(student)
    assert any(wanted.values())
    assert not wanted[next(name for name, module in student.named_modules() if module is norms[0])]
    student.eval()
    modes = SwitchedModes(student)
    if looked:
        modes.look()
        assert not any(modes_of(student).values())
    modes.train()
    assert modes_of(student) == wanted
    modes.eval()
    assert not any(modes_of(student).values())


def test_a_module_with_a_train_of_its_own_is_called_every_time() -> None:
    student = trained("batchnorm")
    own = Own().eval()
    student.head.add_module("own", own)
    modes = SwitchedModes(student)
    modes.look()
    own.calls.clear()
    for _ in range(2):
        modes.train()
        modes.eval()
    assert own.calls == [True, False, True, False]


def test_what_has_come_since_the_last_look_is_switched_after_the_next() -> None:
    student = trained("layernorm")
    modes = SwitchedModes(student)
    modes.look()
    late = nn.Dropout().eval()
    student.head.add_module("late", late)
    modes.look()
    modes.train()
    assert late.training
