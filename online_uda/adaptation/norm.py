"""BatchNorm statistics while a network works on a stream: the source's, those of the stream, or those of the frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from online_uda.adaptation.settings import NormSettings


def batch_norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    """BatchNorm layers outside the light head, in order of definition."""
    return [
        module
        for name, module in network.named_modules()
        if isinstance(module, nn.BatchNorm2d) and not name.startswith("light_head.")
    ]


class NormStatistics:
    """Applies a `NormSettings` to the BatchNorm layers of a network.

    ``stream``: the statistics of each layer's input are taken during the prediction of a frame, which costs no extra
    pass, and folded into the running ones afterwards: the frame itself is predicted with the statistics before it.

    Args:
        network: The student, in eval mode.
        settings: The norm slot.
    """

    def __init__(self, network: nn.Module, settings: NormSettings) -> None:
        self.settings = settings
        self._layers = batch_norms(network)
        self._seen: list[tuple[Tensor, Tensor] | None] = [None] * len(self._layers)
        self._source = [(_running(layer)[0].clone(), _running(layer)[1].clone()) for layer in self._layers]

    @property
    def moves(self) -> bool:
        """Whether `absorb` changes what later frames are predicted with."""
        return self.settings.statistics == "stream" and bool(self._layers)

    @contextmanager
    def predicting(self) -> Iterator[None]:
        """Around the forward pass of a prediction: records input statistics, or switches to those of the frame."""
        if self.settings.statistics == "source" or not self._layers:
            yield
            return
        if self.settings.statistics == "batch":
            with self.of_the_batch():
                yield
            return
        handles = [layer.register_forward_pre_hook(self._recorder(i)) for i, layer in enumerate(self._layers)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def of_the_batch(self) -> Iterator[None]:
        """Normalises with the statistics of the frame at hand and leaves the running ones untouched."""
        momenta = [layer.momentum for layer in self._layers]
        for layer in self._layers:
            layer.momentum = 0.0
            layer.train()
        try:
            yield
        finally:
            for layer, momentum in zip(self._layers, momenta, strict=True):
                layer.momentum = momentum
                layer.eval()

    def _recorder(self, index: int):  # type: ignore[no-untyped-def]
        def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().float()
            var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
            self._seen[index] = (mean, var)

        return record

    @torch.no_grad()
    def absorb(self) -> None:
        """Folds the statistics of the last predicted frame into the running ones."""
        for index, (layer, seen) in enumerate(zip(self._layers, self._seen, strict=True)):
            if seen is not None:
                mean, var = _running(layer)
                mean.lerp_(seen[0], self.settings.momentum)
                var.lerp_(seen[1], self.settings.momentum)
                self._seen[index] = None

    @torch.no_grad()
    def pull(self, share: float) -> None:
        """Moves the running statistics a linear step of ``share`` towards the source's."""
        for layer, (source_mean, source_var) in zip(self._layers, self._source, strict=True):
            mean, var = _running(layer)
            mean.lerp_(source_mean, share)
            var.lerp_(source_var, share)


def _running(layer: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    mean, var = layer.running_mean, layer.running_var
    if mean is None or var is None:
        raise ValueError("BatchNorm layers without running statistics cannot follow a stream")
    return mean, var
