"""The student learns what a bigger network says of the frame, until it agrees (JITNet: Mullapudi et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from online_uda.adaptation.frame_pass import FramePass
from online_uda.adaptation.objectives.soft import exact
from online_uda.adaptation.pieces import Pieces
from online_uda.adaptation.settings.objectives import DistilledSettings
from online_uda.networks.segmenter import Segmentation, Segmenter


def mean_agreement(one: Tensor, two: Tensor, num_classes: int) -> float:
    """Mean IoU of two label maps of one shape over the classes that appear in either, in [0, 1]."""
    counts = torch.bincount((one.flatten() * num_classes + two.flatten()), minlength=num_classes**2)
    table = counts.view(num_classes, num_classes).double()
    both = table.diagonal()
    either = table.sum(0) + table.sum(1) - both
    return float((both / either)[either > 0].mean())


class DistilledStep:
    """Gradients of the cross-entropy against the bigger network's labels; none where the two agree enough.

    The bigger network is asked once a frame, however many steps are taken on it.

    Args:
        settings: The objective.
        run: How the student runs on the frame.
        bigger: The network that labels, frozen, of the same classes.
        autocast: For it.
    """

    def __init__(
        self,
        settings: DistilledSettings,
        run: FramePass,
        bigger: Segmenter,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._settings, self._run, self._bigger, self._autocast = settings, run, bigger, autocast
        self._asked: tuple[Tensor, Segmentation] | None = None

    def pieces(self, frames: Tensor) -> Pieces[float | None]:
        """See `FrameObjective.pieces`.

        Args:
            frames: ``(1, 3, H, W)`` float32 RGB in [0, 1].
        """
        passed = yield from self._run.forward(frames, "distilled")
        logits = passed.output.logits
        if self._asked is None or not _same(self._asked[0], frames):
            yield "distilled.ask"
            with torch.no_grad(), self._autocast():
                self._asked = frames, self._bigger(frames)
        yield "distilled.loss"
        labels = _labels_on_the_grid(self._asked[1], passed.output)
        if mean_agreement(logits.argmax(1), labels, logits.shape[1]) >= self._settings.target:
            return None
        loss = F.cross_entropy(exact(logits), labels)
        yield from self._run.backward(passed, self._settings.weight * loss, "distilled")
        return loss.item()

    def forget(self) -> None:
        """See `FrameObjective.forget`."""
        self._asked = None

    def state_dict(self) -> dict[str, Any]:
        """Nothing: a frame is asked about again."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""
        self._asked = None


def _labels_on_the_grid(said: Segmentation, student: Segmentation) -> Tensor:
    """The bigger network's classes on the grid of the student's logits, ``(1, h, w)``."""
    logits, grid = exact(said.logits), student.logits.shape[-2:]
    if said.padded != student.padded:
        (height, width), (rows, columns) = student.size, student.padded
        logits = F.pad(said.full(), (0, columns - width, 0, rows - height), mode="replicate")
    if logits.shape[-2:] != grid:
        logits = F.interpolate(logits, grid, mode="bilinear", align_corners=False, antialias=True)
    return logits.argmax(1)


def _same(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and torch.equal(one, two)
