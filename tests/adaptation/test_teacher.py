"""The mean teacher (specs/hamlet.md 2.1, 4.2; section 9, check 6)."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

from online_uda.adaptation.teacher import EMATeacher
from online_uda.errors import UserError


def make_student(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    student = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    student(torch.randn(2, 3, 8, 8))
    return student


def wiggle(student: nn.Module, seed: int) -> None:
    """What a training step does, without the training: move parameters and BatchNorm statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    student(torch.randn(2, 3, 8, 8, generator=generator))


def weight(module: nn.Module, name: str = "weight") -> torch.Tensor:
    return module.state_dict()[name]


def flat(module: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


@pytest.mark.parametrize(("steps", "rate"), [(1, 0.5), (9, 0.9), (999, 0.999), (5000, 0.999)])
def test_check_6_effective_rate(steps: int, rate: float) -> None:
    """After ``steps`` updates of a constant student, a student moved by 1 moves the teacher by 1 - a."""
    student = nn.Linear(1, 1, bias=False).double()
    teacher = EMATeacher(student)
    for _ in range(steps):
        teacher.update(student)
    before = weight(teacher.module).item()
    with torch.no_grad():
        weight(student).add_(1.0)
    assert teacher.rate() == pytest.approx(rate)
    teacher.update(student)
    assert weight(teacher.module).item() - before == pytest.approx(1.0 - rate, abs=1e-12)


@pytest.mark.parametrize("buffers", ["copy", "ema", "keep"])
def test_check_6_first_update_copies_bit_for_bit(buffers: Any) -> None:
    student = make_student()
    teacher = EMATeacher(student, buffers=buffers)
    wiggle(student, 1)
    assert not torch.equal(flat(teacher.module), flat(student))
    teacher.update(student)
    for name, value in student.state_dict().items():
        assert torch.equal(teacher.module.state_dict()[name], value), name


def test_average_matches_the_recurrence_in_double_precision() -> None:
    student = make_student()
    teacher = EMATeacher(student, cap=0.7)
    expected = torch.zeros_like(flat(student), dtype=torch.float64)
    for t in range(12):
        wiggle(student, t)
        teacher.update(student)
        rate = min(1.0 - 1.0 / (t + 1), 0.7)
        expected = rate * expected + (1.0 - rate) * flat(student).double()
    assert torch.allclose(flat(teacher.module).double(), expected, atol=1e-5)


def test_check_6_buffer_policies() -> None:
    student = make_student()
    teachers = {policy: EMATeacher(student, buffers=policy) for policy in ("copy", "ema", "keep")}
    for teacher in teachers.values():
        teacher.update(student)
    mean, count = weight(student, "1.running_mean").clone(), weight(student, "1.num_batches_tracked").clone()
    wiggle(student, 3)
    for teacher in teachers.values():
        teacher.update(student)
    means = {policy: weight(teacher.module, "1.running_mean") for policy, teacher in teachers.items()}
    counts = {policy: weight(teacher.module, "1.num_batches_tracked") for policy, teacher in teachers.items()}
    assert torch.equal(means["copy"], weight(student, "1.running_mean"))
    assert torch.allclose(means["ema"], 0.5 * (mean + weight(student, "1.running_mean")))
    assert torch.equal(means["keep"], mean)
    assert counts["copy"] == counts["ema"] == count + 1
    assert counts["keep"] == count


def test_check_6_teacher_changes_only_in_update() -> None:
    student = make_student()
    teacher = EMATeacher(student)
    teacher.update(student)
    before = copy.deepcopy(teacher.module.state_dict())
    for seed in range(3):
        wiggle(student, seed)
        teacher.module(torch.randn(1, 3, 8, 8))
    assert all(torch.equal(before[name], value) for name, value in teacher.module.state_dict().items())
    assert not any(parameter.requires_grad for parameter in teacher.module.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_half_life_in_frames() -> None:
    student = nn.Linear(1, 1, bias=False).double()
    teacher = EMATeacher(student, half_life_frames=10.0)
    for _ in range(40):
        teacher.update(student)
    start = weight(teacher.module).item()
    with torch.no_grad():
        weight(student).add_(1.0)
    for frames in (1.0, 2.0, 3.0, 4.0):
        teacher.update(student, frames=frames)
    assert weight(teacher.module).item() - start == pytest.approx(0.5, abs=1e-12)


def test_frozen_parameters_stay_bit_identical() -> None:
    student = make_student()
    teacher = EMATeacher(student, cap=0.9)
    frozen = weight(student, "0.weight").clone()
    for seed in range(20):
        wiggle(student, seed)
        with torch.no_grad():
            weight(student, "0.weight").copy_(frozen)
        teacher.update(student)
    assert torch.equal(weight(teacher.module, "0.weight"), frozen)


@pytest.mark.parametrize("buffers", ["copy", "ema", "keep"])
def test_interrupted_run_continues_bit_for_bit(buffers: Any) -> None:
    def advance(teacher: EMATeacher, student: nn.Module, seeds: range) -> None:
        for seed in seeds:
            wiggle(student, seed)
            teacher.update(student)

    student = make_student()
    whole = EMATeacher(student, cap=0.6, buffers=buffers)
    advance(whole, student, range(8))

    student = make_student()
    first = EMATeacher(student, cap=0.6, buffers=buffers)
    advance(first, student, range(3))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = EMATeacher(make_student(seed=9), cap=0.6, buffers=buffers)
    second.load_state_dict(torch.load(file, weights_only=True))
    advance(second, student, range(3, 8))
    assert second.steps == whole.steps == 8
    for name, value in whole.module.state_dict().items():
        assert torch.equal(second.module.state_dict()[name], value), name


def test_another_network_is_refused() -> None:
    teacher = EMATeacher(make_student())
    with pytest.raises(ValueError, match="differ"):
        teacher.update(nn.Linear(2, 2))


@pytest.mark.parametrize(
    "bad", [{"cap": 0.9, "half_life_frames": 5.0}, {"cap": 1.0}, {"half_life_frames": 0.0}, {"buffers": "mean"}]
)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        EMATeacher(nn.Linear(1, 1), **bad)
