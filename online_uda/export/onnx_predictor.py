"""Prediction with ONNX Runtime, and weights that change under a running session.

Weights that learn are inputs of the graph, bound by address, in two sets that take turns: publishing fills one of them
while predictions use the other. Norms, BatchNorm statistics and linear layers are inputs as they are, which takes
microseconds to publish. A convolution whose weight is such an input is slow (67 instead of 41 ms a frame for
SegFormer-B0 at 512 x 256); where convolutions learn, the tensors are inputs as ONNX Runtime lays them out for itself,
which takes milliseconds (`online_uda.export.packed`). Where that is not to be had - on a GPU, or in a network of which
it makes something else - weights stay constants and publishing opens a new session beside the old one.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from online_uda.errors import UserError
from online_uda.export.graph import FRAMES, export_graph, movable_names, weights_of, with_constants
from online_uda.export.packed import pack, with_affine_norms
from online_uda.export.parity import check_parity
from online_uda.export.session import open_session
from online_uda.networks.predictor import Moments, Wishes, aliased, copy_weights, pairs
from online_uda.networks.segmenter import Segmentation, Segmenter, padded_size
from online_uda.networks.views import Views


@dataclass
class _Loaded:
    """A session with the weights that it uses."""

    session: Any
    binding: Any
    weights: dict[str, Tensor]


class _OneSize:
    """The graph for frames of one size, with the present weights and room for the next ones.

    Args:
        network: Present weights.
        size: Height and width of frames.
        wishes: Which tensors move, which layers are watched.
        device: Where frames are.
        threads: CPU threads.
        packed: Whether to lay out weights as convolutions want them; `by_input` tells whether that worked.
    """

    def __init__(
        self,
        network: Segmenter,
        size: tuple[int, int],
        wishes: Wishes,
        device: torch.device,
        threads: int,
        *,
        packed: bool,
    ) -> None:
        self.size, self._device, self._threads = size, device, threads
        prepare = with_affine_norms if packed else None
        self._graph = export_graph(network, size, wishes.moving, wishes.watched, prepare=prepare)
        self._packed = pack(self._graph, weights_of(network), threads) if packed else None
        self.by_input = self._packed is not None or not _holds_convolutions(network, wishes.moving)
        self._outputs = [item.name for item in self._graph.graph.output]
        self._shapes = [
            tuple(part.dim_value for part in item.type.tensor_type.shape.dim) for item in self._graph.graph.output
        ]
        self._now = self._load(self._room(network))
        # The other half of the double buffer; predictions run on the first one while it is filled.
        self._next = self._bind(self._now.session, self._room(network)) if self.by_input else self._now

    def _room(self, network: Segmenter) -> dict[str, Tensor]:
        """Own copies of the moving weights, whose addresses do not change."""
        weights = weights_of(network)
        if self._packed is not None:
            room = self._packed.room()
            self._packed.fill(room, weights)
            return room
        names = movable_names(self._graph)
        return {name: weights[name].to(self._device, copy=True).contiguous() for name in names}

    def _load(self, values: dict[str, Tensor]) -> _Loaded:
        if self._packed is not None:
            content = self._packed.model.SerializeToString()
            return self._bind(open_session(content, self._device, self._threads, optimise=False), values)
        model: onnx.ModelProto = self._graph if self.by_input else with_constants(self._graph, values)
        session = open_session(model.SerializeToString(), self._device, self._threads)
        return self._bind(session, values)

    def _bind(self, session: Any, values: dict[str, Tensor]) -> _Loaded:
        binding = session.io_binding()
        if self.by_input:
            for name, value in values.items():
                _bind(binding.bind_input, name, value)
        return _Loaded(session, binding, values)

    def prepare(self, weights: Mapping[str, Tensor]) -> None:
        """Gets ready what `swap` brings; predictions go on as before."""
        if not self._now.weights:
            return
        if self._packed is not None:
            self._packed.fill(self._next.weights, weights)
            return
        if self.by_input:
            into = self._next.weights
            torch._foreach_copy_(list(into.values()), [weights[name] for name in into])
            if self._device.type == "cuda":
                torch.cuda.current_stream(self._device).synchronize()
            return
        old = self._now.weights
        changed = any(not torch.equal(value, weights[name]) for name, value in old.items())
        self._next = self._load({name: weights[name].clone() for name in old}) if changed else self._now

    def swap(self) -> None:
        """Lets the next prediction use what was prepared."""
        if self._now.weights:
            self._now, self._next = self._next, (self._now if self.by_input else self._next)

    def run(self, frames: Tensor) -> list[Tensor]:
        frames = frames.contiguous()
        outputs = [torch.empty(shape, device=self._device) for shape in self._shapes]
        on_gpu = self._device.type == "cuda"
        now = self._now
        _bind(now.binding.bind_input, FRAMES, frames)
        for name, output in zip(self._outputs, outputs, strict=True):
            _bind(now.binding.bind_output, name, output)
        if on_gpu:
            torch.cuda.current_stream(self._device).synchronize()  # the session works on a stream of its own
        now.session.run_with_iobinding(now.binding)
        if on_gpu:
            now.binding.synchronize_outputs()
        return outputs


class OnnxPredictor:
    """A network behind ONNX Runtime (see `online_uda.networks.predictor.Predictor`).

    A frame of a size that was not seen before costs an export, which takes seconds.

    Args:
        network: The deployed network; present weights are taken.
        wishes: What may move, what is watched.
        size: Height and width of the first frames.
        threads: CPU threads.
        views: How a frame is shown to the network; every size of view has a graph of its own.

    Raises:
        UserError: The network cannot be exported, the session is not on the network's device, or its answers are not
            those of torch.
    """

    name = "onnxruntime"

    def __init__(
        self,
        network: Segmenter,
        wishes: Wishes,
        size: tuple[int, int],
        threads: int,
        views: Views | None = None,
    ) -> None:
        self._views = views or Views()
        self._frame = threading.Lock()  # held while a frame is answered: all its passes use the same weights
        self._network = aliased(network)  # for frames of further sizes; follows the learner's weights
        self._wishes, self._threads = wishes, threads
        self._device = network.get_buffer("mean").device
        self._learner: tuple[Segmenter, dict[str, Tensor]] = (network, weights_of(network))
        self._sizes = {shown: self._open(network, shown) for shown in self._views.settings.view_sizes(size)}

    def _open(self, network: Segmenter, size: tuple[int, int]) -> _OneSize:
        if self._device.type == "cpu" and _holds_convolutions(network, self._wishes.moving):
            with contextlib.suppress(UserError):  # what is made of the weights is not what was thought
                graph = self._checked(network, size, packed=True)
                if graph.by_input:
                    return graph
        return self._checked(network, size, packed=False)

    def _checked(self, network: Segmenter, size: tuple[int, int], *, packed: bool) -> _OneSize:
        graph = _OneSize(network, size, self._wishes, self._device, self._threads, packed=packed)

        def answer(weights: Mapping[str, Tensor], frames: Tensor) -> list[Tensor]:
            graph.prepare(weights)
            graph.swap()
            return graph.run(frames)

        check_parity(answer, network, size, self._wishes)
        graph.prepare(weights_of(network))
        graph.swap()
        return graph

    @property
    def by_input(self) -> bool:
        """Whether publishing replaces inputs of the running session, rather than the session."""
        return next(iter(self._sizes.values())).by_input

    def predict(self, frames: Tensor) -> tuple[Segmentation, Moments]:
        """See `Predictor.predict`; ``features`` are empty."""
        with self._frame:
            return self._views.answer(self._one_pass, frames)

    def _one_pass(self, frames: Tensor) -> tuple[Segmentation, Moments]:
        size = (int(frames.shape[-2]), int(frames.shape[-1]))
        if size not in self._sizes:
            self._sizes[size] = self._open(self._network, size)
        logits, *moments = self._sizes[size].run(frames)
        return Segmentation(logits, (), size, padded_size(size, self._network.divisor)), pairs(moments)

    def publish(self, network: Segmenter) -> None:
        """See `Predictor.publish`."""
        if network is not self._learner[0]:
            copy_weights(network, self._network)
            self._learner = network, weights_of(network)
        graphs = list(self._sizes.values())
        for graph in graphs:
            graph.prepare(self._learner[1])
        with self._frame:
            for graph in graphs:
                graph.swap()


def _holds_convolutions(network: Segmenter, names: tuple[str, ...]) -> bool:
    owners = {name.rpartition(".")[0] for name in names}
    return any(isinstance(network.get_submodule(owner), nn.Conv2d) for owner in owners)


def _bind(bind: Any, name: str, tensor: Tensor) -> None:
    device = tensor.device
    bind(name, device.type, device.index or 0, np.float32, tuple(tensor.shape), tensor.data_ptr())
