"""What the stages of a frame are expected to cost here and now, from what they have cost."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from online_uda.adaptation.pieces import Effort
from online_uda.evaluation.latency import Lap
from online_uda.runtime.clock import Clock
from online_uda.runtime.costs import CostRecord

WINDOW = 16
"""Samples that count. A machine gets busy and idle again; what happened long ago says little."""


class CostModel:
    """The newest samples of every stage, as a likely cost and as one that is rarely exceeded."""

    def __init__(self) -> None:
        self._samples: dict[str, deque[float]] = {}
        self._times: Counter[str] = Counter()

    def note(self, stage: str, ms: float) -> None:
        """Adds a sample in milliseconds."""
        self._samples.setdefault(stage, deque(maxlen=WINDOW)).append(ms)
        self._times[stage.partition("@")[0]] += 1

    def knows(self, stage: str) -> bool:
        """Whether ``stage`` was ever measured."""
        return stage in self._samples

    def likely_ms(self, stage: str) -> float:
        """Median of the window; 0 for a stage that was never measured."""
        samples = sorted(self._of(stage))
        return samples[len(samples) // 2] if samples else 0.0

    def safe_ms(self, stage: str) -> float:
        """Largest of the window: exceeded once in `WINDOW` + 1 samples where they are alike; 0 if never measured."""
        return max(self._of(stage), default=0.0)

    def doubt(self, stage: str) -> None:
        """Forgets the largest sample: it keeps ``stage`` from running, so that no newer one could replace it."""
        samples = self._samples.get(stage)
        if samples is not None and len(samples) > 1:
            samples.remove(max(samples))

    def step_stages(self, effort: Effort) -> list[str]:
        """The pieces of a step of this effort, by the names of all pieces that were ever measured."""
        known = [stage for stage in self._samples if stage.startswith("step.")]
        names = dict.fromkeys(stage.partition("@")[0] for stage in known)
        left_out = tuple(f".backward.{number}" for number in range(1, effort.first_stage))
        return [step_stage(name.removeprefix("step."), effort) for name in names if not name.endswith(left_out)]

    def step_ms(self, effort: Effort) -> float:
        """What a step of this effort costs on average: a piece counts by the share of steps that it was part of.

        A canary is asked in one step of many; as if it were part of each, steps would be shortened for its sake.
        """
        steps = max((times for stage, times in self._times.items() if stage.startswith("step.")), default=0)
        return sum(
            self.likely_ms(stage) * self._times[stage.partition("@")[0]] / steps for stage in self.step_stages(effort)
        )

    def _of(self, stage: str) -> deque[float] | list[float]:
        if stage in self._samples:
            return self._samples[stage]
        plain, _, share = stage.partition("@")
        return [ms * float(share or 1.0) for ms in self._samples.get(plain, ())]

    def state_dict(self) -> dict[str, Any]:
        """The windows as lists, and how often every stage was met."""
        samples = {stage: list(samples) for stage, samples in self._samples.items()}
        return {"samples": samples, "times": dict(self._times)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self._samples = {stage: deque(samples, maxlen=WINDOW) for stage, samples in state["samples"].items()}
        self._times = Counter(state["times"])


def step_stage(piece: str, effort: Effort) -> str:
    """Name of the stage that a piece of a step is timed as; what guards look at is as large after a shorter step."""
    whole = effort.crop >= 1.0 or piece.startswith("guard.")
    return f"step.{piece}" if whole else f"step.{piece}@{effort.crop:.2f}"


def _of_guards(stage: str) -> bool:
    """Whether ``stage`` is a piece of a review: a shorter step would not make it any shorter."""
    return stage.startswith("step.guard.")


def choose_effort(model: CostModel, efforts: Sequence[Effort], slack_ms: float, patience: int) -> Effort | None:
    """The first effort whose every piece fits the slack of one frame and whose whole fits that of ``patience`` frames.

    Args:
        model: Costs of pieces.
        efforts: In order of preference.
        slack_ms: What a frame leaves between its mask and the next arrival.
        patience: Frames that a step may be spread over.

    Returns:
        None if none fits.
    """
    for effort in efforts:
        stages = model.step_stages(effort)
        largest = max((model.safe_ms(stage) for stage in stages if not _of_guards(stage)), default=0.0)
        if largest <= slack_ms and model.step_ms(effort) <= patience * slack_ms:
            return effort
    return None


class Stopwatch:
    """Times stages on a clock, for the cost model and for the record.

    Args:
        clock: Tells or makes up the times.
        model: Learns every lap.
        record: Keeps them for a file; None keeps none.
    """

    def __init__(self, clock: Clock, model: CostModel, record: CostRecord | None = None) -> None:
        self.clock, self.model, self._record = clock, model, record

    @contextmanager
    def measure(self, stage: str) -> Iterator[Lap]:
        """A lap of ``stage``; a block that raises is none."""
        with self.clock.measure(stage) as lap:
            yield lap
        self.note(stage, lap.latency_ms)

    def note(self, stage: str, ms: float) -> None:
        """A lap that was timed elsewhere."""
        self.model.note(stage, ms)
        if self._record is not None:
            self._record.note(stage, ms)
