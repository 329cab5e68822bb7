"""A method as a recipe over slots: predict, decide, learn, pull back. One step reads from top to bottom."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn

from online_uda.adaptation.anchor import Anchor
from online_uda.adaptation.answering import Answering
from online_uda.adaptation.deployed import adapter_config
from online_uda.adaptation.fisher import FisherPull, fisher_diagonal
from online_uda.adaptation.fusion import TemporalFusion
from online_uda.adaptation.guards.canary import Canary
from online_uda.adaptation.guards.event import Cause, GuardEvent
from online_uda.adaptation.guards.guard import Guard
from online_uda.adaptation.guards.last_good import LastGood
from online_uda.adaptation.learning_step import LearningStep
from online_uda.adaptation.look import StreamLook
from online_uda.adaptation.memory import DomainMemory
from online_uda.adaptation.method import StepReport
from online_uda.adaptation.norm import NormStatistics
from online_uda.adaptation.pieces import FULL, Effort, Pieces, finish
from online_uda.adaptation.random_views import random_views
from online_uda.adaptation.recipe_state import restore_state, saved_state
from online_uda.adaptation.replay.source import SourceReplay
from online_uda.adaptation.reservoir import Reservoir
from online_uda.adaptation.scope import build_optimizer, freeze_statistics, scope_parameters
from online_uda.adaptation.scope_choice import ScopeChoice
from online_uda.adaptation.settings import MethodSettings
from online_uda.adaptation.step import StepGradients
from online_uda.adaptation.student_mode import StudentMode
from online_uda.adaptation.teacher import EMATeacher
from online_uda.adaptation.thrift import Thrift, is_out_of_memory
from online_uda.adaptation.trigger.base import Decision, TriggerPolicy
from online_uda.adaptation.trigger.hamlet import set_learning_rate
from online_uda.adaptation.trigger.policies import DriftPolicy
from online_uda.adaptation.trigger.stride import StridePolicy
from online_uda.adaptation.views import quiet
from online_uda.errors import UserError
from online_uda.networks.adapter_folding import FoldedView
from online_uda.networks.adapters import insert_adapters
from online_uda.networks.predictor import PredictorFactory
from online_uda.networks.segmenter import Segmentation, Segmenter
from online_uda.networks.views import Views
from streams.frame import ClassSet

CROPS = (1.0, 0.75, 0.5, 0.25)
"""Shares of the images' width that a step may be shortened to."""


class Recipe:
    """An adaptation method composed from its settings (see `online_uda.adaptation.method.Method`).

    Args:
        settings: The slots.
        name: Name of the method in reports.
        source: The frozen source network; read, never changed.
        classes: Label space of the network.
        replay: Source replay; None where the settings have no replay slot.
        trigger: Decides when to learn.
        seed: Of mixing and augmentation.
        bf16: Run networks under bfloat16 autocast.
        canary: Labelled source images for the guards; None where the settings ask for none.
        source_images: ``(1, 3, H, W)`` float32 each, for Fisher's weights; and prototypes; only read here.
        look: Moves frames before the student sees them; None where the settings have no alignment slot.
        bigger: The network that labels frames for the distilled objective; read, never changed.

    Raises:
        UserError: If the scope or the adapters fit nothing in the network.
    """

    def __init__(
        self,
        settings: MethodSettings,
        *,
        name: str,
        source: Segmenter,
        classes: ClassSet,
        replay: SourceReplay | None,
        trigger: TriggerPolicy,
        seed: int,
        bf16: bool,
        canary: Canary | None = None,
        source_images: Iterable[Tensor] = (),
        look: StreamLook | None = None,
        bigger: Segmenter | None = None,
    ) -> None:
        self._arguments = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        self.name, self.settings = name, settings
        self._source, self._replay, self._trigger = source, replay, trigger
        fixed = settings.keeps_the_source
        self.student: Segmenter = source if fixed else copy.deepcopy(source)
        self._look = look
        self._fusion = None if settings.fusion is None else TemporalFusion(settings.fusion)
        self._bf16 = bf16
        self._device = next(source.parameters()).device
        self._adapters = None if settings.adapters is None else adapter_config(settings.adapters)
        if self._adapters is not None:
            insert_adapters(self.student, self._adapters, seed)
        self._learning = scope_parameters(self.student, settings.scope)
        if not fixed:
            freeze_statistics(self.student, settings.scope)
        if settings.scope.parameters != "none" and not self._learning:
            raise UserError(f"method {name}: scope.parameters {settings.scope.parameters} fits nothing in this network")
        heads = frozenset(parameter_name for parameter_name, _ in self.student.head_parameters())
        self._optimizer = build_optimizer(self._learning, settings.optimizer, heads)
        self._scope = ScopeChoice(name, self.student, settings.scope, self._learning, fixed=fixed, seed=seed)
        self._generator = torch.Generator().manual_seed(seed)
        self.teacher = self._build_teacher()
        if self.teacher is not None:
            freeze_statistics(self.teacher.module, settings.scope)
        self.deployed: Segmenter = self.student
        if self.teacher is not None and (settings.deploy == "teacher" or self.teacher_starts_at_once):
            self.teacher.update(self._taught())
        if settings.deploy == "teacher" and self.teacher is not None:
            self.deployed = cast(Segmenter, self.teacher.module)
        self._norm = NormStatistics(self.student, settings.norm, watched=self.deployed)
        self._anchor = Anchor(source, self.student, self.deployed, self._learning, self._norm,
                              settings.anchor.kalman)  # fmt: skip
        self._mode = StudentMode(self.student, self._norm, settings, self._device)
        self._gradients = StepGradients(
            settings, student=self.student, source=source, classes=classes, teacher=self.teacher, replay=replay,
            mode=self._mode, autocast=self._autocast, generator=self._generator, bigger=bigger,
            source_images=source_images,
        )  # fmt: skip
        self._step = self._build_step(source_images)
        self._answering = Answering(
            name,
            settings,
            deployed=self.deployed,
            source=source,
            norm=self._norm,
            autocast=self._autocast,
            look=look,
            fusion=self._fusion,
        )
        self._guard = self._build_guard(canary)
        self._memory = None
        if settings.memory is not None:
            averaged = [] if self.teacher is None else [self.teacher.module]
            self._memory = DomainMemory([self.student, *averaged], settings.memory)
        self._reservoir = None
        if settings.reservoir is not None:
            averaged = [] if self.teacher is None else [self.teacher.module]
            self._reservoir = Reservoir(
                [self.student, *averaged], settings.reservoir, first_map=self._first_map,
                answer=quiet(self.student, self._autocast), images=islice(source_images, settings.reservoir.frames),
            )  # fmt: skip
        self._thrift = Thrift(len(self.student.stages))
        self._events: list[GuardEvent] = []
        self._paused = False

    def _build_step(self, source_images: Iterable[Tensor]) -> LearningStep | None:
        if self._optimizer is None:
            return None
        fisher = None
        if self.settings.objectives.fisher is not None:
            images = islice(source_images, self.settings.objectives.fisher.frames)
            importance = fisher_diagonal(self.student, self._learning, images, self._autocast)
            fisher = FisherPull([parameter for _, parameter in self._learning], importance)
        return LearningStep(
            self.settings, self._learning, optimizer=self._optimizer, scope=self._scope, mode=self._mode,
            gradients=self._gradients, anchor=self._anchor, teacher=self.teacher, taught=self._taught, fisher=fisher,
            generator=self._generator,
        )  # fmt: skip

    def _build_guard(self, canary: Canary | None) -> Guard | None:
        if self.settings.guards is None:
            return None
        averaged = [] if self.teacher is None else [self.teacher.module]
        return Guard(
            self.settings.guards, LastGood(self._source, [self.student, *averaged]), canary,
            deployed=self._answering.aside, source=self._answering.of_source, on_rollback=self._rolled_back,
        )  # fmt: skip

    def _build_teacher(self) -> EMATeacher | None:
        slot = self.settings.teacher
        if slot is None:
            return None
        plain = self.student if self._adapters is None else self._source
        return EMATeacher(plain, cap=slot.cap, half_life_frames=slot.half_life_frames, buffers=slot.buffers,
                          warm_up=slot.warm_up)  # fmt: skip

    def _taught(self) -> nn.Module:
        """What the teacher follows: the student, its adapters folded in, for the teacher never grows any."""
        return self.student if self._adapters is None else cast(nn.Module, FoldedView(self.student, self._adapters))

    @property
    def teacher_starts_at_once(self) -> bool:
        """Whether the teacher is a copy of the student from the start, instead of from the first step on."""
        slot = self.settings.teacher
        return slot is not None and (slot.follows == "after" or not slot.warm_up)

    @property
    def learning(self) -> list[tuple[str, nn.Parameter]]:
        """Every parameter that may ever learn, with its name."""
        return self._learning

    @property
    def guarded(self) -> bool:
        """Whether weights are judged after a step, and must not predict before."""
        return self._guard is not None

    def blueprint(self) -> Callable[[], Recipe]:
        """Makes recipes like this one, as it was built; they share the source network and the replay images."""
        shared: list[Any] = [self._source, self.settings, self._arguments["bigger"]]
        shared += [] if self._replay is None else [self._replay.buffer]
        kept = {id(part): part for part in shared}
        arguments = copy.deepcopy(self._arguments, dict(kept))
        return lambda: Recipe(**copy.deepcopy(arguments, dict(kept)))

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16)

    def _first_map(self, frames: Tensor) -> Tensor:
        """The source network's first map."""
        with torch.no_grad(), self._autocast():
            x, _, _ = self._source.normalise(frames)
            return self._source.encode(x, 1)[0]

    def predict(self, frames: Tensor) -> Segmentation:
        """Segments ``frames`` (1, 3, H, W) float32 RGB in [0, 1] with the weights published so far.

        With guards a frame that shows nothing is answered by the source network.
        """
        if self._guard is not None and self._guard.shows_nothing(frames):
            return self._answering.of_source(frames)
        return self._answering.predict(frames)

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

    def publish(self) -> None:
        """Lets the predictor use the deployed weights as they are now; where it holds none of its own, they are."""
        self._answering.publish()

    def _rolled_back(self) -> None:
        """Other weights stand in the networks: the optimiser forgets the steps that led astray."""
        if self._optimizer is not None:
            self._optimizer.state.clear()
        self._anchor.wake()
        self.publish()

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
            self._replay.observe(frames, changed=decision.detected)
        if self._look is not None:
            self._look.watch(frames, decision)
        if self._fusion is not None:
            self._fusion.watch(decision)
        if self._memory is not None:
            self._memory.watch(decision)
        self._gradients.watch(frames, prediction)
        if self._reservoir is not None:
            self._reservoir.watch(frames)
        if decision.detected and self._step is not None:
            self._step.shifted()
        if self._paused or (self._guard is not None and self._guard.resting):
            return replace(decision, learn=False, relax=False)
        return decision

    def pause(self, paused: bool) -> None:
        """While paused, frames are watched and nothing is learned from them; weights stay as they are."""
        self._paused = paused

    def rest(self, decision: Decision) -> bool:
        """What a frame does that is not learned from; tells whether the weights went towards the source."""
        if decision.relax:
            self._settle()
        moved = decision.relax and self._anchor.relax(self.settings.anchor.relax)
        if moved:
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
            yield from self._guard.review(frames, changed=decision.detected)
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
            "look": self._look, "fusion": self._fusion, "reservoir": self._reservoir,
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
