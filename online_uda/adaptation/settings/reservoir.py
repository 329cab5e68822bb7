"""The wrapper that keeps a model for every look of the stream."""

from __future__ import annotations

from pydantic import Field

from online_uda.adaptation.settings.base import Positive, Share, SlotModel


class ReservoirSettings(SlotModel):
    """Up to ``models`` states, one a style: see `online_uda.adaptation.reservoir`.

    A style farther from all centres than ``slack`` times the ``quantile`` of the distances of ``frames`` source images
    to theirs is new. Styles are means over about ``window`` frames; centres follow them by ``rate``.
    """

    models: int = Field(default=16, ge=1, le=64)
    quantile: Share = 0.999
    slack: Positive = 1.0
    frames: int = Field(default=32, ge=2)
    window: int = Field(default=5, ge=1)
    rate: Share = 0.01
