"""Which weights of a saved method answer frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from online_uda.adaptation.settings import AdapterSettings, MethodSettings
from online_uda.networks.adapters import AdapterConfig, folded


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


def adapter_config(slot: AdapterSettings) -> AdapterConfig:
    """The slot as the networks' side takes it."""
    return AdapterConfig(**slot.model_dump())
