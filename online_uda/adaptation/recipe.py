"""A method as a recipe over slots: predict, decide, learn, pull back. One step reads from top to bottom."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

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
        self.student: Segmenter = source if settings.scope.parameters == "none" else copy.deepcopy(source)
        self._bf16 = bf16
        self._device = next(source.parameters()).device
        self._everything = list(self.student.named_parameters())
        self._learning = scope_parameters(self.student, settings.scope)
        self._trainable = self._learning
        self._optimizer = build_optimizer(self._learning, settings.optimizer)
        anchors = dict(source.named_parameters())
        self._anchors = [anchors[parameter_name].detach().clone() for parameter_name, _ in self._learning]
        self.student.requires_grad_(False)
        if self._learning:
            set_trainable(self._everything, self._learning)
        self._norm = NormStatistics(self.student, settings.norm)
        self._selector = self._build_selector()
        self._generator = torch.Generator().manual_seed(seed)
        self.teacher = self._build_teacher()
        self._mixed = None if settings.objectives.mixed is None else MixedObjective(settings)

    def _build_selector(self) -> ScopeSelector | None:
        scope = self.settings.scope
        if scope.parameters != "suffix":
            return None
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
            return self.student(frames)

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
            return StepReport(moved, decision.detected, decision.signal)
        if self._norm.moves:
            self._norm.absorb()
        losses, scope = self._learn(frames, decision.learning_rate, decision.mix_ratio)
        return StepReport(
            bool(losses) or self._norm.moves, decision.detected, decision.signal, scope, self._rate(), losses
        )

    def _rate(self) -> float | None:
        if self._optimizer is None:
            return None
        group = self._optimizer.param_groups[0]
        return float(group["lr"]) / float(group["lr_scale"])

    def _learn(
        self, frames: Tensor, learning_rate: float | None, mix_ratio: float | None
    ) -> tuple[dict[str, float], str | None]:
        if self._optimizer is None:
            return {}, None
        if learning_rate is not None:
            set_learning_rate(self._optimizer, learning_rate)
        losses: dict[str, float] = {}
        scope: str | None = None
        for _ in range(self.settings.steps):
            scope = self._select_scope()
            if self.teacher is not None:
                self.teacher.update(self.student)
            self._optimizer.zero_grad(set_to_none=True)
            with self._learning_mode():
                losses = self._backward(frames, mix_ratio)
            if not all(value == value and abs(value) != float("inf") for value in losses.values()):
                self._optimizer.zero_grad(set_to_none=True)
                return losses, None
            self._optimizer.step()
            if self._selector is not None:
                self._selector.update(losses.get("mixed", sum(losses.values())))
            self._pull(self.settings.anchor.pull)
        return losses, scope

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
            try:
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
            with self._autocast():
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
        """HAMLET's teacher normalises with the statistics of the crop at hand where the student trains its own."""
        if self.settings.student_mode != "train" or self.teacher is None:
            yield
            return
        with NormStatistics(self.teacher.module, self.settings.norm).of_the_batch():
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
        if share == 0.0 or not self._learning:
            return False
        torch._foreach_lerp_([parameter.data for _, parameter in self._learning], self._anchors, share)
        if self.settings.norm.statistics == "stream":
            self._norm.pull(share)
        return True

    def state_dict(self) -> dict[str, Any]:
        """Everything that later frames depend on; the source network and the replay images are rebuilt, not saved."""
        student = {k: v for k, v in self.student.state_dict().items() if not k.startswith("light_head.")}
        return {
            "student": {name: tensor.clone() for name, tensor in student.items()} if self._learning else {},
            "optimizer": None if self._optimizer is None else self._optimizer.state_dict(),
            "teacher": None if self.teacher is None else self.teacher.state_dict(),
            "selector": None if self._selector is None else self._selector.state_dict(),
            "replay": None if self._replay is None else self._replay.state_dict(),
            "trigger": self._trigger.state_dict(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict` bit for bit."""
        if state["student"]:
            self.student.load_state_dict(state["student"], strict=False)
        for part, saved in (
            (self._optimizer, state["optimizer"]),
            (self.teacher, state["teacher"]),
            (self._selector, state["selector"]),
            (self._replay, state["replay"]),
            (self._trigger, state["trigger"]),
        ):
            if part is not None:
                part.load_state_dict(saved)
        self._generator.set_state(state["generator"])
