"""BatchNorm statistics while a network works on a stream: the source's, those of the stream, or those of the frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from online_uda.adaptation.settings import NormSettings
from online_uda.networks.predictor import Moments


def named_batch_norms(network: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """BatchNorm layers outside the light head by name, in order of definition.

    A layer without running statistics takes those of its input whatever the settings say, and is left alone. So is one
    that has a single value a channel in a frame (`online_uda.networks.discover`): that has no spread.
    """
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        and module.running_mean is not None
        and not name.startswith("light_head.")
        and not getattr(module, "keeps_source_statistics", False)
    }


def batch_norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    """The layers of `named_batch_norms`."""
    return list(named_batch_norms(network).values())


@contextmanager
def batch_statistics(layers: list[nn.BatchNorm2d]) -> Iterator[None]:
    """Lets ``layers`` normalise with the statistics of the images at hand; buffers stay, and modes come back."""
    modes = [layer.training for layer in layers]
    for layer in layers:
        # A momentum of 0 would still count batches, and would let one infinite frame turn the running ones to NaN.
        layer.track_running_stats = False
        layer.train()
    try:
        yield
    finally:
        for layer, training in zip(layers, modes, strict=True):
            layer.track_running_stats = True
            layer.train(training)


class NormStatistics:
    """Applies a `NormSettings` to the BatchNorm layers of a network.

    ``stream``: the statistics of each layer's input are taken during the prediction of a frame, which costs no extra
    pass, and folded into the running ones afterwards: the frame itself is predicted with the statistics before it.

    Args:
        network: The student, in eval mode.
        settings: The norm slot.
        watched: The network whose predictions are recorded, where it is not the student itself.
    """

    def __init__(self, network: nn.Module, settings: NormSettings, watched: nn.Module | None = None) -> None:
        self.settings = settings
        self._watched = batch_norms(network if watched is None else watched)
        self._layers = batch_norms(network)
        self._seen: list[tuple[Tensor, Tensor] | None] = [None] * len(self._layers)
        self._source = [(_running(layer)[0].clone(), _running(layer)[1].clone()) for layer in self._layers]

    @property
    def has_layers(self) -> bool:
        """Whether the network has any layer with running statistics."""
        return bool(self._layers)

    @property
    def moves(self) -> bool:
        """Whether `absorb` changes what later frames are predicted with."""
        return self.settings.statistics == "stream" and self.has_layers

    @contextmanager
    def predicting(self, *, record: bool = True) -> Iterator[None]:
        """Around the forward pass of a prediction: records input statistics, or switches to those of the frame.

        Args:
            record: False for images that the stream did not bring: they are answered alike and leave no trace.
        """
        if self.settings.statistics == "source" or not self._layers or (self.moves and not record):
            yield
            return
        if self.settings.statistics == "batch":
            with batch_statistics(self._watched):
                yield
            return
        handles = [layer.register_forward_pre_hook(self._recorder(i)) for i, layer in enumerate(self._watched)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def of_the_batch(self) -> Iterator[None]:
        """Normalises the student with the statistics of the images at hand; the running ones stay."""
        with batch_statistics(self._layers):
            yield

    def _recorder(self, index: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().float()
            var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
            self._seen[index] = (mean, var)

        return record

    def note(self, moments: Moments) -> None:
        """Takes statistics that a predictor outside torch has found, in place of those of a recorded prediction.

        Args:
            moments: Mean and biased variance of each layer's input, in the layers' order.
        """
        self._seen = [(mean, variance) for mean, variance in moments]

    @torch.no_grad()
    def absorb(self) -> bool:
        """Folds the statistics of the last predicted frame into the running ones, unless one is not finite.

        Returns:
            Whether they were.
        """
        found = [(layer, *seen) for layer, seen in zip(self._layers, self._seen, strict=True) if seen is not None]
        self._seen = [None] * len(self._layers)
        # One check for all layers: each would be a wait for the device.
        if not found or not torch.cat([part for _, *parts in found for part in parts]).isfinite().all():
            return False
        for layer, seen_mean, seen_var in found:
            mean, var = _running(layer)
            mean.lerp_(seen_mean, self.settings.momentum)
            var.lerp_(seen_var, self.settings.momentum)
        return True

    def copy_buffers(self) -> list[Tensor]:
        """Every buffer of the layers, for `restore_buffers`."""
        return [buffer.clone() for layer in self._layers for buffer in layer.buffers()]

    @torch.no_grad()
    def restore_buffers(self, saved: list[Tensor]) -> None:
        """Puts the buffers back to what `copy_buffers` gave."""
        for buffer, old in zip((b for layer in self._layers for b in layer.buffers()), saved, strict=True):
            buffer.data.copy_(old)  # unseen by autograd: a graph of these layers may wait for its backward pass

    def running(self) -> list[Tensor]:
        """The running statistics themselves: mean and variance a layer."""
        return [statistic for layer in self._layers for statistic in _running(layer)]

    @torch.no_grad()
    def pull(self, share: float) -> None:
        """Moves the running statistics a linear step of ``share`` towards the source's."""
        for layer, (source_mean, source_var) in zip(self._layers, self._source, strict=True):
            mean, var = _running(layer)
            mean.lerp_(source_mean, share)
            var.lerp_(source_var, share)


def _running(layer: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    mean, var = layer.running_mean, layer.running_var
    assert mean is not None
    assert var is not None
    return mean, var
