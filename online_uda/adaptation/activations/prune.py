"""Inputs of layers kept in part for the gradients of their weights (SURGEON: Ma et al., CVPR 2025).

Of what a layer needs for the gradient of its weights, the largest values are kept and the others count as nothing. Its
own weights get that gradient. What goes on to the layers before depends on no input in a linear layer, a convolution,
or a BatchNorm with running statistics, and stays exact; in a LayerNorm, or with the statistics of the frame, it is that
of the pruned input too, because the whole one is gone.

A layer keeps the share ``keep * I_i / max I`` of its input, ``I_i = G_i M_i``, with the gradient importance
``G_i = |dL/dW_i| / sqrt(number of weights)`` and the memory importance ``M_i = log(sum_j A_j / A_i)`` for inputs of
``A_i`` values. Both come from a small pass of the entropy over the middle of the frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from online_uda.adaptation.activations.sparse import SharedInputs, Signs, SparseTensor
from online_uda.adaptation.objectives.entropy import pixel_entropy
from online_uda.adaptation.settings.activations import PruneSettings
from online_uda.networks.segmenter import Segmenter

Call = tuple[tuple[Any, ...], dict[str, Any]]
_WEIGHTS: dict[Callable[..., Any], int] = {F.linear: 1, torch.conv2d: 1, F.layer_norm: 2, F.batch_norm: 3}
"""Layers with weights, and which argument these are; the input is the first one."""


def shares(gradients: Sequence[float], sizes: Sequence[int], keep: float = 1.0) -> list[float]:
    """What each layer keeps of its input, from 0 to ``keep``; all keep as much where no gradient tells them apart.

    Args:
        gradients: Euclidean norms of the gradients of the weights over the square roots of their numbers.
        sizes: Values of the inputs.
        keep: What the layer that matters most keeps.
    """
    total = sum(sizes)
    found = [gradient * math.log(total / size) for gradient, size in zip(gradients, sizes, strict=True)]
    largest = max(found, default=0.0)
    if largest <= 0.0 or not all(math.isfinite(one) for one in found):
        return [keep] * len(found)
    return [keep * one / largest for one in found]


class _Layers(TorchFunctionMode):
    """Calls ``seen`` instead of every layer whose weights are among ``names``, with a function that runs it.

    With ``signs`` a ReLU keeps a bit a value, exactly: otherwise it would hold on to the inputs of the next layer.
    """

    def __init__(
        self, names: Mapping[int, str], seen: Callable[[str, Any, Call, Callable[[], Any]], Any], signs: bool = False
    ) -> None:
        super().__init__()
        self._names, self._seen, self._signs = names, seen, signs

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.relu and torch.is_grad_enabled() and self._signs:
            with torch.autograd.graph.saved_tensors_hooks(Signs, _unpack):
                return func(*args, **kwargs)
        index = _WEIGHTS.get(func)
        if index is None or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        weight = args[index] if len(args) > index else kwargs.get("weight")
        name = self._names.get(id(weight))
        if name is None:
            return func(*args, **kwargs)
        return self._seen(name, func, (args, kwargs), lambda: func(*args, **kwargs))


class Prune:
    """Prunes what the layers of a network keep.

    Args:
        settings: How much.
        network: That learns.
        running: Mode of the network in the small pass, without a trace, and autocast.
    """

    def __init__(
        self, settings: PruneSettings, network: Segmenter, running: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        self._settings, self._network, self._running = settings, network, running
        self._shares: dict[str, float] = {}
        self._steps = 0
        self._shared = SharedInputs()

    @contextmanager
    def around(self) -> Iterator[None]:
        """Around a forward pass that a step learns from."""
        with _Layers(self._names(), self._pruned, signs=True):
            yield
        self._shared.clear()

    @property
    def due(self) -> bool:
        """Whether `look` comes before the next step."""
        return self._settings.rule == "surgeon" and self._steps % self._settings.every == 0

    def stepped(self) -> None:
        """A step begins."""
        self._steps += 1

    def look(self, frames: Tensor) -> None:
        """Finds how much each layer matters, from the entropy of the middle of the frame.

        Args:
            frames: ``(1, 3, H, W)`` float32 RGB in [0, 1].
        """
        width = int(frames.shape[-1])
        part = min(width, max(1, round(self._settings.crop * width)))
        left = (width - part) // 2
        weights = {name: p for name, p in self._network.named_parameters() if p.requires_grad}
        sizes: dict[str, int] = {}

        def note(name: str, _: Any, call: Call, run: Callable[[], Any]) -> Any:
            sizes[name] = int(_input(call).numel())
            return run()

        with _Layers(self._names(), note), self._running():
            loss = pixel_entropy(self._network(frames[..., left : left + part]).logits).mean()
        layers = [name for name in weights if name in sizes]
        gradients = torch.autograd.grad(loss, [weights[name] for name in layers], allow_unused=True)
        norms = [0.0 if g is None else float(g.float().norm()) / math.sqrt(g.numel()) for g in gradients]
        found = shares(norms, [sizes[name] for name in layers], self._settings.keep)
        self._shares = dict(zip(layers, found, strict=True))

    def _names(self) -> dict[int, str]:
        return {id(p): name for name, p in self._network.named_parameters() if p.requires_grad}

    def _pruned(self, name: str, func: Any, call: Call, run: Callable[[], Any]) -> Any:
        share = self._shares.get(name, self._settings.keep)
        x, (args, kwargs) = _input(call), call
        weight = args[_WEIGHTS[func]] if len(args) > _WEIGHTS[func] else kwargs["weight"]
        # What is saved of a call is told apart by its size: the input, perhaps cast or flattened, and the weights.
        if share >= 1.0 or x.numel() == weight.numel():
            return run()
        count, measure, shared = x.numel(), _measure(func, call), self._shared

        def pack(tensor: Tensor) -> Tensor | SparseTensor:
            if tensor.numel() != count:
                return tensor
            return shared.keep(tensor, share) if measure is None else SparseTensor(tensor, share, *measure(tensor))

        with torch.autograd.graph.saved_tensors_hooks(pack, _unpack):
            return run()

    def forget(self) -> None:
        """Nothing is known of the layers."""
        self._shares, self._steps = {}, 0

    def state_dict(self) -> dict[str, Any]:
        """Shares by the name of the weights, and steps taken."""
        return {"shares": dict(self._shares), "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self._shares, self._steps = dict(state["shares"]), int(state["steps"])


def _input(call: Call) -> Tensor:
    args, kwargs = call
    x: Tensor = args[0] if args else kwargs["input"]
    return x


def _unpack(kept: Any) -> Tensor:
    return kept.dense() if isinstance(kept, SparseTensor | Signs) else kept


def _measure(func: Any, call: Call) -> Callable[[Tensor], tuple[Tensor, Tensor]] | None:
    """Mean and scale that a norm measures its input by; None for other layers."""
    args, kwargs = call
    if func is F.layer_norm:
        shape = args[1] if len(args) > 1 else kwargs["normalized_shape"]
        dims = list(range(-len(shape), 0))
        return lambda x: _moments(x, dims)
    if func is F.batch_norm:
        mean, var = (args[i] if len(args) > i else kwargs.get(k) for i, k in ((1, "running_mean"), (2, "running_var")))
        training = args[5] if len(args) > 5 else kwargs.get("training", False)
        if training or mean is None or var is None:
            return lambda x: _moments(x, [0, *range(2, x.dim())])
        shape, scale = [1, -1] + [1] * (_input(call).dim() - 2), var.rsqrt()
        own = mean.clone().view(shape), scale.view(shape)
        return lambda _: own
    return None


def _moments(x: Tensor, dims: list[int]) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(x, dim=dims, correction=0, keepdim=True)
    return mean, (var + torch.finfo(var.dtype).eps).rsqrt()
