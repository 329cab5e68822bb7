"""A method as a recipe over slots: predict, decide, learn, pull back. One step reads from top to bottom."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from online_uda.adaptation.method import StepReport
from online_uda.adaptation.mixed_step import MixedObjective
from online_uda.adaptation.norm import NormStatistics
from online_uda.adaptation.objectives.cross_entropy import cross_entropy
from online_uda.adaptation.objectives.entropy import entropy_loss
from online_uda.adaptation.objectives.feature_distance import dominated_cells, feature_distance
from online_uda.adaptation.replay.source import SourceReplay
from online_uda.adaptation.scope import build_optimizer, scope_parameters, set_trainable, suffix_parameters
from online_uda.adaptation.scope_select import ScopeSelector
from online_uda.adaptation.settings import MethodSettings
from online_uda.adaptation.teacher import EMATeacher
from online_uda.adaptation.trigger.base import TriggerPolicy
from online_uda.adaptation.trigger.hamlet import set_learning_rate
from online_uda.errors import UserError
from online_uda.networks.segmenter import Segmentation, Segmenter
from streams.frame import ClassSet


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

    Raises:
        UserError: If the scope fits nothing in the network.
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
    ) -> None:
        self.name, self.settings = name, settings
        self._source, self._classes, self._replay, self._trigger = source, classes, replay, trigger
        fixed = settings.scope.parameters == "none" and settings.norm.statistics == "source"
        self.student: Segmenter = source if fixed else copy.deepcopy(source)
        self._bf16 = bf16
        self._device = next(source.parameters()).device
        self._everything = list(self.student.named_parameters())
        self._learning = scope_parameters(self.student, settings.scope)
        if settings.scope.parameters != "none" and not self._learning:
            raise UserError(f"method {name}: scope.parameters {settings.scope.parameters} fits nothing in this network")
        self._optimizer = build_optimizer(self._learning, settings.optimizer)
        anchors = dict(source.named_parameters())
        self._anchors = [anchors[parameter_name].detach().clone() for parameter_name, _ in self._learning]
        if self.student is not source:
            set_trainable(self._everything, self._learning)
        self._selector = self._build_selector()
        self._generator = torch.Generator().manual_seed(seed)
        self.teacher = self._build_teacher()
        self._deployed: nn.Module = self.student
        if settings.deploy == "teacher" and self.teacher is not None:
            self.teacher.update(self.student)
            self._deployed = self.teacher.module
        self._norm = NormStatistics(self.student, settings.norm, watched=self._deployed)
        self._teacher_norm = None if self.teacher is None else NormStatistics(self.teacher.module, settings.norm)
        self._mixed = None if settings.objectives.mixed is None else MixedObjective(settings)

    def _build_selector(self) -> ScopeSelector | None:
        scope = self.settings.scope
        if scope.parameters != "suffix":
            return None
        if scope.select == "hamt" and len(self.student.stages) != len(scope.speeds_hz):
            raise UserError(
                f"method {self.name}: scope.select hamt chooses among {len(scope.speeds_hz)} modules, this network has "
                f"{len(self.student.stages)}; set scope.select to fixed"
            )
        return ScopeSelector(
            scope.select, speeds_hz=scope.speeds_hz, temperature=scope.temperature, rate=scope.rate,
            fixed_stage=scope.first_module,
        )  # fmt: skip

    def _build_teacher(self) -> EMATeacher | None:
        slot = self.settings.teacher
        if slot is None:
            return None
        return EMATeacher(self.student, cap=slot.cap, half_life_frames=slot.half_life_frames, buffers=slot.buffers)

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16)

    def predict(self, frames: Tensor) -> Segmentation:
        """Segments ``frames`` (1, 3, H, W) float32 RGB in [0, 1] with the weights published so far."""
        # no_grad, not inference_mode: the statistics recorded here become running buffers of a trained network.
        with torch.no_grad(), self._norm.predicting(), self._autocast():
            return self._deployed(frames)

    def observe(self, frames: Tensor, prediction: Segmentation) -> StepReport:
        """Learns from a frame that `predict` has answered.

        Args:
            frames: ``(1, 3, H, W)`` float32 RGB in [0, 1].
            prediction: The answer of `predict` to it.
        """
        with self._autocast():
            decision = self._trigger.decide(frames, prediction)
        if self._replay is not None:
            self._replay.observe(frames, changed=decision.detected)
        if not decision.learn:
            moved = decision.relax and self._pull(self.settings.anchor.relax)
            if moved and self._deployed is not self.student:
                self._pull_deployed(self.settings.anchor.relax)
            return StepReport(False, decision.detected, decision.signal)
        absorbed = self._norm.moves and self._norm.absorb()
        if self._optimizer is None:
            self._pull(self.settings.anchor.pull)
            return StepReport(absorbed, decision.detected, decision.signal)
        if decision.learning_rate is not None:
            set_learning_rate(self._optimizer, decision.learning_rate)
        losses, scope = self._learn(self._optimizer, frames, decision.mix_ratio)
        stepped = scope is not None
        rate = self._rate(self._optimizer) if stepped else None
        return StepReport(stepped or absorbed, decision.detected, decision.signal, scope, rate, losses)

    @staticmethod
    def _rate(optimizer: torch.optim.Optimizer) -> float:
        group = optimizer.param_groups[0]
        return float(group["lr"]) / float(group["lr_scale"])

    def _learn(
        self, optimizer: torch.optim.Optimizer, frames: Tensor, mix_ratio: float | None
    ) -> tuple[dict[str, float], str | None]:
        """Takes the steps of a frame; gives the losses of the last one and what learned, None if no step was taken."""
        losses: dict[str, float] = {}
        learned: str | None = None
        for _ in range(self.settings.steps):
            scope = self._select_scope()
            if self.teacher is not None:
                self.teacher.update(self.student)
            optimizer.zero_grad(set_to_none=True)
            before = self._norm.copy_buffers() if self.settings.student_mode == "train" else None
            with self._learning_mode():
                losses = self._backward(frames, mix_ratio)
            if not self._is_finite(losses):
                optimizer.zero_grad(set_to_none=True)
                if before is not None:
                    self._norm.restore_buffers(before)
                break
            optimizer.step()
            learned = scope
            if self._selector is not None:
                self._selector.update(losses["mixed"] if "mixed" in losses else self._total(losses))
            self._pull(self.settings.anchor.pull)
        return losses, learned

    def _is_finite(self, losses: Mapping[str, float]) -> bool:
        """Whether a step may be taken: a finite loss can still have a gradient that is not."""
        if not all(math.isfinite(value) for value in losses.values()):
            return False
        gradients = [parameter.grad for _, parameter in self._learning if parameter.grad is not None]
        return not gradients or bool(torch.stack(torch._foreach_norm(gradients)).isfinite().all())

    def _total(self, losses: Mapping[str, float]) -> float:
        return sum(getattr(self.settings.objectives, name).weight * value for name, value in losses.items())

    def _select_scope(self) -> str:
        if self._selector is None:
            return self.settings.scope.parameters
        first = self._selector.select()
        self._trainable = suffix_parameters(self.student, first, self.settings.scope.train_fuse)
        set_trainable(self._everything, self._trainable)
        return f"modules {first}-{len(self.student.stages)}"

    @contextmanager
    def _learning_mode(self) -> Iterator[None]:
        """Mode of the student during a step; it is back in eval mode afterwards."""
        if self.settings.student_mode == "train":
            self.student.train()
            self.student.light_head.eval()
            # Dropout draws from torch's global generators; seeded by ours, a resumed run drops the same.
            seed = int(torch.randint(2**62, (), generator=self._generator).item())
            try:
                with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
                    torch.manual_seed(seed)
                    yield
            finally:
                self.student.eval()
        elif self.settings.norm.statistics == "batch":
            with self._norm.of_the_batch():
                yield
        else:
            yield

    def _backward(self, frames: Tensor, mix_ratio: float | None) -> dict[str, float]:
        """Accumulates the gradients of every objective, one graph at a time to keep the peak memory down."""
        wanted = self.settings.objectives
        losses: dict[str, float] = {}
        if wanted.entropy is not None:
            # The frame's own statistics, as in TENT: with trailing ones the entropy of a shifted frame collapses.
            # Train mode uses them anyway, and there the running ones learn from the frame.
            trailing = self._norm.moves and self.settings.student_mode == "eval"
            own = self._norm.of_the_batch() if trailing else nullcontext()
            with own, self._autocast():
                output = self.student(frames)
            slot = wanted.entropy
            loss = entropy_loss(
                output.logits.float(), max_entropy=slot.max_entropy, eta_weighting=slot.eta_weighting,
                class_balance=slot.class_balance,
            )  # fmt: skip
            (slot.weight * loss).backward()
            losses["entropy"] = loss.item()
        if self._replay is None or (wanted.replay is None and self._mixed is None):
            return losses
        images, labels = self._replay.draw(self._device)
        if wanted.replay is not None:
            losses.update(self._backward_replay(images, labels))
        if self._mixed is not None and self.teacher is not None:
            with self._norm_of_teacher(), self._autocast(), torch.no_grad():
                target = self._mixed.crop(frames, (int(images.shape[-2]), int(images.shape[-1])), self._generator)
                taught = self.teacher.module(target)
            mixed = self._mixed.mix(images, labels, target, taught.full(), mix_ratio, self._generator)
            with self._autocast():
                output = self.student(mixed.images)
            loss = cross_entropy(output.full(), mixed.labels, mixed.weights)
            (self._mixed.weight * loss).backward()
            losses["mixed"] = loss.item()
        return losses

    @contextmanager
    def _norm_of_teacher(self) -> Iterator[None]:
        """The teacher normalises with the statistics of the crop at hand where the student does (HAMLET)."""
        of_the_batch = self.settings.student_mode == "train" or self.settings.norm.statistics == "batch"
        if self._teacher_norm is None or not of_the_batch:
            yield
            return
        with self._teacher_norm.of_the_batch():
            yield

    def _backward_replay(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        wanted = self.settings.objectives
        assert wanted.replay is not None
        with self._autocast():
            output = self.student(images)
        loss = cross_entropy(output.full(), labels)
        losses = {"replay": loss.item()}
        total = wanted.replay.weight * loss
        if wanted.feature_distance is not None:
            with torch.no_grad(), self._autocast():
                x, _, _ = self._source.normalise(images)
                anchors = self._source.encode(x)[-1]
            features = output.features[-1]
            size = (int(features.shape[-2]), int(features.shape[-1]))
            mask = dominated_cells(labels, size, self._classes.things, wanted.feature_distance.min_share)
            distance = feature_distance(features.float(), anchors.float(), mask)
            total = total + wanted.feature_distance.weight * distance
            losses["feature_distance"] = distance.item()
        total.backward()
        return losses

    @torch.no_grad()
    def _pull(self, share: float) -> bool:
        """Moves the learning parameters and BatchNorm statistics a step towards the source; tells whether any moved."""
        if share == 0.0 or self.student is self._source:
            return False
        if self._learning:
            torch._foreach_lerp_([parameter.data for _, parameter in self._learning], self._anchors, share)
        self._norm.pull(share)
        return bool(self._learning) or self._norm.moves

    @torch.no_grad()
    def _pull_deployed(self, share: float) -> None:
        """Takes deployed averaged weights along when the student goes back to the source."""
        averaged = dict(self._deployed.named_parameters())
        torch._foreach_lerp_([averaged[name].data for name, _ in self._learning], self._anchors, share)
        for mine, students in zip(self._deployed.buffers(), self.student.buffers(), strict=True):
            mine.copy_(students)

    def state_dict(self) -> dict[str, Any]:
        """Everything that later frames depend on, copied; the source network and the replay images are rebuilt."""
        student = {k: v for k, v in self.student.state_dict().items() if not k.startswith("light_head.")}
        state = {
            "student": {} if self.student is self._source else student,
            "optimizer": None if self._optimizer is None else self._optimizer.state_dict(),
            "teacher": None if self.teacher is None else self.teacher.state_dict(),
            "selector": None if self._selector is None else self._selector.state_dict(),
            "replay": None if self._replay is None else self._replay.state_dict(),
            "trigger": self._trigger.state_dict(),
            "generator": self._generator.get_state(),
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict` bit for bit.

        Raises:
            UserError: If the state is of another network or of other source images.
        """
        if state["student"]:
            result = self.student.load_state_dict(state["student"], strict=False)
            strange = [n for n in (*result.missing_keys, *result.unexpected_keys) if not n.startswith("light_head.")]
            if strange:
                raise UserError(f"the saved state is of another network; {strange[0]} does not fit")
        for part, saved in (
            (self._optimizer, state["optimizer"]),
            (self.teacher, state["teacher"]),
            (self._selector, state["selector"]),
            (self._replay, state["replay"]),
            (self._trigger, state["trigger"]),
        ):
            if part is not None:
                # A copy, because an optimiser keeps the tensors it is given.
                part.load_state_dict(copy.deepcopy(saved))
        self._generator.set_state(state["generator"].cpu())
