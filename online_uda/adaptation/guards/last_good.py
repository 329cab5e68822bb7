"""The weights to go back to: a copy of the last ones that passed, and the source network's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_LIGHT = "light_head."


def _state(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and saved buffers that learning may move, by name; the light head is not among them.

    Their data, whose changes autograd does not see: a graph of these networks may wait for its backward pass.
    """
    state = network.state_dict(keep_vars=True)
    return ((name, tensor.data) for name, tensor in state.items() if not name.startswith(_LIGHT))


class LastGood:
    """Copies the state of some networks of one kind, and puts it back.

    Args:
        source: The frozen source network.
        networks: What learns, then what is averaged from it. Their present state is the first copy; of what the source
            network does not have, adapters, it is the source state: they begin where they change nothing.
    """

    def __init__(self, source: nn.Module, networks: Sequence[nn.Module]) -> None:
        unique = list(dict.fromkeys(networks))
        self._networks = len(unique)
        named = [part for network in unique for part in _state(network)]
        self._live, home = [tensor for _, tensor in named], dict(_state(source))
        self._source = [home[name] if name in home else tensor.clone() for name, tensor in named]
        self._kept = [tensor.clone() for tensor in self._live]

    @property
    def learning(self) -> Sequence[Tensor]:
        """The tensors of the first network, as they are now; the others follow it."""
        return self._live[: len(self._live) // self._networks]

    @torch.no_grad()
    def keep(self) -> None:
        """The present state is good."""
        torch._foreach_copy_(self._kept, self._live)

    @torch.no_grad()
    def restore(self) -> None:
        """Back to what was kept last."""
        torch._foreach_copy_(self._live, self._kept)

    @torch.no_grad()
    def to_source(self) -> None:
        """Back to the source network; that is good."""
        torch._foreach_copy_(self._live, self._source)
        self.keep()

    def state_dict(self) -> dict[str, Any]:
        """The copy."""
        return {"kept": list(self._kept)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues with a copy of the same networks."""
        for own, kept in zip(self._kept, state["kept"], strict=True):
            own.copy_(kept)
