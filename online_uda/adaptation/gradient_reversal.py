"""Gradient reversal: nothing forwards, times -lambda backwards (Ganin & Lempitsky 2015; specs/seed-systems.md 3)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None


def reverse_gradient(x: Tensor, strength: float) -> Tensor:
    """``x`` itself, whose gradient is multiplied by ``-strength``; with 0 none passes."""
    if strength == 0.0:
        return x.detach()
    reversed_: Tensor = _Reversal.apply(x, strength)
    return reversed_


def reversal_strength(progress: float, most: float) -> float:
    """``most (2 / (1 + exp(-10 p)) - 1)`` for p in [0, 1]: 0 at first, ``most`` in the end (DANN's schedule)."""
    return most * (2.0 / (1.0 + math.exp(-10.0 * progress)) - 1.0)
