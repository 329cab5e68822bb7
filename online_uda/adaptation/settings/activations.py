"""What a step's graph keeps for its backward pass."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from online_uda.adaptation.settings.base import SlotModel


class RecomputeSettings(SlotModel):
    """Blocks keep their input alone and run again in the backward pass; the gradients are the same."""

    kind: Literal["recompute"]


Activations = Annotated[RecomputeSettings, Field(discriminator="kind")]
