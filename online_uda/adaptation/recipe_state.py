"""The state of a recipe as one value: what later frames depend on, saved part by part and restored bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from online_uda.errors import UserError
from online_uda.networks.segmenter import Segmenter


class Part(Protocol):
    """Something with a state."""

    def state_dict(self) -> dict[str, Any] | None:
        """What to save."""
        ...


def saved_state(
    student: Segmenter, parts: Mapping[str, Part | None], generator: torch.Generator, *, shared: bool
) -> dict[str, Any]:
    """Everything that later frames depend on, copied; the source network and the replay images are rebuilt.

    Args:
        student: The network that learns, its light head left out.
        parts: What else has a state, by its name in the saved one; None where the method has no such part.
        generator: Of the recipe.
        shared: Whether the student is the source network, of which nothing is saved.
    """
    weights = {name: tensor for name, tensor in student.state_dict().items() if not name.startswith("light_head.")}
    state: dict[str, Any] = {"student": {} if shared else weights, "generator": generator.get_state()}
    state.update({name: None if part is None else part.state_dict() for name, part in parts.items()})
    return copy.deepcopy(state)


def restore_state(
    state: Mapping[str, Any], student: Segmenter, parts: Mapping[str, Any], generator: torch.Generator
) -> None:
    """Restores `saved_state` bit for bit.

    Raises:
        UserError: If the state is of another network or of other source images.
    """
    if state["student"]:
        result = student.load_state_dict(state["student"], strict=False)
        strange = [n for n in (*result.missing_keys, *result.unexpected_keys) if not n.startswith("light_head.")]
        if strange:
            raise UserError(f"the saved state is of another network; {strange[0]} does not fit")
    for name, part in parts.items():
        if part is not None:
            # A copy, because an optimiser keeps the tensors it is given.
            part.load_state_dict(copy.deepcopy(state[name]))
    generator.set_state(state["generator"].cpu())
