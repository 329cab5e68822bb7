"""Objectives that bring source and stream together in feature space, and what keeps features fit for both."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from online_uda.adaptation.settings.base import NotNegative, Positive, Share, SlotModel
from streams.yaml_config import KeyedError

Stage = Annotated[int, Field(ge=1, le=8)]


class AdversarialSettings(SlotModel):
    """A discriminator tells replayed source images from the stream; a reversed gradient makes it fail (DANN).

    It ``sees`` the last map pooled (``image``), its cells one by one through a linear layer (``pixel``) or a shared MLP
    (``patch``), the class probabilities (``output``), their self-information (``entropy``, AdvEnt), or the map of every
    stage, pooled (``multi``). ``weight`` is a factor on the loss, and so on what discriminator and segmenter learn;
    ``reversal`` one on what reaches the segmenter alone: it rises to that over ``ramp`` steps since the last change of
    domain. A negative one lets the segmenter help the discriminator. ``phase`` trains both, the discriminator alone,
    beside which no objective acts, or the segmenter alone.
    """

    weight: NotNegative = 1.0
    reversal: float = 0.1
    ramp: int = Field(default=100, ge=0)
    sees: Literal["image", "pixel", "patch", "output", "entropy", "multi"] = "image"
    phase: Literal["both", "disc_only", "seg_only"] = "both"
    loss: Literal["cross_entropy", "least_squares"] = "cross_entropy"
    width: int = Field(default=32, ge=1, le=1024)
    learning_rate: Positive = 1e-4


class DiscrepancySettings(SlotModel):
    """MMD between up to ``cells`` feature cells of stage ``stage`` (None: the last) of source and stream."""

    weight: NotNegative = 0.005
    stage: Stage | None = None
    cells: int = Field(default=256, ge=2, le=4096)


class WhiteningSettings(SlotModel):
    """Channel covariances of replayed images that are pulled to zero (RobustNet), on the maps of ``stages``.

    ``iw`` takes all pairs of channels, ``irw`` all but a ``margin`` of their mean, ``isw`` those that recolouring moves
    most: above the lowest of ``clusters`` clusters in each of ``trials`` trials over ``frames`` source images.
    """

    weight: NotNegative = 0.6
    kind: Literal["iw", "irw", "isw"] = "isw"
    stages: tuple[Stage, ...] = (1, 2)
    margin: NotNegative = 0.1
    frames: int = Field(default=16, ge=1)
    trials: int = Field(default=2, ge=1)
    clusters: int = Field(default=3, ge=2, le=20)
    jitter_strength: Share = 0.5

    @model_validator(mode="after")
    def _keys_of_the_kind(self) -> Self:
        of_kind = {"margin": "irw", "frames": "isw", "trials": "isw", "clusters": "isw", "jitter_strength": "isw"}
        for key, kind in of_kind.items():
            if kind != self.kind and getattr(self, key) != type(self).model_fields[key].default:
                raise KeyedError(f"belongs to kind {kind}, not to {self.kind}; drop it", key)
        if not self.stages:
            raise KeyedError("is empty; name at least one stage, such as [1]", "stages")
        return self


class ContrastSettings(SlotModel):
    """Pixel contrast on the last map of the replayed images, of the mixtures, or of both (CLUDA).

    A cell has the class that fills more than ``min_share`` of it; ``exclude`` are names of classes left out.
    """

    weight: NotNegative = 0.1
    of: Literal["replay", "mixed", "both"] = "replay"
    temperature: Positive = 1.0
    min_share: Annotated[float, Field(ge=0.5, lt=1.0)] = 0.5
    exclude: tuple[str, ...] = ()
