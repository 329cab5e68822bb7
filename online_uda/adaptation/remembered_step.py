"""RoTTA's objective: the student learns, from recoloured frames of the memory, what its average says of them.

Newer frames count more, by ``exp(-a) / (1 + exp(-a))``, a the age in memories (Yuan et al. 2023; specs/methods.md 3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from online_uda.adaptation.class_mean import ClassMean
from online_uda.adaptation.frame_pass import FramePass
from online_uda.adaptation.objectives.entropy import pixel_entropy
from online_uda.adaptation.objectives.soft import exact, soft_cross_entropy
from online_uda.adaptation.photometric import PhotometricAugmentation
from online_uda.adaptation.pieces import Pieces
from online_uda.adaptation.settings.memory import RememberedSettings
from online_uda.adaptation.target_memory import Remembered, TargetMemory
from online_uda.adaptation.views import Answer
from online_uda.networks.segmenter import Segmentation

MEAN_RATE = 0.1


def timeliness(age: float) -> float:
    """Weight of a frame of that age, in lengths of the memory: 1/2 for a new one, falling to 0."""
    return math.exp(-age) / (1.0 + math.exp(-age))


class RememberedStep:
    """Gradients over the frames of the memory, one graph at a time.

    Args:
        settings: The objective.
        run: How the student runs on a frame.
        teacher: The average of the student.
        num_classes: C.
    """

    def __init__(self, settings: RememberedSettings, run: FramePass, teacher: Answer, num_classes: int) -> None:
        self._settings, self._run, self._teacher = settings, run, teacher
        self.memory = TargetMemory(settings.frames, num_classes)
        self._mean = ClassMean(MEAN_RATE)
        strength = settings.jitter_strength
        self._augment = PhotometricAugmentation(
            strength, strength, strength, min(strength, 0.5), 1.0, settings.blur_probability
        )

    @torch.no_grad()
    def watch(self, frames: Tensor, prediction: Segmentation) -> None:
        """Offers a frame of the stream to the memory, whether it is learned from or not.

        A frame's category is the class that it shows most of, measured by how much of it the stream usually shows.
        """
        logits = exact(prediction.logits)
        shares = logits.softmax(1).mean((0, 2, 3))
        usual = shares if self._mean.mean is None else self._mean.mean.to(shares)
        category = int((shares / usual.clamp(min=1e-6)).argmax()) if self._mean.mean is not None else int(
            shares.argmax()
        )  # fmt: skip
        self._mean.update(shares)
        uncertainty = pixel_entropy(logits).mean().item() / math.log(logits.shape[1])
        image = (frames[0] * 255.0 + 0.5).clamp(0, 255).to(torch.uint8).cpu()
        self.memory.offer(Remembered(image, category, uncertainty))

    def pieces(self, frames: Tensor) -> Pieces[float | None]:
        """See `FrameObjective.pieces`; the frame itself counts as far as it is remembered."""
        held = [(item.image, item.age) for item in self.memory.items]
        if not held:
            return None
        total = 0.0
        for number, (image, age) in enumerate(held):
            yield f"remembered.teacher.{number}"
            seen = image.to(device=frames.device, dtype=frames.dtype)[None] / 255.0
            taught = exact(self._teacher(seen).logits).softmax(1)
            passed = yield from self._run.forward(self._augment(seen, self._run.generator), "remembered")
            yield "remembered.loss"
            weight = timeliness(age / self._settings.frames) / len(held)
            loss = weight * soft_cross_entropy(passed.output.logits, taught).mean()
            total += loss.item()
            yield from self._run.backward(passed, self._settings.weight * loss, "remembered")
        return total

    def forget(self) -> None:
        """See `FrameObjective.forget`: the frames stay what they are."""

    def state_dict(self) -> dict[str, Any]:
        """The memory, and what the stream usually shows."""
        return {"memory": self.memory.state_dict(), "mean": self._mean.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self.memory.load_state_dict(state["memory"])
        self._mean.load_state_dict(state["mean"])
