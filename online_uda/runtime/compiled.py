"""Prediction with a network compiled by torch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from online_uda.errors import UserError
from online_uda.networks.predictor import Moments, WatchedNetwork, Wishes, aliased, copy_weights, pairs
from online_uda.networks.segmenter import Segmentation, Segmenter, padded_size
from online_uda.networks.views import Views


class CompiledPredictor:
    """A network behind `torch.compile` (see `online_uda.networks.predictor.Predictor`).

    The compiled code reads the network's own memory: publishing costs nothing. Compiling takes a minute on a CPU, for
    every size of frames once.

    Args:
        network: The deployed network.
        wishes: Which layers are watched; whatever moves is followed.
        size: Height and width of the first frames; compiled for before the first one comes.
        autocast: Context of every prediction.
        compiler: Backend of `torch.compile`.
        views: How a frame is shown to the network.

    Raises:
        UserError: There is no working compiler.
    """

    name = "compile"

    def __init__(
        self,
        network: Segmenter,
        wishes: Wishes,
        size: tuple[int, int],
        autocast: Callable[[], AbstractContextManager[Any]],
        compiler: str = "inductor",
        views: Views | None = None,
    ) -> None:
        self._network, self._autocast, self._views = network, autocast, views or Views()
        watched = WatchedNetwork(aliased(network), wishes.watched)
        self._forward: Any = torch.compile(watched, dynamic=False, backend=compiler)
        try:
            self.predict(torch.zeros(1, 3, *size, device=network.get_buffer("mean").device))
        except Exception as error:
            reason = str(getattr(error, "inner_exception", error)).strip().splitlines()[0]
            raise UserError(
                f"--backend compile: torch cannot compile this network here ({reason[:160]}); it needs a C++ compiler "
                "(Debian: apt-get install g++), on a GPU Triton as well; or use --backend torch or onnxruntime"
            ) from error

    def predict(self, frames: Tensor) -> tuple[Segmentation, Moments]:
        """See `Predictor.predict`; ``features`` are empty."""
        with torch.no_grad(), self._autocast():
            return self._views.answer(self._one_pass, frames)

    def _one_pass(self, frames: Tensor) -> tuple[Segmentation, Moments]:
        logits, *moments = self._forward(frames)
        size = (int(frames.shape[-2]), int(frames.shape[-1]))
        return Segmentation(logits, (), size, padded_size(size, self._network.divisor)), pairs(moments)

    def publish(self, network: Segmenter) -> None:
        """See `Predictor.publish`."""
        if network is not self._network:
            copy_weights(network, self._network)
