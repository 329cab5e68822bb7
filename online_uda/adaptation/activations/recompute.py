"""Blocks that keep their input alone and run again when their gradients are asked for (Chen et al., "Training Deep Nets
with Sublinear Memory Cost", 2016): the same gradients, for one more forward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from online_uda.errors import UserError
from online_uda.networks.segmenter import Segmenter

Again = Callable[[], AbstractContextManager[Any]]
"""Makes the context in which a block runs a second time: the mode it first ran in, without a trace."""


def blocks(module: nn.Module) -> list[nn.Module]:
    """The outermost repeated parts of a module: what stands in lists of layers, and chains of plain layers."""
    found: list[nn.Module] = []
    chain = isinstance(module, nn.Sequential)
    if chain and len(module._modules) > 1 and not any(list(child.children()) for child in module.children()):
        return [module]
    for child in module.children():
        if isinstance(module, nn.Sequential | nn.ModuleList) and list(child.children()):
            found.append(child)
        else:
            found += blocks(child)
    return found


def blocks_of(network: Segmenter) -> list[nn.Module]:
    """The blocks of every stage; a stage without any is one itself.

    Raises:
        UserError: The network is not cut into stages, and no blocks are found in it.
    """
    if len(network.stages):
        return [block for stage in network.stages for block in blocks(stage) or [stage]]
    found = [block for name, child in network.named_children() if name != "light_head" for block in blocks(child)]
    if not found:
        raise UserError("activations.kind recompute: finds no blocks in this network; set activations=null")
    return found


class Recompute:
    """Runs the blocks of a network so that each keeps its input alone.

    Args:
        network: That learns.
    """

    def __init__(self, network: Segmenter) -> None:
        self._blocks = blocks_of(network)

    @contextmanager
    def around(self, again: Again) -> Iterator[None]:
        """Around a forward pass.

        Args:
            again: Entered when a block runs again during the backward pass. Random numbers and autocast are seen to.
        """
        own = [block.__dict__.get("forward") for block in self._blocks]
        for block in self._blocks:
            # On the instance: hooks of the block stay outside and fire once.
            block.__dict__["forward"] = functools.partial(_checkpointed, block.forward, again)
        try:
            yield
        finally:
            for block, forward in zip(self._blocks, own, strict=True):
                if forward is None:
                    del block.__dict__["forward"]
                else:
                    block.__dict__["forward"] = forward


def _checkpointed(forward: Callable[..., Any], again: Again, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), again()), **kwargs)
