"""Does an exported graph answer as torch does, with the weights it came with and with others?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from online_uda.errors import UserError
from online_uda.export.graph import WATCHED, weights_of
from online_uda.networks.predictor import WatchedNetwork, Wishes, aliased
from online_uda.networks.segmenter import Segmenter

PARITY = 1e-4
"""Largest difference from torch, as a share of the largest value of an output (or of 1)."""
_SEED = 20261121
Answer = Callable[[Mapping[str, Tensor], Tensor], Sequence[Tensor]]


def perturbed(weights: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Weights as learning could leave them: ten per cent of noise, variances positive."""
    moved = {}
    for name, value in weights.items():
        noise = torch.randn((2, *value.shape), generator=generator).to(value.device)
        moved[name] = value * (0.1 * noise[0]).exp()
        if not name.endswith("running_var"):
            moved[name] += 0.01 * noise[1] * value.square().mean().sqrt().clamp_min(0.1)
    return moved


@torch.no_grad()
def check_parity(answer: Answer, network: Segmenter, size: tuple[int, int], wishes: Wishes) -> float:
    """Compares an exported network with torch, with its present weights and with perturbed ones.

    The perturbed set shows that every moving weight arrives: a graph in which one of them was folded into another
    still agrees on the present weights.

    Args:
        answer: Outputs of the graph for weights by name and frames (1, 3, H, W).
        network: What was exported; not changed.
        size: Height and width of frames.
        wishes: What moves in the graph, and what is watched.

    Returns:
        The largest difference found, as a share of the output's largest value.

    Raises:
        UserError: It is above `PARITY`.
    """
    generator = torch.Generator().manual_seed(_SEED)
    frames = torch.rand((1, 3, *size), generator=generator).to(network.get_buffer("mean").device)
    watched = WatchedNetwork(aliased(network), wishes.watched)
    present = {name: value for name, value in weights_of(network).items() if name in wishes.moving}
    worst = 0.0
    for weights in (present, perturbed(present, generator)):
        found = answer(weights, frames)
        renamed = {WATCHED + name: value for name, value in weights.items()}
        expected = torch.func.functional_call(watched, renamed, (frames,))
        for mine, theirs in zip(found, expected, strict=True):
            difference = float((mine - theirs).abs().max() / theirs.abs().max().clamp_min(1.0))
            worst = difference if difference != difference else max(worst, difference)
    if not worst <= PARITY:
        raise UserError(
            f"the exported network's answers differ from torch's by {worst:.1e} of the largest value, more than "
            f"{PARITY:.0e}; it cannot stand in for it: predict with --backend torch"
        )
    return worst
