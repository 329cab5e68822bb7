"""What a stranger's module returns: where the logits are in it, and what a part of an encoder passes on."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from online_uda.errors import UserError


def logits_of(output: Any, what: str) -> Tensor:
    """The logits in what a network returns: a tensor, ``out`` or ``logits`` of a dictionary, or a tuple's only map.

    Raises:
        UserError: Nothing of the kind, or more than one candidate.
    """
    if hasattr(output, "to_tuple") and hasattr(output, "keys"):
        output = dict(output)
    if isinstance(output, dict):
        found = [output[key] for key in ("logits", "out") if isinstance(output.get(key), Tensor)]
        if not found:
            keys = ", ".join(map(str, output))[:80] or "nothing"
            raise UserError(f"{what}: returned a dictionary of {keys}; expected 'logits'")
        output = found[0]
    if isinstance(output, tuple | list):
        maps = [part for part in output if isinstance(part, Tensor) and part.dim() == 4]
        if len(maps) != 1:
            raise UserError(
                f"{what}: returned a {type(output).__name__} with {len(maps)} maps; return the logits alone"
            )
        output = maps[0]
    if not isinstance(output, Tensor):
        raise UserError(f"{what}: returned {type(output).__name__}; expected logits (B, C, h, w)")
    if output.dim() != 4 or output.shape[1] < 2 or min(output.shape[-2:]) < 2:
        raise UserError(
            f"{what}: returned a tensor {tuple(output.shape)}; expected logits (B, C, h, w) with 2 classes or more"
        )
    if not output.is_floating_point():
        raise UserError(f"{what}: returned {output.dtype}; expected logits in floating point, before any argmax")
    return output


def first_of(output: Any) -> Any:
    """What a module of an encoder passes on: its output, or the first of several that are not maps of their own."""
    several = isinstance(output, tuple | list) and len(output) > 0
    if several and sum(isinstance(part, Tensor) and part.dim() >= 3 for part in output) == 1:
        return output[0]
    return output
