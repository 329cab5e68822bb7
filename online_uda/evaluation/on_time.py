"""What a stream that does not wait adds to the score: deadlines, drops, staleness (specs/protocols.md section 2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

FIELDS = (
    "deadline_miss_rate", "dropped", "adapted_ratio", "staleness", "published", "streaming_miou",
)  # fmt: skip
"""Keys of the summary that are null for a stream that waits."""


@dataclass(slots=True)
class OnTimeScore:
    """Counts of a run.

    Attributes:
        frames: Usable frames that arrived.
        dropped: Frames that were never predicted because a newer one had arrived.
        late: Frames whose mask came after its deadline.
        adapted: Frames that were learned from.
        published: Times that weights or statistics of the deployed network were renewed by learning.
        skipped: Steps that were not taken because no effort fitted.
        shortened: Steps that were taken on less than all of the images or with fewer stages.
        given_up: Steps that were begun and not finished.
        stale_frames: Sum over published steps of the frames that arrived after the learned one and were answered with
            the weights before it.
        stalest: Largest of these.
    """

    frames: int = 0
    dropped: int = 0
    late: int = 0
    adapted: int = 0
    published: int = 0
    skipped: int = 0
    shortened: int = 0
    given_up: int = 0
    stale_frames: int = 0
    stalest: int = 0

    def note_published(self, staleness: int) -> None:
        """Weights learned from a frame are in use from the frame on that comes ``staleness`` + 1 after it."""
        self.published += 1
        self.stale_frames += staleness
        self.stalest = max(self.stalest, staleness)

    def figures(self, streaming_miou: float | None) -> dict[str, Any]:
        """The summary's entries: rates as shares of the frames, staleness in frames, mIoU in percent.

        A frame that was dropped has missed its deadline as well.
        """
        frames = max(self.frames, 1)
        return {
            "deadline_miss_rate": (self.late + self.dropped) / frames,
            "dropped": self.dropped,
            "adapted_ratio": self.adapted / frames,
            "staleness": self.stale_frames / self.published if self.published else None,
            "published": self.published,
            "streaming_miou": streaming_miou,
        }

    def details(self) -> dict[str, Any]:
        """Every count, and the ratio of dropped frames."""
        counts = asdict(self)
        counts.pop("stale_frames")
        return {**counts, "dropped_ratio": self.dropped / max(self.frames, 1)}

    def state_dict(self) -> dict[str, int]:
        """The counts."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restores `state_dict`."""
        for name, value in state.items():
            setattr(self, name, int(value))
