"""A forward and a backward pass of a network cut at the borders of its stages.

The graph is cut where one stage hands its map to the next: each stage works on a detached copy of its input, and the
gradient that arrives there is handed on when the stage before is asked for it. Both ways add the same numbers in the
same order as one pass through the whole graph.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from online_uda.adaptation.pieces import Pieces
from online_uda.networks.segmenter import Segmentation, Segmenter

Within = Callable[[], AbstractContextManager[Any]]
"""Makes the context that every forward piece runs in: mode of the student, autocast."""


@dataclass(slots=True)
class _Cut:
    """A stage's map, and the detached copies of it that the next stage and the head read."""

    out: Tensor
    to_head: Tensor
    to_next: Tensor | None = None


@dataclass(frozen=True, slots=True)
class StagedPass:
    """A network's answer whose gradients have not gone anywhere yet.

    Attributes:
        output: As the network gives it; ``features`` are where the head's gradients stop.
    """

    output: Segmentation
    _cuts: list[_Cut]


def forward_pieces(network: Segmenter, frames: Tensor, within: Within, name: str) -> Pieces[StagedPass]:
    """The forward pass: one piece a stage, one for the head.

    Args:
        network: In the mode that ``within`` brings about.
        frames: ``(B, 3, H, W)`` float32 RGB in [0, 1].
        within: Entered anew for every piece.
        name: What the pieces are called after.
    """
    cuts: list[_Cut] = []
    x, size, padded = frames, (0, 0), (0, 0)
    for number, stage in enumerate(network.stages, start=1):
        yield f"{name}.forward.{number}"
        if cuts:
            x = cuts[-1].to_next = _leaf(cuts[-1].out)
        else:
            x, size, padded = network.normalise(frames)
        with within():
            out = stage(x)
        cuts.append(_Cut(out, _leaf(out)))
    yield f"{name}.forward.head"
    features = tuple(cut.to_head for cut in cuts)
    with within():
        logits = network.head(features)
    return StagedPass(Segmentation(logits, features, size, padded), cuts)


def backward_pieces(passed: StagedPass, loss: Tensor, name: str) -> Pieces[None]:
    """The backward pass of a scalar made from ``passed.output``: head first, then stages down to the last that learns.

    Gradients are added to those of the parameters. The graph is freed on the way.
    """
    yield f"{name}.backward.head"
    loss.backward()
    for number in range(len(passed._cuts), 0, -1):
        cut = passed._cuts[number - 1]
        if not cut.out.requires_grad:
            break
        arrived = [copy.grad for copy in (cut.to_next, cut.to_head) if copy is not None and copy.grad is not None]
        if arrived:
            yield f"{name}.backward.{number}"
            torch.autograd.backward(cut.out, arrived[0] if len(arrived) == 1 else arrived[0] + arrived[1])
        cut.to_head.grad = None


def _leaf(out: Tensor) -> Tensor:
    return out.detach().requires_grad_(out.requires_grad)
