"""A network of one label space that answers in another: its class probabilities are added up by meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from online_uda.networks.segmenter import Segmenter

NEVER = -30.0
"""Log-probability of a class that the network does not know."""


def merged(logits: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """``log sum of softmax(logits)`` over each group: (B, C, h, w) to (B, len(groups), h, w)."""
    log_shares = torch.log_softmax(logits.float(), 1)
    parts = []
    for group in groups:
        if not group:
            parts.append(torch.full_like(log_shares[:, :1], NEVER))
        elif len(group) == 1:
            parts.append(log_shares[:, group[0] : group[0] + 1])
        else:
            parts.append(torch.logsumexp(log_shares[:, list(group)], 1, keepdim=True))
    return torch.cat(parts, 1)


def _after_head(head: nn.Module, _: tuple[Any, ...], output: Tensor) -> Tensor:
    return merged(output, head.class_groups)  # type: ignore[arg-type]


def answer_in(network: Segmenter, groups: Sequence[Sequence[int]]) -> None:
    """Lets ``network`` answer with one class a group; its parameters and their names stay.

    Args:
        network: Changed in place; main, light and auxiliary head alike.
        groups: For each class of the new space, the network's classes that mean it.
    """
    heads = [network.light_head, getattr(network.head, "auxiliary", None)]
    if hasattr(network, "class_groups"):  # a module of somebody else's, whose head nobody can tell
        network.class_groups = tuple(map(tuple, groups))  # type: ignore[assignment]
    else:
        heads.append(network.head)
    for head in heads:
        if head is not None:
            head.class_groups = tuple(map(tuple, groups))
            head.register_forward_hook(_after_head)
    network.answers = len(groups)
