"""Which weights of a saved method answer frames, and what frames go through before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from online_uda.adaptation.settings import AdapterSettings, MethodSettings
from online_uda.networks.adapters import AdapterConfig, folded
from online_uda.networks.alignment import InputAlignment


def deployed_weights(settings: MethodSettings, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Parameters and buffers that predict, from a `Recipe.state_dict`; empty where they are the source network's.

    Adapters are folded into the weights they serve.

    Raises:
        UserError: The adapters are of a kind that does not fold.
    """
    if settings.deploy == "teacher" and state["teacher"] is not None:
        return dict(state["teacher"]["module"])
    if settings.adapters is not None:
        return folded(state["student"], adapter_config(settings.adapters))
    return dict(state["student"])


def deployed_alignment(state: Mapping[str, Any]) -> InputAlignment | None:
    """What frames go through before those weights, from a `Recipe.state_dict`; None where nothing is done to them."""
    look = state.get("look")
    return None if look is None or look["file"] is None else InputAlignment.from_dict(look["file"])


def adapter_config(slot: AdapterSettings) -> AdapterConfig:
    """The slot as the networks' side takes it."""
    return AdapterConfig(**slot.model_dump())
