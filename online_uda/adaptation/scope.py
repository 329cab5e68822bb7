"""Which parameters learn: by role, or HAMLET's suffix of modules; and the optimiser groups they sit in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from online_uda.adaptation.settings import OptimizerSettings, ScopeSettings
from online_uda.errors import UserError
from online_uda.networks.segmenter import Segmenter

NORM_TYPES = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d, nn.SyncBatchNorm, nn.InstanceNorm2d)
HELPERS = ("light_head.", "head.auxiliary.")
"""Heads that no prediction comes from; no scope trains them."""


def norm_parameters(network: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Scales and shifts of every normalisation layer, whatever its type, outside the helper heads."""
    for name, module in network.named_modules():
        if isinstance(module, NORM_TYPES) and not name.startswith(HELPERS):
            yield from module.named_parameters(name, recurse=False)


def scope_parameters(network: Segmenter, settings: ScopeSettings) -> list[tuple[str, nn.Parameter]]:
    """Every parameter that the scope may ever train; the helper heads are never among them.

    Args:
        network: The student.
        settings: The scope slot. ``suffix`` gives the modules from ``first_module`` (fixed) or from 1 (hamt) on.
    """
    if settings.parameters == "none":
        return []
    if settings.parameters == "norm":
        return list(norm_parameters(network))
    if settings.parameters == "head":
        return list(network.head_parameters())
    if settings.parameters == "all":
        return list(network.learnable_parameters())
    first = settings.first_module if settings.select == "fixed" else 1
    if first > network.stage_count:
        count = network.stage_count
        raise UserError(f"scope.first_module {first}: this network has {count} modules; give 1 to {count}")
    return suffix_parameters(network, first, settings.train_fuse)


def suffix_parameters(network: Segmenter, first: int, train_fuse: bool) -> list[tuple[str, nn.Parameter]]:
    """HAMLET's modules ``first`` .. last, 1-based; with ``train_fuse`` the rest of the head too."""
    chosen: dict[str, nn.Parameter] = {}
    for index in range(first - 1, network.stage_count):
        chosen.update(network.module_parameters(index))
    if train_fuse:
        linears = tuple(f"head.linears.{index}." for index in range(network.stage_count))
        chosen.update((n, p) for n, p in network.head_parameters() if not n.startswith(linears))
    return list(chosen.items())


def set_trainable(everything: list[tuple[str, nn.Parameter]], chosen: list[tuple[str, nn.Parameter]]) -> None:
    """Lets exactly ``chosen`` learn; the others lose their gradient, so that no optimiser state moves them."""
    names = {name for name, _ in chosen}
    for name, parameter in everything:
        parameter.requires_grad_(name in names)
        parameter.grad = None


def build_optimizer(
    parameters: list[tuple[str, nn.Parameter]], settings: OptimizerSettings, heads: frozenset[str] = frozenset()
) -> torch.optim.Optimizer | None:
    """One optimiser with each parameter in exactly one group: encoder or head, matrix or vector.

    The head's groups carry ``lr_scale`` so that a changed rate keeps the head's factor. None when nothing learns.

    Args:
        parameters: What learns.
        settings: The optimiser slot.
        heads: Names that belong to the head beside those below ``head.``.
    """
    groups: list[dict[str, Any]] = []
    for head in (False, True):
        for vector in (False, True):
            members = [
                p for n, p in parameters if (n.startswith("head.") or n in heads) == head and (p.dim() <= 1) == vector
            ]
            if members:
                scale = settings.head_factor if head else 1.0
                decay = 0.0 if vector else settings.weight_decay
                rate = settings.learning_rate * scale
                groups.append({"params": members, "lr": rate, "lr_scale": scale, "weight_decay": decay})
    if not groups:
        return None
    if settings.name == "sgd":
        return torch.optim.SGD(groups, momentum=settings.momentum)
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    return kind(groups, betas=(settings.momentum, 0.999))
