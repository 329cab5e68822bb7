"""The canary: a few labelled source images in the present look of the stream, scored by candidate and source network.

The source labels are true in any weather, so the score needs nothing but the frames of the stream: colour moments and
fine detail of the stream are laid over the images (see `online_uda.adaptation.replay.style`) and both networks answer.
What the candidate loses against the source network there, it very likely loses on the stream too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from online_uda.adaptation.guards.signs import agreement, hits_and_unions, mean_iou
from online_uda.adaptation.pieces import Pieces
from online_uda.adaptation.replay.buffer import ReplayBuffer
from online_uda.adaptation.replay.source import crop_size, frame_to_uint8
from online_uda.adaptation.replay.style import Moments, fine_detail, lab_moments, transfer_moments
from online_uda.networks.segmenter import Segmentation

CROP = (1.0, 0.5)
GRID = (6, 6)
_LOOK_RATE = 0.5
_LOOK_IMAGES = 64

Answer = Callable[[Tensor, str], Pieces[Segmentation]]
"""Segments ``(B, 3, H, W)`` float32 RGB in [0, 1] without gradients, in pieces called after the second argument."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What candidate and source network make of the canary.

    Attributes:
        miou: Of the candidate, in percent.
        miou_source: Of the source network.
        agreement: Share of canary pixels on which both agree, in [0, 1].
        agreement_frame: The same on the middle of the stream's own frame.
    """

    miou: float
    miou_source: float
    agreement: float
    agreement_frame: float


def choose_images(counts: NDArray[np.int64], number: int) -> list[int]:
    """Images that show many classes between them: each next one adds the most new classes, then the most balanced.

    Args:
        counts: ``(N, C)`` pixels of every class in every image.
        number: How many to choose; all where there are fewer.
    """
    chosen: list[int] = []
    seen = np.zeros(counts.shape[1], dtype=np.int64)
    for _ in range(min(number, len(counts))):
        # The square root lets a class that is new weigh more than pixels of one that is known.
        worth = np.sqrt(seen + counts).sum(1)
        worth[chosen] = -1.0
        chosen.append(int(worth.argmax()))
        seen += counts[chosen[-1]]
    return chosen


class Canary:
    """Labelled crops of source images, dressed anew in the look of the stream whenever they are scored.

    A few images are noisy: the rare classes of three of them decide points of mIoU. A candidate that is as good as the
    source network on these has passed; one that looks worse is compared on all of them before it is judged.

    Args:
        buffer: Labelled source images; read, and kept in its own memory.
        number: Images that every candidate is scored on.
        most: Images that a candidate is scored on which looks worse than the source network.
        seed: Of the place of the crops.
        device: Where the networks are.
    """

    def __init__(self, buffer: ReplayBuffer, number: int, most: int, seed: int, device: torch.device) -> None:
        self._device, self._first = device, number
        generator = np.random.default_rng(seed)
        height, width = crop_size(buffer.size, CROP)
        spaced = np.unique(np.linspace(0, len(buffer) - 1, _LOOK_IMAGES).round().astype(int))
        each = [lab_moments(buffer.images[index], GRID) for index in spaced]
        self._source_look = Moments(
            np.mean([look.mean for look in each], axis=0, dtype=np.float32),
            np.mean([look.square for look in each], axis=0, dtype=np.float32),
        )
        self._images, self._windows, labels = [], [], []
        for index in choose_images(buffer.counts, max(number, most)):
            top = int(generator.integers(buffer.size[0] - height + 1))
            left = int(generator.integers(buffer.size[1] - width + 1))
            window = (slice(top, top + height), slice(left, left + width))
            self._images.append(buffer.images[index].copy())
            self._windows.append(window)
            labels.append(buffer.labels[index][window])
        self._labels = torch.from_numpy(np.stack(labels)).to(device, torch.int64)
        self._look: Moments | None = None

    def forget(self) -> None:
        """Starts the look afresh: the domain has changed."""
        self._look = None

    def judge(self, candidate: Answer, source: Answer, frames: Tensor) -> Pieces[Judgement]:
        """Scores a candidate, image by image.

        Args:
            candidate: Answers with the weights in question.
            source: Answers with the source network.
            frames: ``(1, 3, H, W)`` float32 RGB in [0, 1], the stream's frame at hand.
        """
        yield "guard.look"
        frame = frame_to_uint8(frames)
        seen = lab_moments(frame, GRID)
        self._look = seen if self._look is None else self._look.towards(seen, _LOOK_RATE)
        detail = fine_detail(frame)
        scores = torch.zeros(2, 3, 0)
        same = []
        for number in range(len(self._images)):
            # All images under one name: a cost model needs to know few stages, and learns them sooner.
            yield "guard.canary.image"
            image, label = self._dressed(number, self._look, detail), self._labels[number : number + 1]
            said = yield from candidate(image, "guard.canary.candidate")
            of_source = yield from source(image, "guard.canary.source")
            answers = [said.logits, of_source.logits]
            counts = torch.stack([hits_and_unions(answer, label) for answer in answers])
            scores = counts if number == 0 else scores + counts
            same.append(agreement(*answers))
            if number + 1 == self._first and mean_iou(scores[0]) >= mean_iou(scores[1]):
                break
        width = int(frames.shape[-1])
        middle = frames[..., width // 4 : width - width // 4]
        said = yield from candidate(middle, "guard.frame.candidate")
        of_source = yield from source(middle, "guard.frame.source")
        on_frame = agreement(said.logits, of_source.logits)
        return Judgement(mean_iou(scores[0]), mean_iou(scores[1]), float(np.mean(same)), on_frame)

    def _dressed(self, number: int, look: Moments, detail: NDArray[np.float32]) -> Tensor:
        styled = transfer_moments(self._images[number], self._source_look, look)
        if detail.shape != styled.shape:
            height, width, _ = styled.shape
            detail = np.asarray(cv2.resize(detail, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
        window = np.clip(styled + detail, 0.0, 1.0)[self._windows[number]]
        return torch.from_numpy(np.ascontiguousarray(window)).permute(2, 0, 1)[None].to(self._device)

    def state_dict(self) -> dict[str, Any]:
        """The look; images and crops follow from buffer and seed."""
        look = self._look
        return {"look": None if look is None else [torch.from_numpy(look.mean), torch.from_numpy(look.square)]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        look = state["look"]
        self._look = None if look is None else Moments(*(part.cpu().numpy().copy() for part in look))
