"""From settings to the objectives of the stream's frame."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any

from torch import Tensor

from online_uda.adaptation.distilled_step import DistilledStep
from online_uda.adaptation.entropy_step import EntropyStep
from online_uda.adaptation.frame_pass import FrameObjective, FramePass
from online_uda.adaptation.fused_step import FusedStep
from online_uda.adaptation.likelihood_step import LikelihoodStep
from online_uda.adaptation.near_source_step import NearSourceStep
from online_uda.adaptation.prototype_step import PrototypeStep
from online_uda.adaptation.remembered_step import RememberedStep
from online_uda.adaptation.settings import ObjectiveSettings
from online_uda.adaptation.taught_step import TaughtStep
from online_uda.adaptation.views import Answer, quiet
from online_uda.networks.segmenter import Segmenter
from streams.frame import ClassSet


def frame_objectives(
    wanted: ObjectiveSettings,
    run: FramePass,
    *,
    source: Answer,
    frozen: Segmenter,
    teacher: Segmenter | None,
    of_teacher: Callable[[], AbstractContextManager[Any]],
    autocast: Callable[[], AbstractContextManager[Any]],
    classes: ClassSet,
    source_images: Iterable[Tensor],
    bigger: Segmenter | None,
) -> dict[str, FrameObjective]:
    """The objectives that ``wanted`` asks for, by name, in the order in which a step works through them.

    Args:
        wanted: Settings.
        run: How the student runs on the frame.
        source: Answers of the source network.
        frozen: That network itself.
        teacher: The average of the student; None without one.
        of_teacher: Mode of the teacher's norms, and autocast.
        autocast: For the source network.
        classes: Label space.
        source_images: What prototypes start on.
        bigger: Labels frames for the distilled objective; None without it.
    """
    found: dict[str, FrameObjective] = {}
    if wanted.entropy is not None:
        found["entropy"] = EntropyStep(wanted.entropy, run)
    if wanted.likelihood is not None:
        found["likelihood"] = LikelihoodStep(wanted.likelihood, run, len(classes))
    if wanted.distilled is not None and bigger is not None:
        found["distilled"] = DistilledStep(wanted.distilled, run, bigger, autocast)
    if wanted.prototype is not None and teacher is not None:
        found["prototype"] = PrototypeStep(
            wanted.prototype, run, source=source, num_classes=len(classes), teacher=quiet(teacher, of_teacher),
            images=islice(source_images, wanted.prototype.frames),
        )  # fmt: skip
    if wanted.fused is not None and teacher is not None:
        found["fused"] = FusedStep(wanted.fused, run, quiet(teacher, of_teacher))
    if wanted.remembered is not None and teacher is not None:
        found["remembered"] = RememberedStep(wanted.remembered, run, quiet(teacher, of_teacher), len(classes))
    if wanted.near_source is not None:
        found["near_source"] = NearSourceStep(wanted.near_source, run, source)
    if wanted.taught is not None and teacher is not None:
        found["taught"] = TaughtStep(
            wanted.taught, run, teacher=teacher, source=frozen, of_teacher=of_teacher, autocast=autocast
        )
    return found
