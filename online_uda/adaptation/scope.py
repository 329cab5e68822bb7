"""Which parameters learn: by role, or HAMLET's suffix of modules; and the optimiser groups they sit in."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from online_uda.adaptation.settings import OptimizerSettings, ScopeSettings
from online_uda.errors import UserError
from online_uda.networks.adapters import MARK
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

    Raises:
        UserError: A pattern fits no parameter, or there are fewer modules than ``first_module``.
    """
    chosen = _of_role(network, settings)
    frozen = set(_matching(network, settings.freeze, "scope.freeze")) if settings.freeze else set()
    for index in range(max(0, network.stage_count - settings.spare_last), network.stage_count):
        frozen.update(name for name, _ in network.stage_parameters(index))
    return [(name, parameter) for name, parameter in chosen if name not in frozen]


def _of_role(network: Segmenter, settings: ScopeSettings) -> list[tuple[str, nn.Parameter]]:
    role = settings.parameters
    if role == "none":
        return []
    if role == "norm":
        return list(norm_parameters(network))
    if role == "head":
        return list(network.head_parameters())
    everything = list(network.learnable_parameters())
    if role in ("all", "hybrid"):
        return everything
    if role == "bias":
        return [(name, parameter) for name, parameter in everything if name.rpartition(".")[2] == "bias"]
    if role == "adapters":
        return [(name, parameter) for name, parameter in everything if MARK in name]
    if role == "names":
        wanted = set(_matching(network, settings.names, "scope.names"))
        return [(name, parameter) for name, parameter in everything if name in wanted]
    first = settings.first_module if settings.select == "fixed" else 1
    if first > network.stage_count:
        count = network.stage_count
        raise UserError(f"scope.first_module {first}: this network has {count} modules; give 1 to {count}")
    return suffix_parameters(network, first, settings.train_fuse)


def freeze_statistics(network: nn.Module, settings: ScopeSettings) -> None:
    """BatchNorm layers below a frozen pattern keep their statistics too, in whatever mode the student learns."""
    for name, module in network.named_modules():
        inside = (fnmatchcase(f"{name}.weight", pattern) or f"{name}.".startswith(f"{pattern}.")
                  for pattern in settings.freeze)  # fmt: skip
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and any(inside):
            module.keeps_source_statistics = True  # type: ignore[assignment]


def _matching(network: Segmenter, patterns: Sequence[str], key: str) -> list[str]:
    """Names that fit any pattern; ``stages.3`` stands for all below it.

    Raises:
        UserError: A pattern fits nothing.
    """
    names = [name for name, _ in network.learnable_parameters()]
    found: list[str] = []
    for pattern in patterns:
        fitting = [name for name in names if fnmatchcase(name, pattern) or name.startswith(pattern + ".")]
        if not fitting:
            parts = [name.split(".") for name in names]
            known = dict.fromkeys(".".join(part[:depth]) for part in parts for depth in range(1, len(part) + 1))
            near = difflib.get_close_matches(pattern.removesuffix(".*"), known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            heads = ", ".join(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))
            raise UserError(f"{key}: {pattern!r} fits no parameter; {hint}names start with {heads[:120]}")
        found += fitting
    return found


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
