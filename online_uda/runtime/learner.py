"""A method's learning as a line of pieces: at most one step in flight, and the newest wanted frame waiting.

Weights on the way home are work too: what resting frames owe waits, like a step, until somebody runs it.
"""

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
    """The step in flight, or what ``rests`` resting frames owe: its generator stands before the piece ``name``."""

    frame: int
    pieces: Pieces[StepReport] | Pieces[bool]
    effort: Effort | None
    name: str
    rests: int = 0
    begun: bool = False
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
        self._rested = 0
        self.holding = False
        self.given_up = 0

    @property
    def in_flight(self) -> bool:
        """Whether a step has begun and not ended."""
        return self._flight is not None and not self._flight.rests

    @property
    def settled(self) -> bool:
        """Whether nothing has begun or is owed, so that the method can be saved."""
        return self._flight is None and not self._rested

    @property
    def overdue(self) -> bool:
        """Whether the weights are on their way home, which may wait, but not be given up."""
        return self._rested > 0 or (self._flight is not None and self._flight.rests > 0)

    @property
    def has_work(self) -> bool:
        """Whether `next_stage` would name a piece."""
        return not self.settled or (self._wanted is not None and not self.holding)

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
            if decision.learn:
                self._wanted = None if self.holding else (index, frames, decision)
            elif decision.relax:
                self._wanted = None
                self.give_up()
            if not decision.learn and self._method.rests(decision):
                self._rest()
        return decision

    def _rest(self) -> None:
        """One more frame that rested; what is owed and not begun is done at once."""
        flight = self._flight
        if flight is not None and flight.rests and not flight.begun:
            self._rested, self._flight = flight.rests, None
            flight.pieces.close()
        if self._flight is None or self._flight.rests:
            self._rested += 1

    def next_stage(self) -> str | None:
        """What `run` would do next, as the name of its stage; None without work. Begins a step if one may."""
        if self._flight is None:
            self._flight = self._begin()
            if self._flight is None:
                return None
        flight = self._flight
        # A file of costs that does not know of rests charges them as watching, of which they were a part once.
        return f"detect.{flight.name}" if flight.rests else step_stage(flight.name, flight.effort or FULL)

    def _begin(self) -> _Flight | None:
        """What comes next: the way home, then the frame that waits."""
        if self._rested:
            owed, self._rested = self._rested, 0
            home = self._method.resting(owed)
            return _Flight(-1, home, None, next(home), rests=owed)
        if not self.has_work or self._wanted is None:
            return None
        (index, frames, decision), self._wanted = self._wanted, None
        effort = self._plan()
        pieces = self._method.learn(frames, decision, effort)
        return _Flight(index, pieces, effort, next(pieces))

    def run(self) -> LearnedStep | None:
        """Runs the piece that `next_stage` named; the step, when that was its last one."""
        stage, flight = self.next_stage(), self._flight
        assert stage is not None
        assert flight is not None
        report: StepReport | bool | None = None
        flight.begun = True
        try:
            with self._watch.measure(stage) as lap:
                try:
                    flight.name = next(flight.pieces)
                except StopIteration as done:
                    report = done.value
        except BaseException:
            self._flight = None
            self.given_up += not flight.rests
            raise
        flight.cost_ms += lap.latency_ms
        if report is None:
            return None
        self._flight = None
        if isinstance(report, bool):
            return None
        if report.scope is not None:
            self._method.note_cost(flight.cost_ms)
        return LearnedStep(flight.frame, report, flight.cost_ms, flight.effort)

    def give_up(self) -> None:
        """Ends the step in flight without learning from it; a way home is not given up."""
        if self._flight is not None and not self._flight.rests:
            self._flight.pieces.close()
            self._flight = None
            self.given_up += 1
