"""A method that can be left behind with the thread that died or hangs in it, and be replaced by another like it.

A thread cannot be ended from outside, and one that hangs may wake up at any time in the middle of a weight. So nothing
that it holds is used again: the one that takes its place is built anew and continues from a copy of the state at the
last publication. Until it stands, frames are answered by the predictor of the old one, whose weights are whole.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from online_uda.adaptation.guards.event import Cause, GuardEvent
from online_uda.adaptation.method import SteppedMethod, StepReport
from online_uda.adaptation.pieces import FULL, Effort, Pieces
from online_uda.adaptation.trigger.base import Decision
from online_uda.networks.predictor import Moments, Predictor, PredictorFactory, Wishes
from online_uda.networks.segmenter import Segmentation, Segmenter


class ReproducibleMethod(SteppedMethod, Protocol):
    """A method that knows how to make others of its kind."""

    def blueprint(self) -> Callable[[], ReproducibleMethod]:
        """Makes methods of the same settings as they are built, with memory of their own."""
        ...


class _Noted:
    """A predictor that counts its publications."""

    def __init__(self, inner: Predictor) -> None:
        self._inner, self.name = inner, inner.name
        self.published = 0

    def predict(self, frames: Tensor) -> tuple[Segmentation, Moments]:
        return self._inner.predict(frames)

    def publish(self, network: Segmenter) -> None:
        self._inner.publish(network)
        self.published += 1


class Replaceable:
    """A method in its present incarnation (see `online_uda.adaptation.method.SteppedMethod`).

    A worker holds the number of the incarnation that it works on; what one does that has been abandoned counts for
    nothing any more.

    Args:
        method: The first incarnation, as it was built.
    """

    def __init__(self, method: ReproducibleMethod) -> None:
        self._make = method.blueprint()
        self.name = method.name
        self.current: ReproducibleMethod = method
        self.number = 0
        self._standing, self._paused = True, False
        self._lock = threading.Lock()
        self._factory: PredictorFactory | None = None
        self._first_stage: Callable[[Tensor], Tensor] | None = None
        self._noted: _Noted | None = None
        self._kept: Mapping[str, Any] | None = None
        self._kept_at = -1
        self._events: list[GuardEvent] = []

    def keep(self, number: int) -> None:
        """Copies the state of an incarnation if something was published since the last copy.

        Args:
            number: Of the caller's incarnation.
        """
        published = 0 if self._noted is None else self._noted.published
        if number != self.number or published == self._kept_at:
            return
        state = self.current.state_dict()
        with self._lock:
            if number == self.number:
                self._kept, self._kept_at = state, published

    def abandon(self, cause: Cause, detail: str) -> int:
        """Leaves the present incarnation to itself; it answers frames until the next one stands.

        Returns:
            The number of the next incarnation.
        """
        with self._lock:
            self.number += 1
            self._standing = False
        self._events += [*self.current.take_events(), GuardEvent("restart", cause, detail)]
        return self.number

    def replace(self, number: int) -> None:
        """Builds incarnation ``number`` from the state that was kept last; takes seconds, in the caller's thread."""
        method = self._make()
        if self._kept is not None:
            method.load_state_dict(self._kept)
        if self._first_stage is not None:
            method.use_first_stage(self._first_stage)
        noted = self._use(method)
        with self._lock:
            if number == self.number:
                method.pause(self._paused)
                self.current, self._noted, self._standing = method, noted, True
                self._kept_at = 0 if noted is None else noted.published

    def _use(self, method: SteppedMethod) -> _Noted | None:
        """Gives ``method`` a predictor of its own, with the weights that it has now."""
        factory, made = self._factory, []
        if factory is None:
            return None

        def make(network: Segmenter, wishes: Wishes) -> Predictor:
            made.append(_Noted(factory(network, wishes)))
            return made[0]

        method.use_predictor(make)
        return made[0]

    def use_predictor(self, factory: PredictorFactory) -> None:
        """See `SteppedMethod.use_predictor`; later incarnations get theirs from ``factory`` too."""
        before, self._factory = self._factory, factory
        try:
            self._noted = self._use(self.current)
        except BaseException:
            self._factory = before
            raise

    def use_first_stage(self, first_stage: Callable[[Tensor], Tensor]) -> None:
        """See `SteppedMethod.use_first_stage`; later incarnations share it."""
        self._first_stage = first_stage
        self.current.use_first_stage(first_stage)

    def predict(self, frames: Tensor) -> Segmentation:
        """See `Method.predict`."""
        return self.current.predict(frames)

    def observe(self, frames: Tensor, prediction: Segmentation) -> StepReport:
        """See `Method.observe`."""
        return self.current.observe(frames, prediction)

    def watch(self, frames: Tensor, prediction: Segmentation) -> Decision:
        """See `SteppedMethod.watch`."""
        return self.current.watch(frames, prediction)

    def pause(self, paused: bool) -> None:
        """See `Method.pause`; it holds for later incarnations too."""
        self._paused = paused
        self.current.pause(paused)

    def rests(self, decision: Decision) -> bool:
        """See `SteppedMethod.rests`."""
        return self.current.rests(decision)

    def resting(self, frames: int = 1) -> Pieces[bool]:
        """See `SteppedMethod.resting`."""
        return self.current.resting(frames)

    def learn(self, frames: Tensor, decision: Decision, effort: Effort | None = FULL) -> Pieces[StepReport]:
        """See `SteppedMethod.learn`."""
        return self.current.learn(frames, decision, effort)

    def note_cost(self, ms: float) -> None:
        """See `MindsCosts.note_cost`."""
        self.current.note_cost(ms)

    @property
    def guarded(self) -> bool:
        """See `SteppedMethod.guarded`."""
        return self.current.guarded

    @property
    def deployed(self) -> Segmenter:
        """See `SteppedMethod.deployed`."""
        return self.current.deployed

    @property
    def efforts(self) -> Sequence[Effort]:
        """See `SteppedMethod.efforts`."""
        return self.current.efforts

    def take_events(self) -> list[GuardEvent]:
        """See `Method.take_events`; with what became of earlier incarnations."""
        events, self._events = self._events, []
        return [*events, *self.current.take_events()]

    def state_dict(self) -> dict[str, Any]:
        """See `Method.state_dict`; the state kept last while no incarnation stands."""
        if self._standing or self._kept is None:
            return self.current.state_dict()
        return dict(self._kept)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Method.load_state_dict`."""
        self.current.load_state_dict(state)
        self._kept, self._kept_at = None, -1

    def __getattr__(self, name: str) -> Any:
        """What else the present incarnation has, such as its settings."""
        if name == "current":
            raise AttributeError(name)
        return getattr(self.current, name)
