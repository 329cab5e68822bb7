"""The mean teacher: a copy of the student whose parameters follow the student's as an exponential moving average.

The rate warms up, so that the first update copies the student and the average covers all steps so far until the cap is
reached (specs/hamlet.md 2.1; mean teacher, Tarvainen & Valpola 2017).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from online_uda.errors import UserError

BufferPolicy = Literal["copy", "ema", "keep"]


def warmed_up_rate(step: int, cap: float) -> float:
    """Share of the teacher that survives update number ``step`` (from 0): ``min(1 - 1 / (step + 1), cap)``."""
    return min(1.0 - 1.0 / (step + 1), cap)


def rate_of_half_life(half_life_frames: float, frames: float) -> float:
    """Rate at which ``frames`` frames take their share of a memory that halves every ``half_life_frames``."""
    return 0.5 ** (frames / half_life_frames)


def _split_state(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters, and buffers that belong to the saved state, by name."""
    parameters: dict[str, Tensor] = dict(module.named_parameters())
    saved = module.state_dict(keep_vars=True)
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in saved}
    return parameters, buffers


def _copy(into: list[Tensor], source: list[Tensor]) -> None:
    if into:
        torch._foreach_copy_(into, source)


def _average(into: list[Tensor], source: list[Tensor], rate: float) -> None:
    """In place ``into = rate * into + (1 - rate) * source``; equal values stay equal bit for bit."""
    if into:
        matched = [new.to(old) for old, new in zip(into, source, strict=True)]
        torch._foreach_lerp_(into, matched, 1.0 - rate)


class EMATeacher:
    """Exponential moving average of a student network.

    The first `update` makes the teacher equal to the student bit for bit; the caller decides when that is (HAMLET: at
    the first training frame). The teacher's module is in eval mode and needs no gradient; a recipe that wants batch
    statistics switches the modules it means.

    Args:
        student: Network to follow; it is copied, and not kept.
        cap: Largest rate, in [0, 1). Its default without ``half_life_frames`` is 0.999.
        half_life_frames: Gives the cap instead, as the number of frames after which half of the teacher is renewed.
        buffers: What happens to buffers, such as BatchNorm statistics: ``copy`` takes the student's, ``ema`` averages
            floating-point ones like parameters and copies the others, ``keep`` leaves the teacher's own alone.
        warm_up: Whether early rates are lower than the cap, so that the teacher is the mean of the steps so far.

    Attributes:
        module: The teacher network.
        steps: Updates so far.

    Raises:
        UserError: If both or impossible rates are given, or an unknown buffer policy.
    """

    def __init__(
        self,
        student: nn.Module,
        *,
        cap: float | None = None,
        half_life_frames: float | None = None,
        buffers: BufferPolicy = "copy",
        warm_up: bool = True,
    ) -> None:
        if cap is not None and half_life_frames is not None:
            raise UserError("teacher: give either cap or half_life_frames, not both")
        if cap is not None and not 0.0 <= cap < 1.0:
            raise UserError(f"teacher cap must lie in [0, 1), got {cap}")
        if half_life_frames is not None and half_life_frames <= 0.0:
            raise UserError(f"teacher half_life_frames must be positive, got {half_life_frames}")
        if buffers not in ("copy", "ema", "keep"):
            raise UserError(f"teacher buffers must be 'copy', 'ema' or 'keep', got {buffers!r}")
        self._cap = 0.999 if cap is None else cap
        self._half_life_frames = half_life_frames
        self._buffers = buffers
        self._warm_up = warm_up
        self.steps = 0
        self.module = copy.deepcopy(student).requires_grad_(False).eval()

    def rate(self, frames: float = 1.0) -> float:
        """Rate a_t of the next update: the share of the teacher that survives it.

        Args:
            frames: Frames since the update before; only a teacher with ``half_life_frames`` depends on it.
        """
        half_life = self._half_life_frames
        cap = self._cap if half_life is None else rate_of_half_life(half_life, frames)
        return warmed_up_rate(self.steps, cap) if self._warm_up or self.steps == 0 else cap

    @torch.no_grad()
    def update(self, student: nn.Module, frames: float = 1.0) -> None:
        """Move the teacher towards the student, in place.

        Args:
            student: Network with the same parameter and buffer names and shapes.
            frames: Frames since the update before, see `rate`.

        Raises:
            ValueError: If the student's parameters or buffers have other names.
        """
        rate = self.rate(frames)
        own_parameters, own_buffers = _split_state(self.module)
        new_parameters, new_buffers = _split_state(student)
        strange = (own_parameters.keys() ^ new_parameters.keys()) | (own_buffers.keys() ^ new_buffers.keys())
        if strange:
            raise ValueError(f"teacher and student differ in {sorted(strange)[:5]}")
        first = self.steps == 0
        into, source = list(own_parameters.values()), [new_parameters[name] for name in own_parameters]
        if first:
            _copy(into, source)
        else:
            _average(into, source, rate)
        if first or self._buffers == "copy":
            _copy(list(own_buffers.values()), [new_buffers[name] for name in own_buffers])
        elif self._buffers == "ema":
            floating = [name for name, buffer in own_buffers.items() if buffer.is_floating_point()]
            other = [name for name in own_buffers if name not in set(floating)]
            _average([own_buffers[name] for name in floating], [new_buffers[name] for name in floating], rate)
            _copy([own_buffers[name] for name in other], [new_buffers[name] for name in other])
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """Number of updates and the module's own state; tensors are shared with the teacher, not copied."""
        return {"steps": self.steps, "module": dict(self.module.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict` of a teacher of the same network.

        Raises:
            RuntimeError: If names or shapes differ from the module's.
        """
        self.module.load_state_dict(state["module"])
        self.steps = int(state["steps"])
