"""Scores a predicted frame beside the frozen network: off every latency clock, before anything is learned from it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from online_uda.config import RunPlan
from online_uda.evaluation.latency import LatencyMeter
from online_uda.evaluation.prequential import FrameScore, PrequentialEvaluator
from online_uda.evaluation.sureness import Counts, right_and_wrong
from online_uda.networks.segmenter import Segmentation, Segmenter
from online_uda.networks.views import Views
from online_uda.reports.record import FrameImages, FrameRecord
from online_uda.runtime.device import Precision, autocast
from streams.frame import Frame, StreamItem, Truth

Mask = NDArray[np.uint8]


def to_tensor(image: Any, device: torch.device) -> Tensor:
    """A camera image ``(H, W, 3)`` uint8 RGB as ``(1, 3, H, W)`` float32 in [0, 1] on ``device``."""
    return torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float().div_(255.0)


class Scorer:
    """The evaluator, the latency meter, and the frozen network that every frame is compared with.

    Args:
        plan: Of the run.
        evaluator: Takes the scores.
        frozen: The source network on ``device``; shared with nobody.
        device: Where frames go.
    """

    def __init__(self, plan: RunPlan, evaluator: PrequentialEvaluator, frozen: Segmenter, device: torch.device) -> None:
        self.evaluator, self.frozen, self.device = evaluator, frozen, device
        self.latency = LatencyMeter()
        self.is_frozen = plan.is_frozen
        self._precision: Precision = "bf16" if plan.run.precision == "bf16" else "fp32"
        self._views = Views(plan.run.inference)  # those of the adapted network, so that only the weights differ
        self._beside: ThreadPoolExecutor | None = None
        if plan.run.beside and not self.is_frozen:
            threads = plan.run.threads or 1  # a new thread of the process would take all cores
            self._beside = ThreadPoolExecutor(1, "frozen", partial(torch.set_num_threads, threads))

    def label_size(self, truth: Truth, mask: Mask) -> tuple[int, int]:
        """Height and width that a frame is scored at: its label's, or those of its mask."""
        height, width = mask.shape if truth.label is None else truth.label.shape
        return height, width

    def at_label_size(self, truth: Truth, mask: Mask, prediction: Segmentation) -> Mask:
        """The mask ``(h, w)`` at the size of the label; ``mask`` itself where that is its own."""
        size = self.label_size(truth, mask)
        return mask if size == mask.shape else prediction.labels(size).cpu().numpy()[0]

    def ask_frozen(self, frame: Frame, truth: Truth) -> Callable[[Tensor, Mask], Mask]:
        """Asks the frozen network beside what follows, where the run has a core for it; else when it is waited for.

        Returns:
            Waits for the answer: from the frame as a tensor and the mask that it is compared with, as `frozen_mask`.
        """
        if self._beside is None:
            return self.frozen_mask
        height, width = frame.image.shape[:2] if truth.label is None else truth.label.shape
        asked = self._beside.submit(lambda: self.plain_mask(to_tensor(frame.image, self.device), (height, width)))
        return lambda frames, scored: asked.result()

    def close(self) -> None:
        """Ends the thread of the frozen network."""
        if self._beside is not None:
            self._beside.shutdown(cancel_futures=True)

    def frozen_mask(self, frames: Tensor, scored: Mask) -> Mask:
        """What the frozen network says to ``frames``, at the size of ``scored``; no clock runs."""
        if self.is_frozen:
            return scored
        height, width = scored.shape
        return self.plain_mask(frames, (height, width))

    def plain_mask(self, frames: Tensor, size: tuple[int, int]) -> Mask:
        """What the frozen network says to ``frames``, at ``size`` = (height, width): a plain forward pass."""
        with torch.inference_mode(), autocast(self.device, self._precision):
            return self._views(self.frozen, frames).labels(size).cpu().numpy()[0]

    def score(self, frame: Frame, truth: Truth, scored: Mask, scored_frozen: Mask) -> tuple[FrameScore, FrameImages]:
        """Scores two masks of a frame, both at the label's size."""
        score = self.evaluator.update(frame.index, truth, scored, scored_frozen)
        return score, FrameImages(frame.image, scored, scored_frozen, truth.label)

    @staticmethod
    def confidence(prediction: Segmentation) -> float:
        """Mean probability of the predicted class, in percent, over every other pixel of the logits."""
        with torch.inference_mode():
            return 100.0 * float(prediction.logits[..., ::2, ::2].float().softmax(1).amax(1).mean())

    @staticmethod
    def sureness(prediction: Segmentation, truth: Truth) -> Counts | None:
        """Right and wrong by probability, at the places that `confidence` looks at; None without a label."""
        if truth.label is None:
            return None
        with torch.inference_mode():
            found = prediction.logits[0, :, ::2, ::2].float().softmax(0).max(0)
        probability, answer = found.values.cpu().numpy(), found.indices.cpu().numpy()
        places = []
        for axis, label_side in enumerate(truth.label.shape):
            cells, side = prediction.logits.shape[2 + axis], prediction.size[axis]
            middle = (np.arange(0, cells, 2) + 0.5) * prediction.padded[axis] / cells
            places.append(np.floor(middle[middle < side] * label_side / side).astype(np.int64))
        rows, columns = places
        cut = (slice(len(rows)), slice(len(columns)))
        return right_and_wrong(probability[cut], answer[cut], truth.label[np.ix_(rows, columns)])

    def fault(self, item: StreamItem) -> FrameRecord:
        """Counts and records a tick without a usable frame."""
        reason = item.fault or "no frame"
        self.evaluator.note_fault(item.index, item.truth, reason)
        visit = self.evaluator.visits[-1]
        return FrameRecord(
            item.index, item.truth.domain, item.truth.visit, fault=reason, visit_miou=visit.miou,
            visit_miou_frozen=visit.miou_frozen,
        )  # fmt: skip
