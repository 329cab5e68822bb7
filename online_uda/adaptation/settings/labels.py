"""Slots that labels come from: the teacher, its pseudo-labels, replayed source images and mixtures of both."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from online_uda.adaptation.settings.base import BelowOne, Cells, NotNegative, Positive, PositiveShare, Share, SlotModel
from streams.yaml_config import KeyedError


class TeacherSettings(SlotModel):
    """EMA teacher (specs/hamlet.md 2.1) by a capped warm-up rate or by a half-life in frames.

    Without ``warm_up`` the rate is the cap from the first step on, and the teacher starts as the source network.
    It ``follows`` the student before each step (HAMLET), or after it and before weights are put back (CoTTA); at every
    ``every``-th step (DA-SAC: 100).
    """

    cap: BelowOne | None = None
    half_life_frames: Positive | None = None
    buffers: Literal["copy", "ema", "keep"] = "copy"
    warm_up: bool = True
    follows: Literal["before", "after"] = "before"
    every: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _one_rate(self) -> Self:
        if self.cap is not None and self.half_life_frames is not None:
            raise ValueError("give cap or half_life_frames, not both")
        return self


class StyleSettings(SlotModel):
    """Target styling of replayed source images: see `online_uda.adaptation.replay.style`.

    ``strength`` is the range that the share of the way from the source look to the stream's is drawn from, once for
    colour and once for detail.
    """

    grid: tuple[Cells, Cells] = (6, 6)
    half_life_frames: Positive = 8.0
    detail: NotNegative = 1.0
    strength: tuple[Share, Share] = (0.0, 1.0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.strength[0] > self.strength[1]:
            raise KeyedError(f"{list(self.strength)} runs backwards; give the smaller strength first", "strength")
        return self


class ReplaySettings(SlotModel):
    """Source replay buffer and how crops are drawn from it (specs/hamlet.md 2.9); ``crop`` is a share of each side."""

    frames: int = Field(default=256, ge=1)
    fill: Literal["uniform", "rare_class"] = "rare_class"
    sampling: Literal["uniform", "rare_class"] = "rare_class"
    temperature: Positive = 0.01
    crop: tuple[PositiveShare, PositiveShare] = (1.0, 1.0)
    batch: int = Field(default=1, ge=1, le=16)
    style: StyleSettings | None = None


class MixingSettings(SlotModel):
    """ClassMix with a dynamic ratio (near, far), colour jitter and blur (specs/hamlet.md 2.6).

    ``opacity`` below 1 lets what lies beneath a paste shine through and splits the label alike. ``rare`` patches of the
    ``rare_pool`` rarest classes, each from a source image of its own, are pasted over replayed images and mixtures
    (Dual Soft-Paste). ``draw`` takes the classes to paste ``evenly``, or by how ``ambiguous`` they are in the stream:
    the teacher's mean doubt where it sees them (RODASS).
    """

    ratio: tuple[Share, Share] = (0.5, 0.75)
    jitter_probability: Share = 0.8
    jitter_strength: Share = 0.2
    blur_probability: Share = 0.5
    draw: Literal["evenly", "ambiguous"] = "evenly"
    opacity: PositiveShare = 1.0
    rare: int = Field(default=0, ge=0, le=8)
    rare_pool: int = Field(default=5, ge=1)

    @model_validator(mode="after")
    def _pool_of_rare(self) -> Self:
        if self.rare == 0 and self.rare_pool != type(self).model_fields["rare_pool"].default:
            raise KeyedError("is what rare chooses from; give rare or drop it", "rare_pool")
        if self.rare > self.rare_pool:
            raise KeyedError(f"asks for more classes than the {self.rare_pool} of rare_pool", "rare")
        return self


class PseudoLabelSettings(SlotModel):
    """Teacher labels weighted by the share of confident pixels (specs/hamlet.md 2.7)."""

    confidence: PositiveShare = 0.968
    ignore_top: Share = 15 / 512
    ignore_bottom: Share = 120 / 512

    @model_validator(mode="after")
    def _rows_are_left(self) -> Self:
        if self.ignore_top + self.ignore_bottom >= 1.0:
            raise ValueError("ignore_top and ignore_bottom leave no row between them; their sum must be below 1")
        return self


def _ordered_zoom(zoom: tuple[float, float]) -> None:
    if zoom[0] > zoom[1]:
        raise KeyedError(f"{list(zoom)} runs backwards; give the smaller share first", "zoom")


class FusedSettings(SlotModel):
    """DA-SAC: ``views`` of the frame, itself and crops of ``zoom`` of each side, mirrored or not, fused by the teacher.

    A pixel has a label where the class is likelier than ``upper`` of its peak in the frame, less for classes rarer than
    ``beta``, and likelier than ``lower``. It weighs the teacher's confidence times ``(1 - share)^focal``; shares of
    classes follow by ``rate``. The student sees one of the views, recoloured.
    """

    weight: NotNegative = 5.0
    views: int = Field(default=4, ge=1, le=16)
    zoom: tuple[PositiveShare, PositiveShare] = (0.5, 1.0)
    upper: PositiveShare = 0.75
    lower: Share = 0.2
    beta: Positive = 1e-3
    rate: PositiveShare = 0.01
    focal: NotNegative = 3.0
    jitter_strength: Share = 0.4
    blur_probability: Share = 0.5

    @model_validator(mode="after")
    def _zoom_in_order(self) -> Self:
        _ordered_zoom(self.zoom)
        return self


class StrongSettings(SlotModel):
    """The student's strong view of the frame; labels are moved along.

    A crop of ``zoom`` of each side, turned by up to ``angle`` degrees, mirrored half of the time, recoloured, with a
    hole of ``cutout`` of each side.
    """

    zoom: tuple[PositiveShare, PositiveShare] = (0.6, 1.0)
    angle: Annotated[float, Field(ge=0.0, le=45.0)] = 10.0
    flip: bool = True
    jitter_strength: Share = 0.4
    blur_probability: Share = 0.5
    cutout: BelowOne = 1 / 3

    @model_validator(mode="after")
    def _zoom_in_order(self) -> Self:
        _ordered_zoom(self.zoom)
        return self
