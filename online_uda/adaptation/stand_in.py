"""Other values for parameters, for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor


@contextmanager
def standing_in(values: Sequence[Tensor], parameters: Sequence[Tensor]) -> Iterator[None]:
    """Inside, ``parameters`` hold the memory of ``values``; afterwards their own again, to the bit.

    Args:
        values: One for every parameter, of its shape.
        parameters: Tensors change places instead of values: who shares their memory never sees the others.
    """
    own = [parameter.data for parameter in parameters]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.data = value
    try:
        yield
    finally:
        for parameter, value in zip(parameters, own, strict=True):
            parameter.data = value
