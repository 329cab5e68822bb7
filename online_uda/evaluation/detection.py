"""How well announced domain changes match the true ones (specs/protocols.md section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class DetectionScore:
    """Detections against true boundaries.

    Attributes:
        delays: Frames from each boundary to its detection, in the order of the boundaries; None where missed.
        false_alarms: Frames of the detections that belong to no boundary, second answers to one included.
        frames: Length of the stream.
    """

    delays: tuple[int | None, ...]
    false_alarms: tuple[int, ...]
    frames: int

    @property
    def found(self) -> int:
        """Boundaries that were detected."""
        return sum(delay is not None for delay in self.delays)

    @property
    def misses(self) -> int:
        """Boundaries that were not detected."""
        return len(self.delays) - self.found

    @property
    def median_delay(self) -> float | None:
        """Median delay of the detected boundaries in frames; None if none was."""
        delays = [delay for delay in self.delays if delay is not None]
        return float(median(delays)) if delays else None

    @property
    def false_alarms_per_1000(self) -> float | None:
        """False alarms per 1000 frames of the stream; None for an empty stream."""
        return 1000.0 * len(self.false_alarms) / self.frames if self.frames else None


def match_detections(
    boundaries: Sequence[int], detections: Sequence[int], frames: int, max_delay: int | None = None
) -> DetectionScore:
    """Assign detections to boundaries: the first one from a boundary up to the next boundary answers it.

    Args:
        boundaries: Frame index of the first frame of each new domain.
        detections: Frame indices at which a change was announced, in any order.
        frames: Frames in the stream.
        max_delay: A detection more frames late than this counts as a false alarm and its boundary as missed.

    >>> match_detections([60, 120], [65, 70, 30], frames=180)
    DetectionScore(delays=(5, None), false_alarms=(30, 70), frames=180)
    """
    starts = sorted(boundaries)
    delays: list[int | None] = [None] * len(starts)
    false_alarms: list[int] = []
    segment = -1
    for frame in sorted(detections):
        while segment + 1 < len(starts) and starts[segment + 1] <= frame:
            segment += 1
        answers = segment >= 0 and delays[segment] is None
        if answers and (max_delay is None or frame - starts[segment] <= max_delay):
            delays[segment] = frame - starts[segment]
        else:
            false_alarms.append(frame)
    return DetectionScore(tuple(delays), tuple(false_alarms), frames)
