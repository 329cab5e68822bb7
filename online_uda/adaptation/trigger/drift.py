"""The default detector of domain shift: is the stream far from the source domain, and has its domain just changed?

It reads early features of the frozen source network, needs no label and no constant that belongs to a network or a data
set, and answers within frames, so that visits of tens of frames are long enough (specs/hamlet.md section 7, S3).

While the stream is near the source, only leaving it counts as a change: a cumulative sum (Page, "Continuous inspection
schemes", Biometrika 1954) of the log distance beyond the limit, which leaves at once for a storm and takes its time
over a lorry that fills the view. Far from the source, a change is a step of the log distance, tested with a window of
recent frames against the frames since the last change, or a step of the signature from one few frames to the next
(`SignatureStep`). A domain's effect on the features varies with the scene in proportion to its strength, hence the
logarithm; how much it varies is calibrated on corrupted source images and corrected on the stream.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from online_uda.adaptation.replay.buffer import ReplayBuffer
from online_uda.adaptation.trigger.signature_step import SignatureStep
from online_uda.adaptation.trigger.source_distance import SourceDistance
from online_uda.adaptation.trigger.source_statistics import SourceSample, sample_source, stage_statistics
from online_uda.errors import UserError
from online_uda.networks.segmenter import Segmenter

__all__ = ["DriftDetector", "DriftReport", "calibrate_from_buffer", "stage_statistics"]

_PRIOR_FRAMES = 40.0
"""Frames of the stream that weigh as much as the calibration in the noise level."""
_MEMORY_FRAMES = 100.0
_CLIP = 0.3
"""Most that one frame adds to the evidence for leaving or returning, so that a lone odd frame decides nothing."""
_LEAST_NOISE = 0.5
"""The noise level never falls below this share of the calibrated one: a car that waits is not a quiet domain."""


@dataclass(frozen=True, slots=True)
class DriftReport:
    """What the detector says of one frame.

    Attributes:
        distance: Median distance from the source over the last frames; 1 is the limit of the source domain.
        far: Whether the stream has left the source domain; it stays far until it is clearly back.
        detected: Whether a change of domain was found at this frame; told once.
        confirmed: Whether the distance shows a change at this frame. A turn alone is told, but moves no weights: inside
            a domain, where the trigger sees one now and then, that costs more than it wins at a true one.
        strength: How far beyond the limit, from 0 at the limit to 1 at twice the limit.
        nearer: Whether the confirmed change leads back towards the source.
    """

    distance: float
    far: bool
    detected: bool
    confirmed: bool
    strength: float
    nearer: bool = False


class DriftDetector:
    """Tells near from far, and announces changes of domain.

    A stream that starts far from the source is announced as a change, as it is one from the source domain.

    Args:
        window: Frames whose mean is tested for a step. A change is announced once: for a window after it, no other is.
        reference_frames: Length of the memory of the current domain.
        step: Smallest step of the log distance that is a change, in noise levels. Smaller finds gentler steps between
            far domains, and announces more that are none; when to learn does not depend on it.
        turn_quantile: Share of the signature's differences inside a far domain that must not count as a change.
        turn_window: Frames on each side of such a step.
        leave_evidence: Sum of the log distance beyond the limit at which the stream has left the source.
        return_evidence: Sum of the log distance below the nearer limit at which it is back.
        far_quantile: Share of unseen source frames that must lie nearer than the limit; the false-alarm setting.
        near_quantile: Share of unseen source frames that must lie nearer than the limit for being back.

    Raises:
        UserError: If a setting is out of range.
    """

    def __init__(
        self,
        *,
        window: int = 5,
        reference_frames: int = 20,
        step: float = 2.0,
        turn_quantile: float = 0.9997,
        turn_window: int = 3,
        leave_evidence: float = 1.5,
        return_evidence: float = 0.5,
        far_quantile: float = 0.975,
        near_quantile: float = 0.9,
    ) -> None:
        if window < 1 or reference_frames < window:
            raise UserError(
                f"drift detector: window must be at least 1 and reference_frames at least the window, got {window} and "
                f"{reference_frames}"
            )
        if turn_window < 1 or not 0.0 < turn_quantile < 1.0:
            raise UserError(
                f"drift detector: needs turn_window >= 1 and 0 < turn_quantile < 1, got {turn_window}, {turn_quantile}"
            )
        if not 0.0 < near_quantile <= far_quantile < 1.0:
            raise UserError(
                f"drift detector: needs 0 < near_quantile <= far_quantile < 1, got {near_quantile}, {far_quantile}"
            )
        if not (step > 0.0 and leave_evidence > 0.0 and return_evidence > 0.0):
            raise UserError(
                "drift detector: step, leave_evidence and return_evidence must be positive, got "
                f"{step}, {leave_evidence}, {return_evidence}"
            )
        self.window = window
        self.reference_frames = reference_frames
        self.step = step
        self.leave_evidence = leave_evidence
        self.return_evidence = return_evidence
        self.far_quantile = far_quantile
        self.near_quantile = near_quantile
        self.source: SourceDistance | None = None
        self._turn = SignatureStep(turn_window, turn_quantile)
        self.reset()

    def reset(self) -> None:
        """Forget the stream; the calibration stays."""
        self._far = False
        self._recent: list[float] = []
        self._noise_sum = 0.0
        self._noise_frames = 0.0
        self._quiet = 0
        self._told = 0
        self._evidence = 0.0
        self._turn.reset()
        self._start_domain()

    def _start_domain(self) -> None:
        self._logs: list[float] = []
        self._reference = 0.0
        self._reference_count = 0

    def calibrate(self, sample: SourceSample) -> None:
        """Learn the source domain and forget the stream.

        Raises:
            UserError: As `SourceDistance.fit`.
        """
        self.source = SourceDistance.fit(sample, self.far_quantile, self.near_quantile)
        self.reset()

    def update(self, vector: Tensor) -> DriftReport:
        """Take the statistics of one frame.

        Args:
            vector: (D,) from `stage_statistics`; one that is not finite is left out, as if the frame had not been seen.

        Raises:
            UserError: If the detector was never calibrated, or on vectors of another length.
        """
        if self.source is None:
            raise UserError("drift detector: calibrate it on source images first")
        if vector.shape != self.source.mean.shape:
            raise UserError(
                f"drift detector: calibrated on {len(self.source.mean)} statistics a frame, got {tuple(vector.shape)}"
            )
        distance = self.source(vector.cpu()) if bool(vector.isfinite().all()) else math.nan
        if not math.isfinite(distance):
            return self._report()
        self._recent = [*self._recent, distance][-self.window :]
        self._quiet = max(self._quiet - 1, 0)
        if self._crossed(distance):
            self._far = not self._far
            self._evidence = 0.0
            self._start_domain()
            self._turn.start_domain()
            turned, confirmed, nearer = False, self._quiet == 0, not self._far
        else:
            turned = self._far and self._turn.update(self.source.signature(vector.cpu()), self.source.scatter)
            step = self._step(distance) if self._far else 0.0
            confirmed, nearer = step != 0.0, step < 0.0
        if confirmed:
            self._quiet = self.window + 1
        detected = (confirmed or turned) and self._told == 0
        self._told = self.window + 1 if detected else max(self._told - 1, 0)
        return self._report(detected=detected, confirmed=confirmed, nearer=confirmed and nearer)

    def signature(self, vector: Tensor) -> Tensor | None:
        """`SourceDistance.signature` of a frame's statistics; None where they are not finite."""
        if self.source is None or not bool(vector.isfinite().all()):
            return None
        return self.source.signature(vector.cpu())

    def _report(self, *, detected: bool = False, confirmed: bool = False, nearer: bool = False) -> DriftReport:
        distance = statistics.median(self._recent) if self._recent else 0.0
        return DriftReport(distance, self._far, detected, confirmed, min(max(distance - 1.0, 0.0), 1.0), nearer)

    def _crossed(self, distance: float) -> bool:
        """Page's cumulative sum towards the other side of the limit."""
        assert self.source is not None
        log_distance = math.log(max(distance, 1e-12))
        beyond = math.log(self.source.near_limit) - log_distance if self._far else log_distance
        self._evidence = max(0.0, self._evidence + min(max(beyond, -_CLIP), _CLIP))
        return self._evidence > (self.return_evidence if self._far else self.leave_evidence)

    def _step(self, distance: float) -> float:
        """The step of the log distance if the domain has changed, else 0.

        It is the window's mean less the domain's reference, which trails behind the window.
        """
        assert self.source is not None
        self._logs.append(math.log(max(distance, 1e-12)))
        if self._reference_count == 0:
            if len(self._logs) < 2 * self.window:
                return 0.0
            self._reference_count = self.window
            self._reference = math.fsum(self._logs[: self.window]) / self.window
        else:
            self._reference_count = min(self._reference_count + 1, self.reference_frames)
            self._reference += (self._logs[0] - self._reference) / self._reference_count
        self._logs = self._logs[-self.window :]
        jump = math.fsum(self._logs) / self.window - self._reference
        surprise = jump * jump / self.source.log_variance(math.exp(self._reference))
        level = (_PRIOR_FRAMES + self._noise_sum) / (_PRIOR_FRAMES + self._noise_frames)
        limit = self.step**2 * max(level, _LEAST_NOISE**2)
        # A step of the domain counts once and no more than the limit: it must not pass for noise.
        self._noise_sum += min(surprise, limit)
        self._noise_frames += 1.0
        if self._noise_frames > _MEMORY_FRAMES:
            self._noise_sum *= _MEMORY_FRAMES / self._noise_frames
            self._noise_frames = _MEMORY_FRAMES
        if surprise > limit:
            self._start_domain()
            return jump
        return 0.0

    def state_dict(self) -> dict[str, Any]:
        """Calibration and stream memory, as tensors, numbers and lists; it does not grow with the stream."""
        return {
            "source": None if self.source is None else self.source.state_dict(),
            "far": self._far,
            "recent": list(self._recent),
            "logs": list(self._logs),
            "reference": self._reference,
            "reference_count": self._reference_count,
            "noise_sum": self._noise_sum,
            "noise_frames": self._noise_frames,
            "quiet": self._quiet,
            "told": self._told,
            "evidence": self._evidence,
            "turn": self._turn.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict` of a detector with the same window, bit for bit.

        Raises:
            UserError: If the state holds more frames than this window can.
        """
        if len(state["recent"]) > self.window or len(state["logs"]) >= 2 * self.window:
            raise UserError(
                f"drift detector state holds {len(state['recent'])} recent frames, more than the window of "
                f"{self.window}: resume with the window the state was saved with"
            )
        source = state["source"]
        self.source = None if source is None else SourceDistance.from_state_dict(source)
        self._far = bool(state["far"])
        self._recent = [float(value) for value in state["recent"]]
        self._logs = [float(value) for value in state["logs"]]
        self._reference = float(state["reference"])
        self._reference_count = int(state["reference_count"])
        self._noise_sum = float(state["noise_sum"])
        self._noise_frames = float(state["noise_frames"])
        self._quiet = int(state["quiet"])
        self._told = int(state["told"])
        self._evidence = float(state["evidence"])
        self._turn.load_state_dict(state["turn"])


def calibrate_from_buffer(network: Segmenter, buffer: ReplayBuffer, *, scale: float = 0.5) -> DriftDetector:
    """A detector with the default settings, calibrated on the images of a replay buffer; takes seconds.

    Args:
        network: The frozen source network.
        buffer: Source images.
        scale: As in `stage_statistics`; the stream must be looked at in the same way.

    Raises:
        UserError: As `DriftDetector.calibrate`.
    """
    detector = DriftDetector()
    detector.calibrate(sample_source(network, buffer, scale=scale))
    return detector
