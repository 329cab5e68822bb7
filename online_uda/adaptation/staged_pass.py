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
    """What a stage passes on and its map, with the detached copies of them that the next stage and the head read."""

    out: Tensor
    to_head: Tensor
    mapped: Tensor
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
    """The forward pass: one piece a stage, one for the head; a network that cannot be cut is one piece.

    Args:
        network: In the mode that ``within`` brings about.
        frames: ``(B, 3, H, W)`` float32 RGB in [0, 1].
        within: Entered anew for every piece.
        name: What the pieces are called after.
    """
    if not len(network.stages):
        yield f"{name}.forward.all"
        with within():
            return StagedPass(network(frames), [])
    cuts: list[_Cut] = []
    x: Any = frames
    size = padded = (0, 0)
    for number, stage in enumerate(network.stages, start=1):
        yield f"{name}.forward.{number}"
        if cuts:
            cuts[-1].to_next, x = _passed_on(cuts[-1].out, x)
        else:
            x, size, padded = network.normalise(frames)
        with within():
            x = stage(x)
            out = x[0] if isinstance(x, tuple) else x
            tap = getattr(stage, "tap", None)
            mapped = out if tap is None else tap(x)
        cuts.append(_Cut(out, _leaf(mapped), mapped))
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
    yield from backward_through(passed, name)


def backward_through(passed: StagedPass, name: str) -> Pieces[None]:
    """The rest of a backward pass, stage by stage, after a loss has left its gradients at the features."""
    for number in range(len(passed._cuts), 0, -1):
        cut = passed._cuts[number - 1]
        if not (cut.out.requires_grad or cut.mapped.requires_grad):
            break
        next_grad = None if cut.to_next is None else cut.to_next.grad
        head_grad = cut.to_head.grad
        ends = [(cut.out, next_grad), (cut.mapped, head_grad)]
        if cut.mapped is cut.out and next_grad is not None and head_grad is not None:
            ends = [(cut.out, next_grad + head_grad)]
        arrived = [(end, grad) for end, grad in ends if grad is not None and end.requires_grad]
        if arrived:
            yield f"{name}.backward.{number}"
            torch.autograd.backward([end for end, _ in arrived], [grad for _, grad in arrived])
        cut.to_head.grad = None


def _passed_on(out: Tensor, x: Any) -> tuple[Tensor, Any]:
    """A detached copy of what a stage passed on, and the same as the next stage expects it."""
    leaf = _leaf(out)
    return leaf, (leaf, *x[1:]) if isinstance(x, tuple) else leaf


def _leaf(out: Tensor) -> Tensor:
    return out.detach().requires_grad_(out.requires_grad)
