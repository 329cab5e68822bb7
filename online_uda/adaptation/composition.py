"""The parts of a method, made from its settings and joined: networks, step, answers, guards, memories."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from online_uda.adaptation.anchor import Anchor
from online_uda.adaptation.answering import Answering
from online_uda.adaptation.deployed import adapter_config
from online_uda.adaptation.ensemble import DistanceEnsemble
from online_uda.adaptation.fisher import FisherPull, fisher_diagonal
from online_uda.adaptation.fusion import TemporalFusion
from online_uda.adaptation.guards.canary import Canary
from online_uda.adaptation.guards.event import GuardEvent
from online_uda.adaptation.guards.guard import Guard
from online_uda.adaptation.guards.last_good import LastGood
from online_uda.adaptation.learning_step import LearningStep
from online_uda.adaptation.look import StreamLook
from online_uda.adaptation.memory import DomainMemory
from online_uda.adaptation.norm import NormStatistics
from online_uda.adaptation.replay.source import SourceReplay
from online_uda.adaptation.reservoir import Reservoir
from online_uda.adaptation.scope import build_optimizer, freeze_statistics, scope_parameters
from online_uda.adaptation.scope_choice import ScopeChoice
from online_uda.adaptation.settings import MethodSettings
from online_uda.adaptation.step import StepGradients
from online_uda.adaptation.student_mode import StudentMode
from online_uda.adaptation.teacher import EMATeacher
from online_uda.adaptation.thrift import Thrift
from online_uda.adaptation.trigger.base import TriggerPolicy
from online_uda.adaptation.views import quiet
from online_uda.errors import UserError
from online_uda.networks.adapter_folding import FoldedView
from online_uda.networks.adapters import insert_adapters
from online_uda.networks.segmenter import Segmenter
from streams.frame import ClassSet


class Composition:
    """The parts of a recipe; what they do to a frame, and in which order, is `online_uda.adaptation.recipe`.

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
            kept = " that scope.freeze leaves" if settings.scope.freeze else ""
            raise UserError(
                f"method {name}: scope.parameters {settings.scope.parameters} fits nothing in this network{kept}; "
                f"choose another --scope"
            )
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
        self._ensemble = None
        if settings.anchor.ensemble is not None:
            self._ensemble = DistanceEnsemble(settings.anchor.ensemble, *self._anchor.ways)
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
            ensemble=self._ensemble,
        )
        self._guard = self._build_guard(canary)
        self._memory = None if settings.memory is None else DomainMemory(self._moving, settings.memory)
        self._reservoir = None
        if settings.reservoir is not None:
            self._reservoir = Reservoir(
                self._moving, settings.reservoir, first_map=self._first_map,
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
        return Guard(
            self.settings.guards, LastGood(self._source, self._moving), canary,
            deployed=self._answering.aside, source=self._answering.source_aside,
            source_at_once=self._answering.of_source, on_rollback=self._rolled_back,
        )  # fmt: skip

    def _build_teacher(self) -> EMATeacher | None:
        slot = self.settings.teacher
        if slot is None:
            return None
        plain = self.student if self._adapters is None else self._source
        return EMATeacher(plain, cap=slot.cap, half_life_frames=slot.half_life_frames, buffers=slot.buffers,
                          warm_up=slot.warm_up)  # fmt: skip

    @property
    def _moving(self) -> list[nn.Module]:
        """The networks that learning changes."""
        return [self.student] if self.teacher is None else [self.student, self.teacher.module]

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

    def blueprint(self) -> Callable[[], Self]:
        """Makes recipes like this one, as it was built; they share the source network and the replay images."""
        shared: list[Any] = [self._source, self.settings, self._arguments["bigger"]]
        shared += [] if self._replay is None else [self._replay.buffer]
        kept = {id(part): part for part in shared}
        arguments = copy.deepcopy(self._arguments, dict(kept))
        return lambda: type(self)(**copy.deepcopy(arguments, dict(kept)))

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16)

    def _first_map(self, frames: Tensor) -> Tensor:
        """The source network's first map."""
        with torch.no_grad(), self._autocast():
            x, _, _ = self._source.normalise(frames)
            return self._source.encode(x, 1)[0]

    def publish(self) -> None:
        """Lets the predictor use the deployed weights as they are now; where it holds none of its own, they are."""
        self._answering.publish()

    def _rolled_back(self) -> None:
        """Other weights stand in the networks: the optimiser forgets the steps that led astray."""
        if self._optimizer is not None:
            self._optimizer.state.clear()
        self._anchor.wake()
        self.publish()
