"""A method's learning as a line of pieces: at most one step in flight, and the newest wanted frame waiting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from online_uda.adaptation.method import SteppedMethod, StepReport
from online_uda.adaptation.pieces import FULL, Effort, Pieces
from online_uda.adaptation.trigger.base import Decision
from online_uda.networks.segmenter import Segmentation
from online_uda.runtime.cost_model import Stopwatch, step_stage


@dataclass(frozen=True, slots=True)
class LearnedStep:
    """A frame that has been learned from, or whose learning came to nothing.

    Attributes:
        frame: Stream index of the frame.
        report: What the method says of it.
        cost_ms: Of all pieces together.
        effort: How much of a step it was; None where nothing but statistics was learned.
    """

    frame: int
    report: StepReport
    cost_ms: float
    effort: Effort | None


@dataclass(slots=True)
class _Flight:
    """The step in flight: its generator stands before the piece ``name``."""

    frame: int
    pieces: Pieces[StepReport]
    effort: Effort | None
    name: str
    cost_ms: float = 0.0


class Learner:
    """Watches frames and learns from them piece by piece; when a piece runs is the caller's decision.

    Args:
        method: Watches and learns.
        watch: Times both.
        plan: Says how much of a step to take, when one is about to begin; None takes none.
    """

    def __init__(
        self, method: SteppedMethod, watch: Stopwatch, plan: Callable[[], Effort | None] = lambda: FULL
    ) -> None:
        self._method, self._watch, self._plan = method, watch, plan
        self._flight: _Flight | None = None
        self._wanted: tuple[int, Tensor, Decision] | None = None
        self.holding = False
        self.given_up = 0

    @property
    def in_flight(self) -> bool:
        """Whether a step has begun and not ended."""
        return self._flight is not None

    @property
    def has_work(self) -> bool:
        """Whether `next_stage` would name a piece."""
        return self._flight is not None or (self._wanted is not None and not self.holding)

    def hold(self, hold: bool) -> None:
        """Whether no further step may begin; one in flight goes on, and no frame waits."""
        self.holding = hold
        if hold:
            self._wanted = None

    def show(self, index: int, frames: Tensor, prediction: Segmentation) -> Decision:
        """Watches a predicted frame. One that is worth learning from waits, and takes the place of an older one.

        A stream that has come home needs no step any more: the one in flight is given up and the weights go home too.

        Args:
            index: Stream index of the frame.
            frames: ``(1, 3, H, W)`` float32 RGB in [0, 1].
            prediction: What was said to it.
        """
        with self._watch.measure("detect"):
            decision = self._method.watch(frames, prediction)
            if decision.learn and self.holding:
                self._wanted = None
            elif decision.learn:
                self._wanted = (index, frames, decision)
            else:
                if decision.relax:
                    self._wanted = None
                    self.give_up()
                if self._flight is None:
                    self._method.rest(decision)
        return decision

    def next_stage(self) -> str | None:
        """What `run` would do next, as the name of its stage; None without work. Begins a step if one may."""
        if self._flight is None:
            if not self.has_work or self._wanted is None:
                return None
            (index, frames, decision), self._wanted = self._wanted, None
            effort = self._plan()
            pieces = self._method.learn(frames, decision, effort)
            self._flight = _Flight(index, pieces, effort, next(pieces))
        return step_stage(self._flight.name, self._flight.effort or FULL)

    def run(self) -> LearnedStep | None:
        """Runs the piece that `next_stage` named; the step, when that was its last one."""
        stage, flight = self.next_stage(), self._flight
        assert stage is not None
        assert flight is not None
        report: StepReport | None = None
        try:
            with self._watch.measure(stage) as lap:
                try:
                    flight.name = next(flight.pieces)
                except StopIteration as done:
                    report = done.value
        except BaseException:
            self._flight = None
            self.given_up += 1
            raise
        flight.cost_ms += lap.latency_ms
        if report is None:
            return None
        self._flight = None
        if report.scope is not None:
            self._method.note_cost(flight.cost_ms)
        return LearnedStep(flight.frame, report, flight.cost_ms, flight.effort)

    def give_up(self) -> None:
        """Ends the step in flight without learning from it."""
        if self._flight is not None:
            self._flight.pieces.close()
            self._flight = None
            self.given_up += 1
