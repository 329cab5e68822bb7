"""Adapters folded into the weights that they serve: exact for the linear kinds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from online_uda.errors import UserError
from online_uda.networks.adapter_layers import FOLDING, AdapterConfig
from online_uda.networks.adapters import MARK, remove_adapters
from online_uda.networks.segmenter import Segmenter


def folded(state: Mapping[str, Tensor], config: AdapterConfig) -> dict[str, Tensor]:
    """A state dict with its adapters folded into the weights they serve, and without them.

    Raises:
        UserError: They are of a kind that does not fold.
    """
    if config.kind not in FOLDING:
        why = "AdaptFormer's bottleneck has a ReLU" if config.kind == "adaptformer" else "a side net normalises its map"
        raise UserError(
            f"adapters: {why} and cannot be folded into weights; take lora, or save it with --format adapters "
            "or as ONNX"
        )
    plain = {name: tensor for name, tensor in state.items() if MARK not in name}
    scales = {"low": config.scale, "high": config.high_scale, "one": config.scale}
    with torch.no_grad():
        for name, tensor in state.items():
            layer, _, part = name.partition(MARK)
            if not part or part.endswith(".down.weight"):
                continue
            which = part.partition(".")[0]
            weight = plain[f"{layer}.weight"]
            if which == "one":
                change = _centred(tensor, weight)
            else:
                down = state[f"{layer}{MARK}{which}.down.weight"]
                change = (tensor.flatten(1) @ down.flatten(1)).view_as(weight)
            plain[f"{layer}.weight"] = weight + scales[which] * change
    return plain


def _centred(one: Tensor, weight: Tensor) -> Tensor:
    change = torch.zeros_like(weight)
    change[..., weight.shape[-2] // 2, weight.shape[-1] // 2] = one[..., 0, 0]
    return change


def merge_adapters(network: Segmenter, config: AdapterConfig) -> None:
    """Folds the adapters into the weights, and takes them and their hooks out.

    Raises:
        UserError: They are of a kind that does not fold.
    """
    plain = folded(network.state_dict(), config)
    remove_adapters(network)
    network.load_state_dict(plain)


class FoldedView:
    """What an average of a network with adapters follows: its folded parameters under the plain network's names."""

    def __init__(self, network: Segmenter, config: AdapterConfig) -> None:
        self._network, self._config = network, config

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters of the plain network, folded."""
        yield from folded(dict(self._network.named_parameters()), self._config).items()

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """The network's buffers."""
        yield from self._network.named_buffers()

    def state_dict(self, *, keep_vars: bool = False) -> dict[str, Tensor]:
        """Names that belong to the saved state; adapters are not among them."""
        return {name: tensor for name, tensor in self._network.state_dict(keep_vars=keep_vars).items()
                if MARK not in name}  # fmt: skip
