"""What keeps bad frames and bad weights out."""

from __future__ import annotations

from pydantic import Field

from online_uda.adaptation.settings.base import NotNegative, Share, SlotModel


class GuardSettings(SlotModel):
    """Guards: bad frames are not learned from, bad weights do not predict (`online_uda.adaptation.guards`).

    A frame that shows nothing is answered by the source network, and the method never sees it.

    Every ``every``-th step is scored on ``canary`` labelled source images in the look of the stream (0: none), and if
    it looks worse there than the source network, on up to ``canary_most`` of them. It fails
    more than ``margin`` points of mIoU below the source network, or where its agreement with the source network is
    lower on the stream than on the canary by more than ``disagreement``. A prediction with less than ``collapse``
    classes in effect has collapsed. A failure multiplies the learning rate by ``rate_factor``. From then on each
    step is scored, until ``every`` candidates have been as good as the source network.
    After ``patience`` failures the source network predicts for ``rest`` frames, twice as many the next time.
    """

    every: int = Field(default=16, ge=1)
    canary: int = Field(default=3, ge=0, le=64)
    canary_most: int = Field(default=12, ge=1, le=64)
    margin: NotNegative = 2.0
    disagreement: Share = 0.3
    collapse: float = Field(default=1.2, ge=1.0)
    rate_factor: float = Field(default=0.5, gt=0.0, lt=1.0)
    patience: int = Field(default=3, ge=1)
    rest: int = Field(default=100, ge=1)
