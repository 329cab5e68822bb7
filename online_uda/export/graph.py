"""A network as an ONNX graph whose chosen weights are inputs with a default value.

The weights are made inputs before the graph is traced (`torch.func.functional_call`): turning initializers into inputs
afterwards would be silently wrong, because a plain export folds weights into others.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence

import onnx
import onnx.numpy_helper
import torch
from torch import Tensor, nn

from online_uda.errors import UserError
from online_uda.networks.predictor import WatchedNetwork, aliased
from online_uda.networks.segmenter import Segmenter

OPSET = 20
"""The first with Gelu as one operator."""
FRAMES, LOGITS = "frames", "logits"
WATCHED = "network."
"""Where `WatchedNetwork` keeps the network."""


def weights_of(network: Segmenter) -> dict[str, Tensor]:
    """Parameters and floating-point buffers outside the light head, by name, detached and sharing memory."""
    named = [*network.named_parameters(), *network.named_buffers()]
    return {
        name: tensor.detach()
        for name, tensor in named
        if tensor.is_floating_point() and not name.startswith("light_head.")
    }


class _Functional(nn.Module):
    """A watched network with chosen weights as further arguments."""

    def __init__(self, watched: WatchedNetwork, names: Sequence[str]) -> None:
        super().__init__()
        self.watched, self._names = watched, [WATCHED + name for name in names]

    def forward(self, frames: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        replaced = dict(zip(self._names, weights, strict=True))
        answer: tuple[Tensor, ...] = torch.func.functional_call(self.watched, replaced, (frames,))
        return answer


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports its progress, and warns of what does not concern a user."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def export_graph(
    network: Segmenter,
    size: tuple[int, int],
    movable: Sequence[str] = (),
    watched: Sequence[str] = (),
    *,
    prepare: Callable[[nn.Module], nn.Module] | None = None,
) -> onnx.ModelProto:
    """Exports ``network`` for frames of one size.

    Args:
        network: On any device; not changed.
        size: Height and width of frames.
        movable: Names of the weights that become inputs with their present value as default (overridable
            initializers), each under its own name.
        watched: Names of BatchNorm layers; mean and variance of their inputs become the outputs ``NAME.mean`` and
            ``NAME.variance``.
        prepare: Changes a copy of the network before it is traced; weights keep their names.

    Returns:
        A model with the input ``frames`` (1, 3, H, W) float32 RGB in [0, 1] and the output ``logits``.

    Raises:
        UserError: The network cannot be traced.
    """
    network = aliased(network).cpu()
    weights = weights_of(network)
    values = {name: weights[name].contiguous() for name in movable}
    if prepare is not None:
        prepare(network)
    module = _Functional(WatchedNetwork(network, watched), list(values)).eval()
    outputs = [LOGITS, *(f"{name}.{what}" for name in watched for what in ("mean", "variance"))]
    model = traced(module, (torch.zeros(1, 3, *size), *values.values()), [FRAMES, *values], outputs)
    # A weight that prediction does not read, such as an auxiliary head's, is no input that a session would know.
    read = {name for node in model.graph.node for name in node.input}
    inputs = [item for item in model.graph.input if item.name in read]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    for name in movable_names(model):
        model.graph.initializer.append(onnx.numpy_helper.from_array(values[name].numpy(), name))
    return model


def traced(
    module: nn.Module, inputs: tuple[Tensor, ...], input_names: Sequence[str], output_names: Sequence[str]
) -> onnx.ModelProto:
    """A module as a graph for inputs of the shapes given.

    Raises:
        UserError: It cannot be traced.
    """
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                module,
                inputs,
                dynamo=True,
                input_names=input_names,
                output_names=output_names,
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:
        reason = str(error.__cause__ or error).strip().splitlines()[-1]
        raise UserError(
            f"this network cannot be exported to ONNX: {reason[:200]}; use --backend torch or compile"
        ) from error
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


def movable_names(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the weights that are inputs of an exported graph."""
    return tuple(item.name for item in model.graph.input if item.name != FRAMES)


def with_constants(model: onnx.ModelProto, weights: Mapping[str, Tensor]) -> onnx.ModelProto:
    """A copy of ``model`` in which the overridable ``weights`` are constants with these values.

    ONNX Runtime folds and packs constants when it opens a session, which makes convolutions faster.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    inputs = [item for item in fixed.graph.input if item.name not in weights]
    del fixed.graph.input[:]
    fixed.graph.input.extend(inputs)
    for item in fixed.graph.initializer:
        if item.name in weights:
            item.CopyFrom(onnx.numpy_helper.from_array(weights[item.name].cpu().contiguous().numpy(), item.name))
    return fixed
