"""Objectives of the second wave: a memory of frames, the stream's look class by class, and a tie to the source."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from online_uda.adaptation.settings.base import NotNegative, PositiveShare, Share, SlotModel


class RememberedSettings(SlotModel):
    """RoTTA: the teacher's labels on up to ``frames`` frames that a memory holds, recoloured for the student."""

    weight: NotNegative = 1.0
    frames: int = Field(default=16, ge=1, le=256)
    jitter_strength: Share = 0.4
    blur_probability: Share = 0.5


class TransferSettings(SlotModel):
    """GTTA: source images in the look that each class has in the stream, and the frame's sure pixels.

    Sure are pixels above the root of the mean confidence, which follows by ``rate``, as the looks do; a frame changes
    the look of classes of which ``min_pixels`` pixels are sure. ``of_frame`` weighs the frame's own part.
    """

    weight: NotNegative = 1.0
    of_frame: NotNegative = 0.1
    rate: PositiveShare = 0.1
    min_pixels: int = Field(default=32, ge=1)


class NearSourceSettings(SlotModel):
    """EcoTTA: the student's maps stay near the source network's, in mean ``l1`` or squared (``l2``) distance."""

    weight: NotNegative = 0.25
    distance: Literal["l1", "l2"] = "l1"
