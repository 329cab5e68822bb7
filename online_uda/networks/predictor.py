"""How a frame is answered, apart from how the network is held: the interface that every backend fills."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from online_uda.networks.segmenter import Segmentation, Segmenter
from online_uda.networks.views import Moments, Views


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a method asks of a predictor.

    Attributes:
        moving: Names of the parameters and buffers that learning may change.
        watched: Names of the BatchNorm layers whose input moments are wanted with every prediction.
        normalising: Where normalisation depends on the frame at hand: for a copy of the network, makes the context that
            its predictions run in.
    """

    moving: tuple[str, ...] = ()
    watched: tuple[str, ...] = ()
    normalising: Callable[[nn.Module], Callable[[], AbstractContextManager[None]]] | None = None


class Predictor(Protocol):
    """Answers frames with the weights published last."""

    name: str

    def predict(self, frames: Tensor) -> tuple[Segmentation, Moments]:
        """Segments ``frames`` (1, 3, H, W) float32 RGB in [0, 1]; ``features`` of the answer may be empty."""
        ...

    def publish(self, network: Segmenter) -> None:
        """Takes over the values that the moving tensors have in ``network``; the next prediction uses all of them.

        It may run in another thread than `predict`, which uses the old values or the new ones, never a mixture.
        """
        ...


PredictorFactory = Callable[[Segmenter, Wishes], Predictor]


class TorchPredictor:
    """The network itself, in its own memory: what is learned in place is there at once.

    Args:
        network: The deployed network.
        around: Context of every prediction, such as autocast or a recorder of statistics.
        views: How a frame is shown to the network.
    """

    name = "torch"

    def __init__(
        self, network: Segmenter, around: Callable[[], AbstractContextManager[Any]], views: Views | None = None
    ) -> None:
        self._network, self._around, self._views = network, around, views or Views()

    def predict(self, frames: Tensor) -> tuple[Segmentation, Moments]:
        """See `Predictor.predict`; moments are left to the context."""
        # no_grad, not inference_mode: statistics recorded here become running buffers of a trained network.
        with torch.no_grad(), self._around():
            return self._views(self._network, frames), ()

    def publish(self, network: Segmenter) -> None:
        """See `Predictor.publish`; copies only from another network than its own."""
        if network is not self._network:
            copy_weights(network, self._network)


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copies all parameters and buffers of ``source`` into the memory of ``target``, a network of the same shape."""
    into, values = ([*network.parameters(), *network.buffers()] for network in (target, source))
    torch._foreach_copy_([tensor.detach() for tensor in into], [tensor.detach() for tensor in values])


def aliased(network: Segmenter) -> Segmenter:
    """A copy of ``network`` in eval mode whose parameters and buffers share the original's memory.

    Learning changes weights in place, so the copy follows; but modes, hooks and ``requires_grad`` are its own.
    """
    shared: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False) for parameter in network.parameters()
    }
    shared.update({id(buffer): buffer.detach() for buffer in network.buffers()})
    return copy.deepcopy(network, shared).eval()


class WatchedNetwork(nn.Module):
    """A network as a function of the frame alone: logits, then mean and variance a watched layer.

    Args:
        network: In eval mode.
        watched: Names of BatchNorm layers.
    """

    def __init__(self, network: Segmenter, watched: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self._seen: list[Tensor] = []
        for name in watched:
            network.get_submodule(name).register_forward_pre_hook(self._record)

    def _record(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0].float(), dim=(0, 2, 3), correction=0)
        self._seen += [mean, variance]

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        self._seen.clear()
        logits = self.network(frames).logits
        return (logits, *self._seen)


def pairs(flat: Sequence[Tensor]) -> Moments:
    """Means and variances in turn, as `WatchedNetwork` gives them, two by two."""
    return list(zip(flat[::2], flat[1::2], strict=True))
