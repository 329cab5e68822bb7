"""Sharpness-aware minimisation: the gradient is taken a step uphill (SAM: Foret et al. 2021; specs/methods.md, SAR)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from online_uda.adaptation.stand_in import standing_in


class Uphill:
    """The weights ``theta + rho * g / |g|``, which stand in the network inside the context alone.

    Tensors change places instead of values: what is outside comes back bit for bit, and whoever shares the memory of
    the weights never sees the others.

    Args:
        parameters: That learn; those without a gradient stay.
        radius: rho, in units of the weights.
    """

    @torch.no_grad()
    def __init__(self, parameters: list[nn.Parameter], radius: float) -> None:
        self._moved = [parameter for parameter in parameters if parameter.grad is not None]
        gradients = [parameter.grad for parameter in self._moved if parameter.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        scale = radius / (norm + 1e-12)
        self._there: list[Tensor] = [
            parameter.detach() + scale * gradient for parameter, gradient in zip(self._moved, gradients, strict=True)
        ]

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with standing_in(self._there, self._moved):
            yield
