"""Which weights of a saved method answer frames, and what frames go through before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from online_uda.adaptation.settings import AdapterSettings, MethodSettings
from online_uda.errors import UserError
from online_uda.networks.adapter_folding import folded
from online_uda.networks.adapter_layers import FOLDING, AdapterConfig
from online_uda.networks.adapters import insert_adapters
from online_uda.networks.alignment import InputAlignment
from online_uda.networks.segmenter import Segmenter


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


def deploy(settings: MethodSettings, state: Mapping[str, Any], network: Segmenter) -> None:
    """Turns the source network into the one that answers frames; adapters that do not fold are inserted.

    Args:
        settings: Of the method.
        state: Its `Recipe.state_dict`.
        network: The source network, changed in place.

    Raises:
        UserError: The state is of another network.
    """
    slot = settings.adapters
    if slot is not None and slot.kind not in FOLDING:  # which the settings allow without a teacher only
        insert_adapters(network, adapter_config(slot), seed=0)
        weights = dict(state["student"])
    else:
        weights = deployed_weights(settings, state)
    network.alignment = deployed_alignment(state)
    if not weights:
        return
    result = network.load_state_dict(weights, strict=False)
    strange = [name for name in result.missing_keys if not name.startswith("light_head.")]
    strange += result.unexpected_keys
    if strange:
        raise UserError(f"the snapshot is of another network: {strange[0]} does not fit")


def adapter_config(slot: AdapterSettings) -> AdapterConfig:
    """The slot as the networks' side takes it."""
    return AdapterConfig(**slot.model_dump())
