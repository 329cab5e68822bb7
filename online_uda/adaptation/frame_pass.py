"""How an objective runs the student on the stream's frame, and what every such objective offers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from online_uda.adaptation.pieces import Pieces
from online_uda.adaptation.staged_pass import StagedPass, Within, backward_pieces, forward_pieces
from online_uda.networks.segmenter import Segmentation, Segmenter


@dataclass(frozen=True, slots=True)
class FramePass:
    """The student on the frame.

    Attributes:
        student: Gets the gradients.
        within: Mode of the student on the stream's frame, and autocast.
        generator: CPU generator of every draw.
    """

    student: Segmenter
    within: Within
    generator: torch.Generator

    def forward(self, frames: Tensor, name: str) -> Pieces[StagedPass]:
        """The forward pass in pieces, ready for `backward`."""
        return forward_pieces(self.student, frames, self.within, name)

    def backward(self, passed: StagedPass, loss: Tensor, name: str) -> Pieces[None]:
        """The backward pass in pieces."""
        return backward_pieces(passed, loss, name)

    def answer(self, frames: Tensor) -> Segmentation:
        """What the student says of ``frames``, without a graph."""
        with torch.no_grad(), self.within():
            return self.student(frames)


class Remembering(Protocol):
    """An objective with a memory of its own."""

    def forget(self) -> None:
        """The weights go back to where they started; so does the memory."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The memory."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        ...


class FrameObjective(Remembering, Protocol):
    """A loss of the stream's frame."""

    def pieces(self, frames: Tensor) -> Pieces[float | None]:
        """Adds the gradients of the weighted loss; gives it unweighted, None where nothing could be learned from."""
        ...
