"""Inputs of convolutions that do not learn: a backward pass asks for their shape alone, so no more is kept.

Torch saves the input of every convolution that a gradient passes through, for the gradient of its weights. Where these
are frozen, as with scope norm, that input is dead weight. Where no convolution learns, nobody asks for the values of a
ReLU's result either: its own backward pass wants to know where they are above 0.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from online_uda.adaptation.activations.sparse import Signs


class _Hollow:
    """Everything about a tensor but its values."""

    def __init__(self, tensor: Tensor) -> None:
        self._shape, self._strides, self._offset = tensor.shape, tensor.stride(), tensor.storage_offset()
        self._dtype, self._device = tensor.dtype, tensor.device
        self._storage = weakref.ref(tensor.untyped_storage())

    def filled(self) -> Tensor:
        """A tensor like it: its own memory where another layer keeps that anyway, otherwise whatever lies in memory.

        The strides choose the same kernel as the tensor itself.
        """
        storage = self._storage()
        if storage is None:
            return torch.empty_strided(self._shape, self._strides, dtype=self._dtype, device=self._device)
        empty = torch.empty(0, dtype=self._dtype, device=self._device)
        return empty.set_(storage, self._offset, self._shape, self._strides)


class _ReLU(torch.autograd.Function):
    """A ReLU that keeps a bit a value: where it let something through.

    A function of its own rather than a hook on what torch saves: that would be unpacked to its full size again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, inplace: bool) -> Tensor:
        result = x.relu_() if inplace else x.relu()
        if inplace:
            ctx.mark_dirty(x)
        ctx.signs = Signs(result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # In the layout of the gradient, as torch's own: the kernels before it add up in the same order.
        return gradients[0].clone().masked_fill_(ctx.signs.above().logical_not_(), 0.0), None


class FrozenConvolutions(TorchFunctionMode):
    """Around a forward pass: convolutions with frozen weights keep no input; gradients stay the same bit for bit.

    Args:
        signs: Whether a ReLU keeps where its result is above 0, and not the result. It saves nothing where a layer
            that learns keeps that anyway.
    """

    def __init__(self, signs: bool = False) -> None:
        super().__init__()
        self._signs = signs

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.relu and self._signs and torch.is_grad_enabled():
            return _relu(*args, **kwargs)
        if func is not torch.conv2d or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        x, weight = (args[i] if len(args) > i else kwargs[key] for i, key in enumerate(("input", "weight")))
        # Autocast saves copies of both, which only their shapes tell apart.
        if weight.requires_grad or x.shape == weight.shape:
            return func(*args, **kwargs)

        shape = x.shape  # the hooks live as long as the graph, and must not hold on to the input themselves

        def pack(tensor: Tensor) -> Tensor | _Hollow:
            return _Hollow(tensor) if tensor.shape == shape else tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            return func(*args, **kwargs)


def unpack(kept: Any) -> Tensor:
    """What a backward pass gets for what was kept."""
    return kept.filled() if isinstance(kept, _Hollow) else kept


def _relu(input: Tensor, inplace: bool = False) -> Tensor:
    made: Tensor = _ReLU.apply(input, inplace)
    return made


def lean(network: nn.Module) -> AbstractContextManager[Any]:
    """What a forward pass of the network runs in so that it keeps no more than the scope of the moment needs."""
    learning = [part.weight.requires_grad for part in network.modules() if isinstance(part, nn.Conv2d)]
    return nullcontext() if all(learning) else FrozenConvolutions(signs=not any(learning))
