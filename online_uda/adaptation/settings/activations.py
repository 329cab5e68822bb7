"""What a step's graph keeps for its backward pass."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from online_uda.adaptation.settings.base import PositiveShare, SlotModel
from streams.yaml_config import KeyedError


class RecomputeSettings(SlotModel):
    """Blocks keep their input alone and run again in the backward pass; the gradients are the same."""

    kind: Literal["recompute"]


class PruneSettings(SlotModel):
    """Inputs of learning layers are kept in part (SURGEON): see `online_uda.adaptation.activations.prune`.

    ``surgeon`` keeps ``keep`` of the layer that matters most and less of the others, by a look at ``crop`` of the
    frame's width before every ``every``-th step; ``even`` keeps ``keep`` of all.
    """

    kind: Literal["prune"]
    rule: Literal["surgeon", "even"] = "surgeon"
    keep: PositiveShare = 1.0
    every: int = Field(default=1, ge=1)
    crop: PositiveShare = 0.25

    @model_validator(mode="after")
    def _keys_of_the_rule(self) -> Self:
        for key in ("every", "crop"):
            if self.rule != "surgeon" and getattr(self, key) != type(self).model_fields[key].default:
                raise KeyedError(f"belongs to rule surgeon, not to {self.rule}; drop it", key)
        return self


Activations = Annotated[RecomputeSettings | PruneSettings, Field(discriminator="kind")]
