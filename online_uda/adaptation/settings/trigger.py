"""When a method learns."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from online_uda.adaptation.settings.base import Positive, PositiveShare, Share, SlotModel


class AlwaysTrigger(SlotModel):
    """Learn on every ``every``-th frame."""

    kind: Literal["always"] = "always"
    every: int = Field(default=1, ge=1)


class DriftTrigger(SlotModel):
    """Learn while the stream is far from the source domain; calibrates itself on the replay buffer.

    ``scale`` is the side of the frame that the detector looks at, as a share of the full one. Of the far frames, every
    ``every``-th is learned from; all are watched.
    """

    kind: Literal["drift"]
    scale: PositiveShare = 0.5
    every: int = Field(default=1, ge=1, le=1000)


class HamletTrigger(SlotModel):
    """HAMLET's detector, training budget and learning-rate modulation (specs/hamlet.md 2.3, 2.5)."""

    kind: Literal["hamlet"]
    window: int = Field(default=75, ge=1)
    up: Positive = 0.23
    down: Annotated[float, Field(lt=0.0)] = -0.23
    near_value: float = 0.80
    far_value: float = 2.55
    base_frames: int = Field(default=750, ge=1)
    max_frames: int = Field(default=4450, ge=1)
    return_factor: tuple[Share, Share] = (0.25, 0.75)
    learning_rate: tuple[Positive, Positive] = (1.5e-5, 6e-5)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.near_value >= self.far_value:
            raise ValueError(f"near_value {self.near_value:g} must be below far_value {self.far_value:g}")
        return self


class StrideTrigger(SlotModel):
    """JITNet's: between ``smallest`` and ``largest`` frames apart, further while the student keeps up."""

    kind: Literal["stride"]
    smallest: int = Field(default=8, ge=1)
    largest: int = Field(default=64, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.smallest > self.largest:
            raise ValueError(f"smallest {self.smallest} must not exceed largest {self.largest}")
        return self


Trigger = Annotated[AlwaysTrigger | DriftTrigger | HamletTrigger | StrideTrigger, Field(discriminator="kind")]
