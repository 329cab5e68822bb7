"""BatchNorm statistics while a network works on a stream: the source's, those of the stream, or those of the frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from online_uda.adaptation.norm_mixed import alpha_moments, instance_aware_moments, mixed_statistics, running
from online_uda.adaptation.settings import NormSettings
from online_uda.networks.moments import ChannelMoments
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

    ``stream`` and ``iabn``: the statistics of each layer's input are taken during the prediction of a frame, which
    costs no extra pass, and folded into the running ones afterwards: the frame itself is predicted with the statistics
    before it. ``dua`` takes them in a pass of its own over views of the frame.

    Args:
        network: The student, in eval mode.
        settings: The norm slot.
        watched: The network whose predictions are recorded, where it is not the student itself.
    """

    def __init__(self, network: nn.Module, settings: NormSettings, watched: nn.Module | None = None) -> None:
        self.settings = settings
        self._network = network
        self._watched = batch_norms(network if watched is None else watched)
        self._layers = batch_norms(network)
        self._seen: list[ChannelMoments | None] = [None] * len(self._layers)
        self._source = [(running(layer)[0].clone(), running(layer)[1].clone()) for layer in self._layers]
        self._momentum = settings.momentum

    @property
    def has_layers(self) -> bool:
        """Whether the network has any layer with running statistics."""
        return bool(self._layers)

    @property
    def moves(self) -> bool:
        """Whether `absorb` changes what later frames are predicted with."""
        return self.settings.moves and self.has_layers

    @property
    def records(self) -> bool:
        """Whether `absorb` lives on what a prediction has left; otherwise it wants `look` before it."""
        return self.moves and not self.looks

    @property
    def looks(self) -> bool:
        """Whether `absorb` wants a pass of its own, `look`, over views of the frame (DUA)."""
        return self.moves and self.settings.statistics == "dua" and self.settings.views > 0

    @contextmanager
    def predicting(self, *, record: bool = True) -> Iterator[None]:
        """Around the forward passes of a prediction: records input statistics, or switches to those of the frame.

        Where a frame takes several passes, the statistics of all of them are recorded as one.

        Args:
            record: False for images that the stream did not bring: they are answered alike and leave no trace.
        """
        with self._normalising(self._watched):
            if record and self.records:
                with self._recording(self._watched):
                    yield
            else:
                yield

    @contextmanager
    def _recording(self, layers: list[nn.BatchNorm2d]) -> Iterator[None]:
        self._seen = [None] * len(self._layers)
        handles = [layer.register_forward_pre_hook(self._recorder(i)) for i, layer in enumerate(layers)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _normalising(self, layers: list[nn.BatchNorm2d]) -> AbstractContextManager[None]:
        """Statistics that depend on the images at hand, where the settings ask for them."""
        slot = self.settings
        if slot.statistics == "batch":
            return batch_statistics(layers)
        if slot.statistics == "alpha":
            return mixed_statistics(layers, lambda layer, x: alpha_moments(layer, x, slot.alpha))
        if slot.statistics == "iabn":
            return mixed_statistics(layers, lambda layer, x: instance_aware_moments(layer, x, slot.shrink))
        return nullcontext()

    def of_a_copy(self, network: nn.Module) -> Callable[[], AbstractContextManager[None]]:
        """Makes the context in which a copy of the network normalises as this one predicts."""
        layers = batch_norms(network)
        return lambda: self._normalising(layers)

    def learning(self) -> AbstractContextManager[None]:
        """Around a pass of the student that it learns from."""
        return self._normalising(self._layers)

    def on_the_frame(self) -> AbstractContextManager[None]:
        """As `learning`, on the stream's own frame, where trailing statistics give way to those of the frame.

        With trailing ones the entropy of a shifted frame collapses (specs/leads.md).
        """
        trailing = self.moves and self.settings.statistics in ("stream", "dua")
        return self.of_the_batch() if trailing else self.learning()

    def of_the_batch(self) -> AbstractContextManager[None]:
        """Normalises the student with the statistics of the images at hand; the running ones stay."""
        return batch_statistics(self._layers)

    @torch.no_grad()
    def look(self, views: Tensor) -> None:
        """Takes the statistics of a batch of views of the frame, each layer fed by layers that use them (DUA).

        Args:
            views: ``(B, 3, h, w)`` float32 RGB in [0, 1].
        """
        with self.of_the_batch(), self._recording(self._layers):
            self._network(views)

    def _recorder(self, index: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach()
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
            seen, found = self._seen[index], ChannelMoments(mean, var, x.numel() // x.shape[1])
            self._seen[index] = found if seen is None else seen.joined(found)

        return record

    def note(self, moments: Moments) -> None:
        """Takes statistics that a predictor outside torch has found, in place of those of a recorded prediction.

        Args:
            moments: Mean and biased variance of each layer's input, in the layers' order.
        """
        self._seen = [ChannelMoments(mean, variance) for mean, variance in moments]

    @torch.no_grad()
    def absorb(self) -> bool:
        """Folds the statistics of the last predicted frame into the running ones, unless one is not finite.

        Returns:
            Whether they were.
        """
        found = [(layer, seen) for layer, seen in zip(self._layers, self._seen, strict=True) if seen is not None]
        self._seen = [None] * len(self._layers)
        # One check for all layers: each would be a wait for the device.
        if not found or not torch.cat([part for _, seen in found for part in seen[:2]]).isfinite().all():
            return False
        momentum = self._next_momentum()
        for layer, seen in found:
            mean, var = running(layer)
            mean.lerp_(seen.mean.to(mean), momentum)
            var.lerp_(seen.variance.to(var), momentum)
        return True

    def _next_momentum(self) -> float:
        """Share that the next statistics get; DUA's falls from frame to frame to a floor (Mirza et al. 2022)."""
        if self.settings.statistics != "dua":
            return self.settings.momentum
        self._momentum *= self.settings.decay
        return self._momentum + self.settings.floor

    def state_dict(self) -> dict[str, Any]:
        """The momentum; the statistics are buffers of the student."""
        return {"momentum": self._momentum}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self._momentum = float(state["momentum"])

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
        return [statistic for layer in self._layers for statistic in running(layer)]

    def source(self) -> list[Tensor]:
        """Those of the source network, in the order of `running`."""
        return [statistic for layer in self._source for statistic in layer]

    @torch.no_grad()
    def pull(self, share: float) -> None:
        """Moves the running statistics a linear step of ``share`` towards the source's."""
        for layer, (source_mean, source_var) in zip(self._layers, self._source, strict=True):
            mean, var = running(layer)
            mean.lerp_(source_mean, share)
            var.lerp_(source_var, share)
