"""The entropy objective with a memory: which pixels of a frame are sure, new and seen by their shape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from online_uda.adaptation.class_mean import ClassMean
from online_uda.adaptation.frame_pass import FramePass
from online_uda.adaptation.objectives.entropy import pixel_entropy, selected_entropy
from online_uda.adaptation.patch_shuffle import shuffle_patches, window_permutation
from online_uda.adaptation.pieces import Pieces
from online_uda.adaptation.settings import EntropySettings
from online_uda.adaptation.settings.objectives import ShuffleSettings
from online_uda.networks.segmenter import Segmentation


class EntropyStep:
    """Gradients of the entropy of a frame.

    Args:
        settings: The objective.
        run: How the student runs on the frame.
    """

    def __init__(self, settings: EntropySettings, run: FramePass) -> None:
        self._settings, self._run = settings, run
        self._mean = None if settings.redundancy is None else ClassMean(settings.redundancy.rate)

    def pieces(self, frames: Tensor) -> Pieces[float | None]:
        """See `FrameObjective.pieces`.

        Args:
            frames: ``(1, 3, H, W)`` float32 RGB in [0, 1].
        """
        slot = self._settings
        passed = yield from self._run.forward(frames, "entropy")
        among = drop = None
        if slot.shuffle is not None:
            yield "entropy.shuffle"
            drop = self._drop(slot.shuffle, frames, passed.output)
            among = drop > slot.shuffle.min_drop
        yield "entropy.loss"
        logits = passed.output.logits
        if self._mean is not None:
            among = self._news(self._mean, logits, among)
        loss, kept = selected_entropy(
            logits, max_entropy=slot.max_entropy, eta_weighting=slot.eta_weighting, reference=slot.reference,
            class_balance=slot.class_balance, among=among, drop=drop,
        )  # fmt: skip
        if not kept.any():
            return None
        scale = math.log(logits.shape[1]) if slot.normalised else 1.0
        loss = loss / scale
        if slot.variance > 0.0:
            loss = loss + slot.variance * (pixel_entropy(logits) / scale).var()
        if self._mean is not None:
            self._mean.update(_mean_over(logits.detach(), kept))
        yield from self._run.backward(passed, slot.weight * loss, "entropy")
        return loss.item()

    @torch.no_grad()
    def _news(self, mean: ClassMean, logits: Tensor, among: Tensor | None) -> Tensor:
        """Pixels whose prediction is unlike the mean one: all or none of the frame, or one by one."""
        slot = self._settings.redundancy
        assert slot is not None
        kept = torch.ones_like(logits[:, 0], dtype=torch.bool) if among is None else among
        if slot.of == "pixels":
            return kept & (mean.cosine(_exact(logits).softmax(1)).abs() < slot.limit)
        sure = selected_entropy(logits, max_entropy=self._settings.max_entropy, among=kept)[1]
        is_news = not sure.any() or bool(mean.cosine(_mean_over(logits, sure)[None]).abs() < slot.limit)
        return kept if is_news else torch.zeros_like(kept)

    def _drop(self, slot: ShuffleSettings, frames: Tensor, output: Segmentation) -> Tensor:
        """How far each pixel's probability of its class falls where patches change places, ``(1, h, w)``."""
        logits = output.logits.detach()
        strides = [padded // int(side) for padded, side in zip(output.padded, logits.shape[-2:], strict=True)]
        # Whole cells of the logits, so that what was moved can be put back without resampling.
        grid = (min(slot.grid[0], int(frames.shape[-2]) // strides[0]),
                min(slot.grid[1], int(frames.shape[-1]) // strides[1]))  # fmt: skip
        cells = [int(side) // stride // parts for side, stride, parts in
                 zip(frames.shape[-2:], strides, grid, strict=True)]  # fmt: skip
        order = window_permutation(grid, slot.window, self._run.generator)
        patch = (cells[0] * strides[0], cells[1] * strides[1])
        shuffled = self._run.answer(shuffle_patches(frames, grid, patch, order)).logits
        there = shuffle_patches(shuffled, grid, (cells[0], cells[1]), order.argsort())
        probability, labels = _exact(logits).softmax(1).max(1, keepdim=True)
        return (probability - _exact(there).softmax(1).gather(1, labels))[:, 0]

    def forget(self) -> None:
        """See `FrameObjective.forget`."""
        if self._mean is not None:
            self._mean.forget()

    def state_dict(self) -> dict[str, Any]:
        """The mean prediction."""
        return {"mean": None if self._mean is None else self._mean.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        if self._mean is not None:
            self._mean.load_state_dict(state["mean"])


def _exact(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _mean_over(logits: Tensor, kept: Tensor) -> Tensor:
    """Mean probabilities ``(C,)`` over the kept pixels of ``(B, C, H, W)`` logits."""
    return _exact(logits).softmax(1).movedim(1, -1)[kept].mean(0)
