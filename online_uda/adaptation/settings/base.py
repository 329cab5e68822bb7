"""What every slot shares: a model that refuses what it does not know, and the ranges of numbers."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from streams.yaml_config import ConfigModel

Share = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveShare = Annotated[float, Field(gt=0.0, le=1.0)]
BelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Cells = Annotated[int, Field(ge=1, le=32)]
Pattern = Annotated[str, Field(min_length=1)]


class SlotModel(ConfigModel):
    """Base of the slots: no number may be infinite or NaN."""

    model_config = ConfigDict(allow_inf_nan=False)
