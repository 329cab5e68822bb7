"""What the runtime knows of a method: predict a frame, observe it afterwards, and be saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from online_uda.adaptation.guards.event import GuardEvent
from online_uda.adaptation.pieces import FULL, Effort, Pieces
from online_uda.adaptation.trigger.base import Decision
from online_uda.networks.predictor import PredictorFactory
from online_uda.networks.segmenter import Segmentation, Segmenter


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a method did with one frame after it was predicted.

    Attributes:
        updated: Whether any parameter or statistic that later predictions use was learned from this frame.
        detected: Whether the trigger reported a domain change at this frame.
        signal: The trigger's domain-distance signal; None without one.
        scope: What learned, such as ``norm`` or ``modules 2-4``; None when nothing did.
        learning_rate: Rate of the step; None when none was taken.
        losses: Loss terms of the step by objective name, unweighted.
    """

    updated: bool = False
    detected: bool = False
    signal: float | None = None
    scope: str | None = None
    learning_rate: float | None = None
    losses: dict[str, float] = field(default_factory=dict)


class Method(Protocol):
    """An adaptation method bound to a network. It sees frames and its own predictions, never a label of the stream."""

    name: str

    def predict(self, frames: Tensor) -> Segmentation:
        """Segments ``frames`` (1, 3, H, W) float32 RGB in [0, 1] with the weights published so far."""
        ...

    def observe(self, frames: Tensor, prediction: Segmentation) -> StepReport:
        """Learns from a frame that `predict` has answered; the frame's score is already taken."""
        ...

    def pause(self, paused: bool) -> None:
        """While paused, nothing is learned; not part of the state."""
        ...

    def take_events(self) -> list[GuardEvent]:
        """What the method's guards did since the last call; empty without guards."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything the method knows, as plain tensors, numbers, lists and dictionaries."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict` bit for bit."""
        ...


@runtime_checkable
class MindsCosts(Protocol):
    """A method that chooses what to learn by what it costs."""

    def note_cost(self, ms: float) -> None:
        """What the last step cost, in milliseconds."""
        ...


class SteppedMethod(Method, MindsCosts, Protocol):
    """A method whose learning can be cut into pieces, for a stream that does not wait.

    `observe` is `watch`, and then all pieces of `learn`, or those of `resting` where the frame `rests`.
    """

    @property
    def guarded(self) -> bool:
        """Whether weights are judged at the end of a step and must not predict before."""
        ...

    @property
    def deployed(self) -> Segmenter:
        """The network that predicts; it changes in the pieces of `learn` and of `resting` only."""
        ...

    @property
    def efforts(self) -> Sequence[Effort]:
        """How much of a step may be taken, in order of preference."""
        ...

    def use_predictor(self, factory: PredictorFactory) -> None:
        """Predicts with what ``factory`` makes from now on, and publishes to it."""
        ...

    def use_first_stage(self, first_stage: Callable[[Tensor], Tensor]) -> None:
        """Takes the source network's first stage map from elsewhere, if it looks at that at all."""
        ...

    def watch(self, frames: Tensor, prediction: Segmentation) -> Decision:
        """Looks at a predicted frame and says what to do with it; no weight moves."""
        ...

    def rests(self, decision: Decision) -> bool:
        """Whether a frame that is not learned from has weights to bring home."""
        ...

    def resting(self, frames: int = 1) -> Pieces[bool]:
        """What ``frames`` frames that rested owe, in pieces; tells whether weights moved."""
        ...

    def learn(self, frames: Tensor, decision: Decision, effort: Effort | None = FULL) -> Pieces[StepReport]:
        """Learns from a watched frame in pieces; None of a step absorbs statistics alone."""
        ...
