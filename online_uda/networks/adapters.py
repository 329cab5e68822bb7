"""Small modules beside the layers of a network that learn in their place, inserted without touching its code.

An adapter is a submodule ``adapter`` of the layer it serves and a forward hook that adds its output. It starts with an
output of zero, so that inserting changes nothing. Linear kinds fold exactly into the layer's weight:

* ``lora``: ``W + s B A`` of rank r (Hu et al., 2022), on linear layers and dense convolutions;
* ``two_rank``: ``W + s_l B_l A_l + s_h B_h A_h`` of a low and a high rank (ViDA, specs/methods.md 3);
* ``conv``: a 1x1 convolution beside a larger one (parallel residual adapters, Rebuffi et al., 2018);
* ``side``: BatchNorm and a 3x3 convolution behind a whole stage (EcoTTA, specs/methods.md 3), which does not fold;
* ``adaptformer``: a bottleneck with a ReLU beside or behind an MLP (Chen et al., 2022), which does not fold.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from online_uda.errors import UserError
from online_uda.networks.adapter_layers import AdapterConfig, adapter_for
from online_uda.networks.adapter_targets import layers_to_serve, place_of
from online_uda.networks.segmenter import Segmenter

MARK = ".adapter."


def _beside(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    return output + module.get_submodule("adapter")(inputs[0])


def _behind(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    return output + module.get_submodule("adapter")(output)


def insert_adapters(network: Segmenter, config: AdapterConfig, seed: int) -> list[str]:
    """Inserts adapters into ``network``, which then gives the same logits as before.

    Args:
        network: Changed in place; nothing but its adapters is.
        config: Kind, sizes and targets.
        seed: Of the initial weights.

    Returns:
        Names of the layers served, in order.

    Raises:
        UserError: No layer fits the targets, or there are adapters already.
    """
    if any(True for _ in adapter_parameters(network)):
        raise UserError("adapters: the network has some that do not fold into its weights; it cannot grow others")
    chosen = layers_to_serve(network, config)
    device, dtype = place_of(network)
    channels = _channels(network) if config.kind == "side" else {}
    if not chosen:
        raise UserError("adapters: no stage for side among adapters.targets; stages.0 is the first")
    behind = config.placement == "sequential" or config.kind == "side"
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        for name in chosen:
            layer = network.get_submodule(name)
            layer.add_module(
                "adapter", adapter_for(layer, config, channels.get(_stage_of(name))).to(device=device, dtype=dtype)
            )
            layer.register_forward_hook(_behind if behind else _beside)
    return chosen


def _stage_of(name: str) -> str:
    return ".".join(name.split(".")[:2])


def _channels(network: Segmenter) -> dict[str, int]:
    """Channels of the map of every stage."""
    device, dtype = place_of(network)
    training = network.training
    try:
        with torch.no_grad():
            maps = network.eval()(torch.zeros(1, 3, 64, 64, device=device, dtype=dtype)).features
    finally:
        network.train(training)
    return {f"stages.{index}": int(found.shape[1]) for index, found in enumerate(maps)}


def adapter_parameters(network: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of adapters, by name."""
    for name, parameter in network.named_parameters():
        if MARK in name:
            yield name, parameter


def remove_adapters(network: nn.Module) -> None:
    """Takes adapters and their hooks out; the weights they served are as they were."""
    for module in list(network.modules()):
        if "adapter" in module._modules:
            del module._modules["adapter"]
            for key, hook in list(module._forward_hooks.items()):
                if hook in (_beside, _behind):
                    del module._forward_hooks[key]
