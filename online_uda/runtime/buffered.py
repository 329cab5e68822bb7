"""Weights held apart: a copy of the network answers frames while another takes up what was learned."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from online_uda.networks.predictor import Moments, Predictor, WatchedNetwork, Wishes, copy_weights, pairs
from online_uda.networks.segmenter import Segmentation, Segmenter, padded_size
from online_uda.networks.views import Views


class _Buffer:
    """A copy of a network, and how it normalises while it predicts."""

    def __init__(self, network: Segmenter, wishes: Wishes) -> None:
        own = _copy(network)
        self.network = WatchedNetwork(own, wishes.watched)
        self.normalising: Callable[[], AbstractContextManager[Any]] = (
            nullcontext if wishes.normalising is None else wishes.normalising(own)
        )


class BufferedPredictor:
    """Answers frames in torch with a copy of the deployed network (see `online_uda.networks.predictor.Predictor`).

    Weights are copied into the buffer that no prediction uses, and the buffers change places at the start of the next
    prediction: between frames, whole, without a wait. While weights are being copied the old ones go on answering.

    Args:
        network: The deployed network; it is copied twice.
        wishes: What the method asks of a predictor.
        autocast: Makes the context of a prediction.
        views: How a frame is shown to the network; one frame is answered by one copy, however many passes it takes.
    """

    name = "buffered"

    def __init__(
        self,
        network: Segmenter,
        wishes: Wishes,
        autocast: Callable[[], AbstractContextManager[Any]],
        views: Views | None = None,
    ) -> None:
        self._autocast, self._divisor, self._views = autocast, network.divisor, views or Views()
        self._front, self._back = (_Buffer(network, wishes) for _ in range(2))
        self._on_cuda = network.get_buffer("mean").is_cuda
        self._fresh = False
        self._copying = threading.Lock()

    def predict(self, frames: Tensor) -> tuple[Segmentation, Moments]:
        """See `Predictor.predict`."""
        if self._fresh and self._copying.acquire(blocking=False):
            self._front, self._back = self._back, self._front
            self._fresh = False
            self._copying.release()
        with torch.no_grad(), self._autocast(), self._front.normalising():
            return self._views.answer(self._one_pass, frames)

    def _one_pass(self, frames: Tensor) -> tuple[Segmentation, Moments]:
        logits, *moments = self._front.network(frames)
        size = (int(frames.shape[-2]), int(frames.shape[-1]))
        return Segmentation(logits, (), size, padded_size(size, self._divisor)), pairs(moments)

    def publish(self, network: Segmenter) -> None:
        """See `Predictor.publish`."""
        with self._copying:
            copy_weights(network, self._back.network.network)
            if self._on_cuda:
                torch.cuda.current_stream().synchronize()  # the worker's: the copy is whole before it is seen
            self._fresh = True


class StagedPredictor:
    """Another predictor on memory of its own, where two of it would cost too much, as compiling twice would.

    Weights are published to a second copy, and the next prediction takes them over before it begins, which costs it
    a copy of the weights; while they are being published the old ones go on answering.

    Args:
        network: The deployed network; it is copied twice.
        make: Makes the predictor, which answers from the memory of the network that it is given.
    """

    def __init__(self, network: Segmenter, make: Callable[[Segmenter], Predictor]) -> None:
        self._held, self._staged = (_copy(network) for _ in range(2))
        self._inner = make(self._held)
        self.name = self._inner.name
        self._on_cuda = network.get_buffer("mean").is_cuda
        self._fresh = False
        self._copying = threading.Lock()

    def predict(self, frames: Tensor) -> tuple[Segmentation, Moments]:
        """See `Predictor.predict`."""
        if self._fresh and self._copying.acquire(blocking=False):
            copy_weights(self._staged, self._held)
            self._fresh = False
            self._copying.release()
        return self._inner.predict(frames)

    def publish(self, network: Segmenter) -> None:
        """See `Predictor.publish`."""
        with self._copying:
            copy_weights(network, self._staged)
            if self._on_cuda:
                torch.cuda.current_stream().synchronize()
            self._fresh = True


def _copy(network: Segmenter) -> Segmenter:
    return copy.deepcopy(network).requires_grad_(False).eval()
