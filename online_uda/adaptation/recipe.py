"""A method as a recipe over slots: predict, decide, learn, pull back. One step reads from top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from online_uda.adaptation.composition import Composition
from online_uda.adaptation.guards.event import Cause, GuardEvent
from online_uda.adaptation.method import StepReport
from online_uda.adaptation.pieces import FULL, Effort, Pieces, finish
from online_uda.adaptation.random_views import random_views
from online_uda.adaptation.recipe_state import restore_state, saved_state
from online_uda.adaptation.trigger.base import Decision
from online_uda.adaptation.trigger.hamlet import set_learning_rate
from online_uda.adaptation.trigger.policies import DriftPolicy
from online_uda.adaptation.trigger.stride import StridePolicy
from online_uda.networks.predictor import PredictorFactory
from online_uda.networks.segmenter import Segmentation
from online_uda.networks.views import Views
from online_uda.out_of_memory import is_out_of_memory

CROPS = (1.0, 0.75, 0.5, 0.25)
"""Shares of the images' width that a step may be shortened to."""


class Recipe(Composition):
    """An adaptation method composed from its settings (see `online_uda.adaptation.method.Method`)."""

    def predict(self, frames: Tensor) -> Segmentation:
        """Segments ``frames`` (1, 3, H, W) float32 RGB in [0, 1] with the weights published so far.

        With guards a frame that shows nothing is answered by the source network; while they let the method rest, its
        weights predict and nothing is put right of what they say.
        """
        if self._guard is not None and self._guard.shows_nothing(frames):
            return self._answering.of_source(frames)
        return self._answering.predict(frames, corrected=self._guard is None or not self._guard.resting)

    def use_predictor(self, factory: PredictorFactory) -> None:
        """Predicts with another backend from now on.

        Raises:
            UserError: The backend cannot do what the method wishes.
        """
        self._answering.use_predictor(factory, [name for name, _ in self._learning])

    def predict_in_views(self, views: Views) -> None:
        """Answers the stream's frames in ``views`` from now on, in torch; what is learned from stays whole."""
        self._answering.predict_in_views(views)

    def use_first_stage(self, first_stage: Callable[[Tensor], Tensor]) -> None:
        """Watches the stream with another make of the source network's first stage, where the trigger looks at that."""
        if isinstance(self._trigger, DriftPolicy):
            self._trigger.first_stage = first_stage

    def take_events(self) -> list[GuardEvent]:
        """What the guards did since the last call."""
        events, self._events = self._events, []
        return events if self._guard is None else [*events, *self._guard.take_events()]

    @property
    def efforts(self) -> tuple[Effort, ...]:
        """All of a step; narrower crops; and in the end fewer stages, where the scope leaves that open."""
        crops = tuple(Effort(crop) for crop in CROPS)
        if self.settings.scope.parameters not in ("all", "norm"):
            return crops
        stages = self.student.stage_count
        return *crops, *(Effort(CROPS[-1], first) for first in range(2, stages + 1))

    def observe(self, frames: Tensor, prediction: Segmentation) -> StepReport:
        """Learns from a frame that `predict` has answered, in one go.

        Args:
            frames: ``(1, 3, H, W)`` float32 RGB in [0, 1].
            prediction: The answer of `predict` to it.
        """
        decision = self.watch(frames, prediction)
        if decision.learn:
            return finish(self.learn(frames, decision))
        self.rest(decision)
        return StepReport(False, decision.detected, decision.signal)

    def watch(self, frames: Tensor, prediction: Segmentation) -> Decision:
        """Shows a predicted frame to the trigger and to the replay's style; no weight moves.

        Args:
            frames: ``(1, 3, H, W)`` float32 RGB in [0, 1].
            prediction: The answer of `predict` to it.

        Returns:
            Whether to `learn` from the frame or to `rest` on it.
        """
        if self._guard is not None and self._guard.refuses(frames, prediction):
            return Decision(False)
        with self._autocast():
            decision = self._trigger.decide(frames, prediction)
        if self._replay is not None:
            self._replay.observe(frames, changed=decision.confirmed)
        if self._look is not None:
            self._look.watch(frames, decision)
        if self._fusion is not None:
            self._fusion.watch(decision)
        if self._ensemble is not None:
            self._ensemble.watch(decision)
        if self._memory is not None:
            self._memory.watch(decision)
        self._gradients.watch(frames, prediction)
        if self._reservoir is not None:
            self._reservoir.watch(frames)
        if decision.confirmed and self._step is not None:
            self._step.shifted()
        if self._paused or (self._guard is not None and self._guard.resting):
            return replace(decision, learn=False, relax=False)
        return decision

    def pause(self, paused: bool) -> None:
        """While paused, frames are watched and nothing is learned from them; weights stay as they are."""
        self._paused = paused

    def rest(self, decision: Decision) -> bool:
        """What a frame does that is not learned from; tells whether the weights went towards the source."""
        return self.rests(decision) and finish(self.resting())

    def rests(self, decision: Decision) -> bool:
        """Whether a frame that is not learned from has anything to do: weights to bring home, or to recall."""
        pending = self._memory is not None and self._memory.pending
        return decision.relax and (pending or self._anchor.away(self.settings.anchor.relax))

    def resting(self, frames: int = 1) -> Pieces[bool]:
        """`rest` in pieces; what several frames owe is done at once, as if each had taken its share of the way.

        Args:
            frames: How many have rested.
        """
        yield "rest"
        recalled = self._settle()
        if recalled:
            self._anchor.wake()
        share = self.settings.anchor.relax
        moved = self._anchor.relax(share if frames == 1 else 1.0 - (1.0 - share) ** frames) or recalled
        if moved and self._answering.is_elsewhere:
            yield "rest.publish"
            self.publish()
        return moved

    def _settle(self, frames: Tensor | None = None) -> bool:
        """Where the domain has changed, goes on with the weights that fit the new one best; tells whether they did."""
        whose: Cause = "domain memory"
        recalled = None if self._memory is None else self._memory.settle()
        if self._reservoir is not None and frames is not None:
            recalled, whose = self._reservoir.settle(frames), "reservoir"
        if recalled is None:
            return False
        if self._ensemble is not None:
            self._ensemble.settle()
        if self._optimizer is not None:
            self._optimizer.state.clear()
        self._events.append(GuardEvent("recall", whose, f"went on with {recalled}"))
        return True

    def learn(self, frames: Tensor, decision: Decision, effort: Effort | None = FULL) -> Pieces[StepReport]:
        """Learns from a watched frame, in pieces.

        Between two pieces the deployed network predicts as usual, and no weight of it is half changed. Pieces that are
        never run are a step that was given up: nothing was learned. Other frames may be watched meanwhile.

        Args:
            frames: ``(1, 3, H, W)`` float32 RGB in [0, 1].
            decision: What `watch` said to it.
            effort: How much of a step to take; None takes none and absorbs the frame's statistics alone.
        """
        try:
            return (yield from self._steps(frames, decision, effort))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Out of the handler: what the exception holds on to, the graph of the step, is free by now.
        self._give_memory_back()
        return StepReport(False, decision.detected, decision.signal)

    def _give_memory_back(self) -> None:
        """After a step that did not fit: it is left out, and later ones are smaller."""
        if self._optimizer is not None:
            self._optimizer.zero_grad(set_to_none=True)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self._events.append(GuardEvent("spare", "out of memory", f"a step was left out; {self._thrift.fall_short()}"))

    def _steps(self, frames: Tensor, decision: Decision, effort: Effort | None) -> Pieces[StepReport]:
        yield "absorb"
        if decision.nearer:
            self._anchor.relax(self.settings.anchor.restart)
        self._anchor.wake()
        recalled = self._settle(frames)
        if self._norm.looks:
            yield "absorb.views"
            with self._autocast():
                self._norm.look(random_views(frames, self.settings.norm, self._generator))
        absorbed = self._norm.moves and self._norm.absorb()
        losses: dict[str, float] = {}
        learned = rate = None
        if self._optimizer is None or self._step is None:
            self._anchor.pull(self.settings.anchor.pull)
        elif effort is not None:
            self._set_rate(self._optimizer, decision.learning_rate)
            moved = frames if self._look is None else self._look(frames)
            kept_up = False
            for _ in range(self.settings.steps):
                fitting = self._thrift.limit(effort)
                scope, losses = yield from self._step.pieces(moved, decision.mix_ratio, fitting)
                if scope is None:
                    kept_up = not losses
                    break
                self._thrift.succeed()
                learned = scope
                rate = self._rate(self._optimizer)
            if isinstance(self._trigger, StridePolicy):
                self._trigger.note(kept_up)
        updated = learned is not None or absorbed
        moved_weights = updated or recalled
        if self._guard is not None and moved_weights:
            yield from self._guard.review(frames, changed=decision.confirmed)
        if moved_weights and self._answering.is_elsewhere:
            yield "publish"
            self.publish()
        return StepReport(updated, decision.detected, decision.signal, learned, rate, losses)

    def _set_rate(self, optimizer: torch.optim.Optimizer, wanted: float | None) -> None:
        """The trigger's rate or the settings' own, as far as the guards allow it."""
        if self._guard is not None:
            wanted = self._guard.rate * (self.settings.optimizer.learning_rate if wanted is None else wanted)
        if self.settings.optimizer.warm_up and self._step is not None:
            base = self.settings.optimizer.learning_rate if wanted is None else wanted
            wanted = self._step.warm_up.factor * base
        if wanted is not None:
            set_learning_rate(optimizer, wanted)

    def note_cost(self, ms: float) -> None:
        """What the last step cost on the clock of the run, in milliseconds: the price of the modules it trained."""
        self._scope.note_cost(ms)

    @staticmethod
    def _rate(optimizer: torch.optim.Optimizer) -> float:
        group = optimizer.param_groups[0]
        return float(group["lr"]) / float(group["lr_scale"])

    def _parts(self) -> dict[str, Any]:
        """What has a state beside the student and the generator."""
        return {
            "optimizer": self._optimizer, "teacher": self.teacher, "selector": self._scope.selector,
            "replay": self._replay, "trigger": self._trigger, "thrift": self._thrift, "guard": self._guard,
            "norm": self._norm, "memory": self._memory, "step": self._step,
            "look": self._look, "fusion": self._fusion, "ensemble": self._ensemble, "reservoir": self._reservoir,
        }  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Everything that later frames depend on, copied; the source network and the replay images are rebuilt."""
        return saved_state(self.student, self._parts(), self._generator, shared=self.student is self._source)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict` bit for bit.

        Raises:
            UserError: If the state is of another network or of other source images.
        """
        restore_state(state, self.student, self._parts(), self._generator)
        self._anchor.wake()
        self.publish()
