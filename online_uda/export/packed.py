"""A graph whose learned convolutions are inputs in the layout that ONNX Runtime wants them in.

ONNX Runtime lays the weights of convolutions out in blocks when it opens a session, and it does so with constants only:
a convolution whose weight is a plain input is slow. So the graph is optimised once with stand-ins for the weights, what
became of each stand-in is found by its values, and in the optimised graph these tensors are inputs. Publishing then
lays the new weights out in the same way, which takes milliseconds, and the running session stays.

What follows from weights alone, such as the product of two of them, is cut off into a graph of its own, which is run
when weights are published and not with every frame.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx.numpy_helper
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from online_uda.export.graph import movable_names, with_constants
from online_uda.export.session import open_session

_BLOCKS = (16, 8)
"""Channels of a block, with AVX-512 and without."""
_SEED = 20261130


@dataclass(frozen=True, slots=True)
class Layout:
    """How a tensor lies in memory.

    Attributes:
        shape: Of the tensor that ONNX Runtime binds.
        block: Output channels are blocked by it, and input channels where there are as many; 0 leaves the order alone.
    """

    shape: tuple[int, ...]
    block: int = 0

    def write(self, value: Tensor, into: Tensor) -> None:
        """Lays ``value`` out in the memory of ``into``."""
        if not self.block:
            into.view(-1)[: value.numel()].copy_(value.reshape(-1))
            return
        arranged = blocked(value, self.block)
        into.view(arranged.shape).copy_(arranged)


def blocked(weight: Tensor, block: int) -> Tensor:
    """A view of ``(O, I, h, w)`` weights whose order is ONNX Runtime's; missing output channels are zero.

    Returns:
        ``(O / block, I / block, h, w, block, block)``, input channels before output channels; with fewer input
        channels than a block ``(O / block, I, h, w, block)``.
    """
    outputs, inputs, height, width = weight.shape
    if outputs % block:
        weight = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, -outputs % block))
    if inputs < block:
        return weight.view(-1, block, inputs, height, width).permute(0, 2, 3, 4, 1)
    return weight.view(-1, block, inputs // block, block, height, width).permute(0, 2, 4, 5, 3, 1)


class AffineNorm(nn.Module):
    """A BatchNorm in eval mode as what ONNX Runtime makes of it: a convolution a channel, whose weights can be inputs.

    Parameters and buffers have the names and the memory of those of ``norm``.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.eps = norm.eps
        self.weight, self.bias = norm.weight, norm.bias
        self.register_buffer("running_mean", norm.running_mean)
        self.register_buffer("running_var", norm.running_var)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * torch.rsqrt(self.get_buffer("running_var") + self.eps)
        shift = self.bias - self.get_buffer("running_mean") * scale
        return F.conv2d(x, scale[:, None, None, None], shift, groups=int(scale.shape[0]))


def with_affine_norms(network: nn.Module) -> nn.Module:
    """``network`` with every BatchNorm that has weights and statistics replaced in place."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm2d and child.affine and child.track_running_stats:
                setattr(parent, name, AffineNorm(child))
    return network


class Derivation:
    """What follows from weights alone.

    A weight that is only turned round is a view of it: it is copied once, when it is laid out.

    Args:
        model: From weights to tensors; None where nothing follows.
        threads: CPU threads.
    """

    def __init__(self, model: onnx.ModelProto | None, threads: int) -> None:
        self._session: Any = None
        self._views: dict[str, tuple[str, list[int]]] = {}
        self._reads: list[str] = []
        self._gives: list[str] = []
        if model is None:
            return
        weights = {item.name for item in model.graph.input}
        wanted = [item.name for item in model.graph.output]
        for node in model.graph.node:
            order = [number for item in node.attribute if item.name == "perm" for number in item.ints]
            if node.op_type == "Transpose" and node.input[0] in weights and order:
                self._views[node.output[0]] = node.input[0], order
        self._gives = [name for name in wanted if name not in self._views]
        if self._gives:
            rest = _cut_to(model, _needed(list(model.graph.node), self._gives), self._gives)
            self._reads = [item.name for item in rest.graph.input]
            self._session = open_session(rest.SerializeToString(), torch.device("cpu"), threads)

    def __call__(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights themselves, and what follows from them, by name."""
        found = dict(weights)
        found.update((name, weights[of].permute(order)) for name, (of, order) in self._views.items())
        if self._session is not None:
            feeds = {name: weights[name].contiguous().numpy() for name in self._reads}
            answers = self._session.run(self._gives, feeds)
            found.update((name, torch.from_numpy(answer)) for name, answer in zip(self._gives, answers, strict=True))
        return found


@dataclass(frozen=True, slots=True)
class PackedGraph:
    """An optimised graph with laid out weights as inputs.

    Attributes:
        model: To be opened without further optimisation.
        tensors: For every input but the frames: the tensor that it holds, and how it lies there.
        derive: Makes these tensors from weights by name.
    """

    model: onnx.ModelProto
    tensors: dict[str, tuple[str, Layout]]
    derive: Derivation

    def room(self) -> dict[str, Tensor]:
        """Memory for all inputs, zero."""
        return {name: torch.zeros(layout.shape) for name, (_, layout) in self.tensors.items()}

    @torch.no_grad()
    def fill(self, into: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        """Lays weights out in the memory of `room`."""
        found = self.derive(weights)
        as_they_are: tuple[list[Tensor], list[Tensor]] = [], []
        for name, (tensor, layout) in self.tensors.items():
            value = found[tensor]
            if layout.block or value.shape != into[name].shape:
                layout.write(value, into[name])
            else:
                as_they_are[0].append(into[name])
                as_they_are[1].append(value)
        torch._foreach_copy_(*as_they_are)


def pack(graph: onnx.ModelProto, weights: Mapping[str, Tensor], threads: int) -> PackedGraph | None:
    """Makes a packed graph of one whose moving weights are inputs.

    Args:
        graph: From `export_graph`, its BatchNorms replaced by `with_affine_norms`.
        weights: Values of the moving weights, by name, on the CPU.
        threads: CPU threads.

    Returns:
        None where ONNX Runtime makes something of the weights that is not known here.
    """
    rest, derived = split_derived(graph)
    derive = Derivation(derived, threads)
    known = derive({name: weights[name] for name in movable_names(graph)})
    read = _read_by(rest.graph.node)
    shapes = {name: tensor.shape for name, tensor in known.items() if name in read}
    generator = torch.Generator().manual_seed(_SEED)
    stand_ins = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    model = _optimised(with_constants(rest, stand_ins), threads)
    tensors = {item.name: found for item in model.graph.initializer if (found := _found(item, stand_ins)) is not None}
    if {name for name, _ in tensors.values()} != stand_ins.keys():
        return None
    kept = [item for item in model.graph.initializer if item.name not in tensors]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    for name, (_, layout) in tensors.items():
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, layout.shape))
    return PackedGraph(model, tensors, derive)


def split_derived(graph: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto | None]:
    """Cuts off what follows from weights alone.

    Returns:
        The rest, which reads the derived tensors as initializers that are yet to be given; and the graph from moving
        weights to derived tensors, None where there are none.
    """
    moving = set(movable_names(graph))
    fixed = {item.name for item in graph.graph.initializer} - moving
    derived: dict[str, Any] = {}
    fixed_nodes: dict[str, Any] = {}
    others = []
    for node in graph.graph.node:
        reads = {name for name in node.input if name}
        if reads <= fixed | fixed_nodes.keys() | moving | derived.keys() and not _has_graphs(node):
            target = derived if reads & (moving | derived.keys()) else fixed_nodes
            target.update(dict.fromkeys(node.output, node))
            if target is derived:
                continue
        others.append(node)
    wanted = [name for name in _read_by(others) if name in derived]
    if not derived:
        return graph, None
    rest = _cut_to(graph, others)
    for name in wanted:
        placeholder = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=[0])
        rest.graph.initializer.append(placeholder)
    nodes = [node for node in graph.graph.node if any(name in derived or name in fixed_nodes for name in node.output)]
    return rest, _cut_to(graph, _needed(nodes, wanted), wanted)


def _cut_to(graph: onnx.ModelProto, nodes: list[Any], gives: list[str] | None = None) -> onnx.ModelProto:
    """A graph of some of the nodes, with the inputs and constants that they read, and its own outputs or others."""
    part = onnx.ModelProto()
    part.CopyFrom(graph)
    read = set(_read_by(nodes))
    del part.graph.node[:], part.graph.input[:], part.graph.initializer[:]
    part.graph.node.extend(nodes)
    part.graph.input.extend(item for item in graph.graph.input if item.name in read)
    part.graph.initializer.extend(item for item in graph.graph.initializer if item.name in read)
    if gives is not None:
        del part.graph.output[:]
        infos = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in gives)
        part.graph.output.extend(infos)
    return part


def _has_graphs(node: Any) -> bool:
    return any(item.HasField("g") or item.graphs for item in node.attribute)


def _read_by(nodes: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(name for node in nodes for name in node.input if name))


def _needed(nodes: list[Any], wanted: Iterable[str]) -> list[Any]:
    """The nodes, in order, that ``wanted`` tensors come from."""
    names, kept = set(wanted), []
    for node in reversed(nodes):
        if names & set(node.output):
            kept.append(node)
            names.update(node.input)
    return kept[::-1]


def _optimised(model: onnx.ModelProto, threads: int) -> onnx.ModelProto:
    """What ONNX Runtime makes of a model on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "optimised.onnx"
        open_session(model.SerializeToString(), torch.device("cpu"), threads, save=file)
        return onnx.load(str(file))


def _found(item: onnx.TensorProto, stand_ins: Mapping[str, Tensor]) -> tuple[str, Layout] | None:
    """Which stand-in an initializer of the optimised graph is, and how it lies there; None for other constants."""
    if item.data_type != onnx.TensorProto.FLOAT:
        return None
    value = torch.from_numpy(onnx.numpy_helper.to_array(item).copy())
    for name, stand_in in stand_ins.items():
        if value.numel() < stand_in.numel():
            continue
        for layout in _layouts(stand_in, tuple(value.shape)):
            expected = torch.zeros(layout.shape)
            layout.write(stand_in, expected)
            if torch.equal(expected.view(-1), value.view(-1)):
                return name, layout
    return None


def _layouts(tensor: Tensor, shape: tuple[int, ...]) -> list[Layout]:
    """How ``tensor`` may lie in an initializer of ``shape``."""
    size = torch.Size(shape).numel()
    # A bias is as long as the padded output channels.
    padded_bias = tensor.ndim == len(shape) == 1 and size < tensor.numel() + _BLOCKS[0]
    plain = [Layout(shape)] if padded_bias or tensor.numel() == size else []
    if tensor.ndim != 4:
        return plain
    outputs, inputs = tensor.shape[:2]
    fitting = (block for block in _BLOCKS if inputs < block or inputs % block == 0)
    return [*plain, *(Layout(shape, b) for b in fitting if tensor[0].numel() * (outputs + -outputs % b) == size)]
