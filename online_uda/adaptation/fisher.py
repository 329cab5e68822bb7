"""Which parameters the source's answers hang on: the diagonal of the Fisher information (EATA: Niu et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from online_uda.adaptation.replay.buffer import ReplayBuffer
from online_uda.networks.segmenter import Segmenter


class SourceImages:
    """The first images of a buffer, one by one as ``(1, 3, H, W)`` float32 in [0, 1]; copies share the buffer.

    Args:
        buffer: Never written to.
        count: Most that are given.
        device: Where they go.
    """

    def __init__(self, buffer: ReplayBuffer, count: int, device: torch.device) -> None:
        self._buffer, self._count, self._device = buffer, count, device

    def __iter__(self) -> Iterator[Tensor]:
        for image in self._buffer.images[: self._count]:
            yield torch.tensor(image, device=self._device).permute(2, 0, 1)[None].float() / 255.0

    def __deepcopy__(self, _: dict[int, Any]) -> SourceImages:
        return self


class FisherPull:
    """``sum_i F_i (theta_i - theta0_i)^2`` over the learning parameters, and its gradient without a graph.

    Args:
        learning: The parameters, with their source values.
        importance: F, one tensor a parameter.
    """

    def __init__(self, learning: list[nn.Parameter], importance: list[Tensor]) -> None:
        self._learning, self._importance = learning, importance
        self._source = [parameter.detach().clone() for parameter in learning]

    @torch.no_grad()
    def add_gradient(self, weight: float) -> float:
        """Adds ``weight`` times the gradient to the parameters that have one; gives the unweighted value.

        Parameters that do not learn in this step are left alone, and do not count.
        """
        total = 0.0
        for parameter, source, importance in zip(self._learning, self._source, self._importance, strict=True):
            if parameter.grad is None:
                continue
            away = parameter - source
            total += float((importance * away.square()).sum())
            parameter.grad.add_(importance * away, alpha=2.0 * weight)
        return total


def fisher_diagonal(
    network: Segmenter,
    learning: list[tuple[str, nn.Parameter]],
    images: Iterable[Tensor],
    autocast: Callable[[], AbstractContextManager[Any]],
) -> list[Tensor]:
    """Mean squared gradient of the cross-entropy against the network's own labels (specs/methods.md 3, EATA).

    Args:
        network: In eval mode, with source weights.
        learning: Parameters that will learn; only they need a gradient.
        images: ``(1, 3, H, W)`` float32 RGB in [0, 1] of the source domain.
        autocast: Makes the autocast context.
    """
    parameters = [parameter for _, parameter in learning]
    squares = [torch.zeros_like(parameter) for parameter in parameters]
    count = 0
    for image in images:
        with autocast():
            logits = network(image).logits
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = F.cross_entropy(logits, logits.argmax(1))
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for square, gradient in zip(squares, gradients, strict=True):
            if gradient is not None:
                square.add_(gradient.detach().square())
        count += 1
    return [square / max(count, 1) for square in squares]
