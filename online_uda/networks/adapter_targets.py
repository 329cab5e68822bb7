"""Which layers get an adapter: by pattern or by default, of a fitting kind, and run when the network does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from online_uda.errors import UserError
from online_uda.networks.adapter_layers import AdapterConfig, mlp_width
from online_uda.networks.segmenter import Segmenter

_DEFAULT_TARGETS: dict[str, tuple[str, ...]] = {
    "lora": ("*.query", "*.value", "*.qkv", "*.q", "*.v", "*.kv", "*.q_proj", "*.v_proj"),
    "two_rank": ("*.query", "*.value", "*.qkv", "*.q", "*.v", "*.kv", "*.q_proj", "*.v_proj"),
    "conv": ("*",),
    "adaptformer": ("*.ffn", "*.mlp"),
    "side": ("stages.?", "stages.??"),
}


def layers_to_serve(network: Segmenter, config: AdapterConfig) -> list[str]:
    """Names of the layers that get an adapter, in order.

    Raises:
        UserError: No layer fits the targets.
    """
    if config.kind == "side":
        wanted = [index for index in range(len(network.stages)) if _maps(network, index, config)]
        return [_end_of(network.stages[index], f"stages.{index}") for index in wanted]
    helpers = ("light_head", "head.auxiliary")
    names = {name: module for name, module in network.named_modules() if not name.startswith(helpers)}
    patterns = config.targets or _DEFAULT_TARGETS[config.kind]
    chosen = _called(network, _chosen(network, names, patterns, config))
    if not chosen and not config.targets and config.kind in ("lora", "two_rank"):
        chosen = _called(network, _chosen(network, names, ("*",), config))  # no attention, or one that hides its layers
    if not chosen:
        shown = ", ".join(patterns[:4])
        raise UserError(
            f"adapters: no layer for {config.kind} among {shown}; adapters.targets takes patterns of module names, "
            f"such as {next(iter(list(names)[5:6]), '*')}"
        )
    return chosen


def _maps(network: Segmenter, index: int, config: AdapterConfig) -> bool:
    """Whether stage ``index`` is among the targets.

    Raises:
        UserError: It passes on something else than the map that the heads read.
    """
    patterns = config.targets or _DEFAULT_TARGETS["side"]
    if not any(fnmatchcase(f"stages.{index}", pattern) for pattern in patterns):
        return False
    if getattr(network.stages[index], "tap", None) is not None:
        raise UserError("adapters: side nets need stages that pass on maps; this network passes on tokens, take lora")
    return True


def _end_of(stage: nn.Module, name: str) -> str:
    """The module that gives the stage's map: of a sequence its last part, for it would run what is added to it."""
    while isinstance(stage, nn.Sequential) and len(stage):
        last = list(stage._modules)[-1]
        stage, name = stage[-1], f"{name}.{last}"
    return name


def _chosen(
    network: Segmenter, names: Mapping[str, nn.Module], patterns: Sequence[str], config: AdapterConfig
) -> list[str]:
    head = {name.rpartition(".")[0] for name, _ in network.head_parameters()}
    found = []
    for name, module in names.items():
        in_head = name in head or name.startswith("head")
        if not (config.targets == () and in_head) and any(fnmatchcase(name, pattern) for pattern in patterns):
            found += [name] if _fits(module, config.kind) else []
    return found


def _fits(module: nn.Module, kind: str) -> bool:
    if kind == "adaptformer":
        return mlp_width(module) is not None
    dense = isinstance(module, nn.Conv2d) and module.groups == 1
    if kind == "conv":
        return isinstance(module, nn.Conv2d) and _keeps_centre(module)
    return isinstance(module, nn.Linear) or dense


def _keeps_centre(layer: nn.Conv2d) -> bool:
    """Whether a 1x1 convolution of the same stride reads the centre of each window."""
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        return False
    same = all(
        kernel % 2 == 1 and padding == dilation * (kernel // 2)
        for kernel, padding, dilation in zip(layer.kernel_size, layer.padding, layer.dilation, strict=True)
    )
    return same and max(layer.kernel_size) > 1


def _called(network: Segmenter, names: Sequence[str]) -> list[str]:
    """Those that run when the network does, in order; some only lend their weights, which no hook can see."""
    seen: set[str] = set()
    handles = []
    for name in names:

        def hook(*_: Any, name: str = name) -> None:
            seen.add(name)

        handles.append(network.get_submodule(name).register_forward_hook(hook))
    training = network.training
    device, dtype = place_of(network)
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, 64, 64, device=device, dtype=dtype))
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    return [name for name in names if name in seen]


def place_of(network: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a network is, and of which kind its weights are."""
    first = next(network.parameters())
    return first.device, first.dtype
