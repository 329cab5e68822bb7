"""What a candidate is worth: its gain over the frozen network in harmonic mean, less what it harms.

    value = H(adapted) - H(frozen) - harm * max(0, largest fall below frozen of any visit)

H is the harmonic mean of mIoU over all visits of all streams, in percent (specs/protocols.md 3). The frozen network is
worth 0. With ``harm`` 1 a point lost in the worst visit costs as much as a point of harmonic mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from online_uda.evaluation.domain_metrics import harmonic_mean


@dataclass(frozen=True, slots=True)
class VisitGain:
    """mIoU of a domain visit in percent, adapted and frozen."""

    stream: str
    domain: str
    miou: float
    miou_frozen: float

    @property
    def gain(self) -> float:
        """Points above frozen."""
        return self.miou - self.miou_frozen


@dataclass(frozen=True, slots=True)
class Score:
    """What a candidate did on some visits.

    Attributes:
        value: See the module's docstring.
        hmean: Harmonic mean over the visits, in percent.
        hmean_frozen: The same of the frozen network.
        worst_gain: Smallest gain of a visit.
        visits: The visits.
    """

    value: float
    hmean: float
    hmean_frozen: float
    worst_gain: float
    visits: tuple[VisitGain, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        visits = [
            {"stream": v.stream, "domain": v.domain, "miou": v.miou, "miou_frozen": v.miou_frozen} for v in self.visits
        ]
        return {
            "value": self.value, "hmean": self.hmean, "hmean_frozen": self.hmean_frozen,
            "worst_gain": self.worst_gain, "visits": visits,
        }  # fmt: skip

    @classmethod
    def of(cls, visits: Sequence[VisitGain], harm: float) -> Score:
        """The score of visits; ``harm`` weighs the largest fall below frozen.

        Raises:
            ValueError: There is no visit.
        """
        adapted = harmonic_mean(visit.miou for visit in visits)
        frozen = harmonic_mean(visit.miou_frozen for visit in visits)
        if adapted is None or frozen is None:
            raise ValueError("a score needs visits")
        worst = min(visit.gain for visit in visits)
        return cls(adapted - frozen - harm * max(0.0, -worst), adapted, frozen, worst, tuple(visits))
