"""A tensor of which the largest values are kept: one bit a value for where they are, and the values themselves."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor

_BITS = 8
_GATHER = sum(1 << (56 - 7 * i) for i in range(_BITS))
_REPEAT = sum(1 << 8 * i for i in range(_BITS))
_OWN_BIT = sum(1 << 9 * i for i in range(_BITS)) - (1 << 64)
"""Bit i of byte i, as int64."""


class SparseTensor:
    """What is left of a tensor; all other values are those of a base that it is measured from.

    Args:
        tensor: Of any shape, floating point.
        share: Of the values to keep, in (0, 1); values as near to the base as the first one dropped are dropped too.
        base: Broadcasts against the tensor; None is 0.
        scale: Distances to the base are multiplied with it before they are compared; None is 1.
    """

    def __init__(self, tensor: Tensor, share: float, base: Tensor | None = None, scale: Tensor | None = None) -> None:
        self._layout = _Layout(tensor)
        self._base = None if base is None else base.to(tensor.dtype)
        # One temporary of the tensor's size: this runs where the graph is largest.
        distance = tensor.abs() if self._base is None else (tensor - self._base).abs_()
        if scale is not None:
            distance.mul_(scale)
        distance = self._layout.flat(distance).float()  # kthvalue knows no bfloat16 on some devices
        dropped = distance.numel() - max(1, round(share * distance.numel()))
        above = distance > distance.kthvalue(dropped).values if dropped else torch.ones_like(distance, dtype=torch.bool)
        del distance
        self._values = self._layout.flat(tensor)[above]
        self._where = packed(above)

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        held = [self._values, self._where] + ([] if self._base is None else [self._base])
        return sum(part.untyped_storage().nbytes() for part in held)

    def dense(self) -> Tensor:
        """The tensor again, in its own memory order, with the base where values were dropped."""
        whole = self._layout.empty(self._values)
        if self._base is None:
            whole.zero_()
        else:
            whole.copy_(self._base)
        flat = self._layout.flat(whole)
        flat.masked_scatter_(unpacked(self._where, flat.numel()), self._values)
        return whole


class _Layout:
    """Shape of a tensor, and its dimensions in the order in which memory has them."""

    def __init__(self, tensor: Tensor) -> None:
        self._shape, self.count = tensor.shape, tensor.numel()
        strides = tensor.stride()
        self._order = sorted(range(tensor.dim()), key=lambda dim: -strides[dim])

    def flat(self, tensor: Tensor) -> Tensor:
        """All values in memory order; a view where nothing lies between them."""
        return tensor.permute(self._order).reshape(-1)

    def empty(self, like: Tensor) -> Tensor:
        """A tensor of this layout, on the device and of the type of another one, without gaps."""
        return self.filled(torch.empty(self.count, dtype=like.dtype, device=like.device))

    def filled(self, flat: Tensor) -> Tensor:
        """A view of ``flat``, all values in memory order, in this layout."""
        made = flat.view([self._shape[dim] for dim in self._order])
        return made.permute([self._order.index(dim) for dim in range(len(self._order))])


class Signs:
    """Where a tensor is above 0, one bit a value: all that the backward pass of a ReLU asks of its result.

    Args:
        tensor: Of any shape, floating point.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._layout, self._dtype = _Layout(tensor), tensor.dtype
        self._where = packed(self._layout.flat(tensor) > 0)

    def dense(self) -> Tensor:
        """1 where the tensor was above 0, and 0 elsewhere, in its memory order."""
        return self.above().to(self._dtype)

    def above(self) -> Tensor:
        """Where the tensor was above 0, as bool, in its memory order."""
        return self._layout.filled(unpacked(self._where, self._layout.count))


class SharedInputs:
    """What is left of inputs that several layers read, kept once, as long as any of them keeps it."""

    def __init__(self) -> None:
        self._left: weakref.WeakValueDictionary[tuple[object, ...], SparseTensor] = weakref.WeakValueDictionary()
        self._of: dict[tuple[object, ...], tuple[weakref.ref[torch.UntypedStorage], float]] = {}

    def keep(self, tensor: Tensor, share: float) -> SparseTensor:
        """At least ``share`` of ``tensor``: what another layer keeps of it if that is enough."""
        storage = tensor.untyped_storage()
        key = (tensor.data_ptr(), tensor._version, tensor.shape, tensor.stride(), tensor.dtype)
        found, (alive, kept) = self._left.get(key), self._of.get(key, (lambda: None, 0.0))
        # Memory may be given to another tensor once its owner is gone.
        if found is not None and alive() is storage and kept >= share:
            return found
        left = SparseTensor(tensor, share)
        self._left[key], self._of[key] = left, (weakref.ref(storage), share)
        return left

    def clear(self) -> None:
        """A pass is over."""
        self._left.clear()
        self._of.clear()


def packed(mask: Tensor) -> Tensor:
    """A flat bool mask as bytes, ``ceil(n / 8)`` uint8; the first value is the lowest bit of the first byte."""
    padded = mask if mask.numel() % _BITS == 0 else torch.nn.functional.pad(mask, (0, -mask.numel() % _BITS))
    # Eight bytes of 0 or 1 at a time: the product has byte i in bit 56 + i, and no two of its terms meet in a bit.
    words = padded.contiguous().view(torch.uint8).view(torch.int64)
    return ((words * _GATHER) >> (64 - _BITS)).bitwise_and_(0xFF).to(torch.uint8)


def unpacked(bits: Tensor, count: int) -> Tensor:
    """The first ``count`` values of a mask that `packed` has made."""
    words = (bits.to(torch.int64) * _REPEAT).bitwise_and_(_OWN_BIT)
    return (words.view(torch.uint8) != 0)[:count]
