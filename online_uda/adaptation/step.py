"""The gradients of one learning step: every objective of a method, in pieces, one graph at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor

from online_uda.adaptation.activations.saving import Saving
from online_uda.adaptation.adversarial_step import AdversarialStep
from online_uda.adaptation.discrepancy_step import DiscrepancyStep
from online_uda.adaptation.feature_terms import Contrast, Whitening
from online_uda.adaptation.frame_objectives import frame_objectives
from online_uda.adaptation.frame_pass import FramePass, Remembering
from online_uda.adaptation.mixed_step import MixedObjective
from online_uda.adaptation.norm import NormStatistics
from online_uda.adaptation.objectives.feature_distance import dominated_cells, feature_distance
from online_uda.adaptation.pieces import Effort, Pieces, window
from online_uda.adaptation.remembered_step import RememberedStep
from online_uda.adaptation.replay.rare_paste import RarePatches
from online_uda.adaptation.replay.source import SourceReplay
from online_uda.adaptation.settings import MethodSettings
from online_uda.adaptation.soft_paste import Layered, Patch, paste_all, plain
from online_uda.adaptation.staged_pass import Within
from online_uda.adaptation.student_mode import StudentMode
from online_uda.adaptation.teacher import EMATeacher
from online_uda.adaptation.transfer_step import TransferStep
from online_uda.adaptation.views import quiet
from online_uda.networks.segmenter import Segmentation, Segmenter
from streams.frame import ClassSet


class StepGradients:
    """Adds up the gradients of a method's objectives, one graph after the other to keep the peak memory down.

    Args:
        settings: Of the method.
        student: Gets the gradients.
        source: The frozen network that features are kept near.
        classes: Label space.
        teacher: Labels the frame for the mixed objective; None without one.
        replay: Labelled source images; None without the slot.
        mode: Of the student while it learns.
        autocast: Makes the autocast context of a forward pass.
        generator: Of mixing and of windows.
        bigger: Labels frames for the distilled objective; None without it.
        source_images: What prototypes start on.
    """

    def __init__(
        self,
        settings: MethodSettings,
        *,
        student: Segmenter,
        source: Segmenter,
        classes: ClassSet,
        teacher: EMATeacher | None,
        replay: SourceReplay | None,
        mode: StudentMode,
        autocast: Callable[[], AbstractContextManager[Any]],
        generator: torch.Generator,
        bigger: Segmenter | None = None,
        source_images: Iterable[Tensor] = (),
    ) -> None:
        self._settings, self._wanted = settings, settings.objectives
        self._student, self._source, self._classes = student, source, classes
        self._teacher, self._replay, self._mode = teacher, replay, mode
        self._autocast, self._generator = autocast, generator
        self._teacher_norm = None if teacher is None else NormStatistics(teacher.module, settings.norm)
        self._mixed = None if self._wanted.mixed is None else MixedObjective(settings)
        self._rare = None
        if settings.mixing is not None and settings.mixing.rare and replay is not None:
            self._rare = RarePatches(replay.buffer, settings.mixing.rare_pool, replay.crop_size)
        self._device = next(student.parameters()).device
        self._saving = Saving(settings.activations, student, self._looking)
        run = FramePass(student, self._within(mode.on_the_frame, mode.again_on_the_frame), generator)
        of_source = quiet(source, autocast)
        self._of_the_frame = frame_objectives(
            self._wanted, run, source=of_source, classes=classes, source_images=source_images, bigger=bigger,
            frozen=source, autocast=autocast, of_teacher=self._within_teacher,
            teacher=None if teacher is None else cast(Segmenter, teacher.module),
        )  # fmt: skip
        self._on_source = on_source = FramePass(student, self._within(mode, mode.again), generator)
        adversarial, discrepancy = self._wanted.adversarial, self._wanted.discrepancy
        self._adversarial = None if adversarial is None else AdversarialStep(adversarial, run, on_source, of_source)
        self._discrepancy = None if discrepancy is None else DiscrepancyStep(discrepancy, run, on_source)
        transfer = self._wanted.transfer
        self._transfer = None if transfer is None else TransferStep(transfer, run, on_source, len(classes))
        whitening, contrast = self._wanted.whitening, self._wanted.contrast
        self._whitening = None if whitening is None else Whitening(whitening, of_source, source_images, generator)
        self._contrast = None if contrast is None else Contrast(contrast, classes)

    def pieces(self, frames: Tensor, mix_ratio: float | None, effort: Effort) -> Pieces[dict[str, float]]:
        """Work through every objective; the result is their unweighted losses by name.

        Args:
            frames: ``(1, 3, H, W)`` float32 RGB in [0, 1], the stream's frame.
            mix_ratio: ClassMix ratio; None leaves the near value.
            effort: Share of the images to learn from.
        """
        losses: dict[str, float] = {}
        yield from self._saving.look(frames)
        alone = self._wanted.adversarial is not None and self._wanted.adversarial.phase == "disc_only"
        for name, objective in {} if alone else self._of_the_frame.items():
            loss = yield from objective.pieces(self._narrow(frames, effort))
            if loss is not None:
                losses[name] = loss
        if self._replay is None or not self._wanted.draws_source:
            return losses
        yield "replay.draw"
        images, labels = self._replay.draw(self._device)
        columns = window(int(images.shape[-1]), effort.crop, self._generator)
        images, labels = images[..., columns], labels[..., columns]
        patches = self._patches(columns)
        if self._adversarial is not None:
            losses["adversarial"] = yield from self._adversarial.pieces(self._narrow(frames, effort), images)
            if alone:
                return losses
        if self._discrepancy is not None:
            losses["discrepancy"] = yield from self._discrepancy.pieces(self._narrow(frames, effort), images)
        if self._transfer is not None:
            losses["transfer"] = yield from self._transfer.pieces(self._narrow(frames, effort), images, labels)
        if self._wanted.replay is not None:
            seen = plain(images, labels)
            if self._mixed is not None:
                seen = paste_all(seen, patches, self._mixed.opacity)
            losses.update((yield from self._source_labels(seen)))
        if self._mixed is not None and self._teacher is not None:
            made = yield from self._mixture(self._mixed, self._teacher, frames, images, labels, mix_ratio, patches)
            for name, value in made.items():
                losses[name] = losses.get(name, 0.0) + value
        return losses

    def _narrow(self, frames: Tensor, effort: Effort) -> Tensor:
        return frames[..., window(int(frames.shape[-1]), effort.crop, self._generator)]

    def _patches(self, columns: slice) -> list[Patch]:
        """Patches of rare classes, in the same window as the replayed images."""
        if self._rare is None or self._settings.mixing is None:
            return []
        drawn = self._rare.draw(self._settings.mixing.rare, self._generator, self._device)
        return [Patch(*(part[..., columns] for part in (one.images, one.labels, one.mask))) for one in drawn]

    def _source_labels(self, seen: Layered) -> Pieces[dict[str, float]]:
        """Cross-entropy on labelled source images, and the distance of their features to the source network's."""
        slot, apart = self._wanted.replay, self._wanted.feature_distance
        assert slot is not None
        images, labels = seen.images, seen.labels
        passed = yield from self._on_source.forward(images, "replay")
        yield "replay.loss"
        height, width = (int(side) // slot.stride for side in labels.shape[-2:])
        loss = seen.loss(passed.output.full((height, width)), slot.stride)
        losses = {"replay": loss.item()}
        total = slot.weight * loss
        if apart is not None:
            yield "replay.anchors"
            with torch.no_grad(), self._autocast():
                x, _, _ = self._source.normalise(images)
                anchors = self._source.encode(x)[-1]
            features = passed.output.features[-1]
            size = (int(features.shape[-2]), int(features.shape[-1]))
            mask = dominated_cells(labels, size, self._classes.things, apart.min_share)
            distance = feature_distance(features.float(), anchors.float(), mask)
            total = total + apart.weight * distance
            losses["feature_distance"] = distance.item()
        if self._whitening is not None and self._wanted.whitening is not None:
            term = self._whitening(passed.output.features)
            total = total + self._wanted.whitening.weight * term
            losses["whitening"] = term.item()
        contrast = self._wanted.contrast
        if self._contrast is not None and contrast is not None and contrast.of != "mixed":
            term = self._contrast(passed.output.features, labels)
            total = total + contrast.weight * term
            losses["contrast"] = term.item()
        yield from self._on_source.backward(passed, total, "replay")
        return losses

    def _mixture(
        self,
        objective: MixedObjective,
        teacher: EMATeacher,
        frames: Tensor,
        images: Tensor,
        labels: Tensor,
        ratio: float | None,
        patches: list[Patch],
    ) -> Pieces[dict[str, float]]:
        yield "mixed.teach"
        with self._within_teacher(), torch.no_grad():
            target = objective.crop(frames, (int(images.shape[-2]), int(images.shape[-1])), self._generator)
            taught = teacher.module(target)
        yield "mixed.mix"
        mixed = objective.mix(images, labels, target, taught.full(), ratio, self._generator, patches)
        passed = yield from self._on_source.forward(mixed.images, "mixed")
        yield "mixed.loss"
        loss = mixed.loss(passed.output.full())
        losses, total = {"mixed": loss.item()}, objective.weight * loss
        contrast = self._wanted.contrast
        if self._contrast is not None and contrast is not None and contrast.of != "replay":
            term = self._contrast(passed.output.features, mixed.labels, mixed.weights)
            total = total + contrast.weight * term
            losses["contrast"] = term.item()
        yield from self._on_source.backward(passed, total, "mixed")
        return losses

    def watch(self, frames: Tensor, prediction: Segmentation) -> None:
        """Shows a predicted frame to the objectives that remember frames, whether it is learned from or not."""
        remembered = self._of_the_frame.get("remembered")
        if isinstance(remembered, RememberedStep):
            remembered.watch(frames, prediction)

    def shifted(self) -> None:
        """The trigger has found that the domain changed."""
        if self._adversarial is not None:
            self._adversarial.shifted()

    def forget(self) -> None:
        """The weights start anew: the memories of the objectives too."""
        for objective in self._remembering().values():
            objective.forget()

    def _remembering(self) -> dict[str, Remembering]:
        """Objectives with a memory, by name."""
        found: dict[str, Remembering] = dict(self._of_the_frame)
        of_source: dict[str, Remembering | None] = {
            "adversarial": self._adversarial, "transfer": self._transfer, "mixed": self._mixed,
            "activations": self._saving.prune,
        }  # fmt: skip
        return {**found, **{name: part for name, part in of_source.items() if part is not None}}

    def state_dict(self) -> dict[str, Any]:
        """Memories of the objectives."""
        return {name: objective.state_dict() for name, objective in self._remembering().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        for name, objective in self._remembering().items():
            objective.load_state_dict(state[name])

    def _within(
        self, mode: Callable[[], AbstractContextManager[None]], again: Callable[[], AbstractContextManager[None]]
    ) -> Within:
        @contextmanager
        def both() -> Iterator[None]:
            with mode(), self._autocast(), self._saving.around(again):
                yield

        return both

    @contextmanager
    def _looking(self) -> Iterator[None]:
        with self._mode.looking(), self._autocast():
            yield

    @contextmanager
    def _within_teacher(self) -> Iterator[None]:
        with self._norm_of_teacher(), self._autocast():
            yield

    def _norm_of_teacher(self) -> AbstractContextManager[None]:
        """The teacher normalises with the statistics of the crop at hand where the student does (HAMLET)."""
        if self._teacher_norm is None:
            return nullcontext()
        if self._settings.student_mode == "train":
            return self._teacher_norm.of_the_batch()
        return self._teacher_norm.learning()
