"""Which weights of a saved method answer frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from online_uda.adaptation.settings import MethodSettings


def deployed_weights(settings: MethodSettings, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Parameters and buffers that predict, from a `Recipe.state_dict`; empty where they are the source network's."""
    if settings.deploy == "teacher" and state["teacher"] is not None:
        return dict(state["teacher"]["module"])
    return dict(state["student"])
