"""What a scope costs, for people: parameters, share, memory and the time of a step, by part of the network."""

from __future__ import annotations

import copy
import time

import torch
from torch import nn

from online_uda.adaptation.scope import set_trainable
from online_uda.networks.segmenter import Segmenter

_BYTES = {"sgd": 2, "adam": 3, "adamw": 3}
"""Copies of a learning parameter beside itself: gradient and moments, and the source's value to be pulled to."""


def scope_table(
    network: Segmenter,
    learning: list[tuple[str, nn.Parameter]],
    *,
    optimizer: str,
    size: tuple[int, int],
) -> str:
    """A table of what learns.

    Args:
        network: The student; read, and copied for the measurement.
        learning: The parameters that learn, with their names.
        optimizer: ``sgd``, ``adam`` or ``adamw``: how many numbers it keeps for each.
        size: Height and width of a frame.
    """
    names = {name for name, _ in learning}
    whole = dict(network.learnable_parameters())
    parts: dict[str, list[str]] = {}
    for index in range(network.stage_count):
        parts[f"stage {index + 1}"] = [name for name, _ in network.stage_parameters(index)]
    parts["head"] = [name for name, _ in network.head_parameters()]
    copies = 1 + _BYTES[optimizer]
    lines = [f"{'learns':<10}{'tensors':>9}{'parameters':>14}{'share':>9}{'memory':>12}"]
    for title, members in [*parts.items(), ("all", list(whole))]:
        chosen = [name for name in members if name in names and name in whole]
        count = sum(whole[name].numel() for name in chosen)
        total = sum(whole[name].numel() for name in members if name in whole)
        memory = sum(whole[name].numel() * whole[name].element_size() for name in chosen) * copies / 2**20
        share = 100.0 * count / max(1, total)
        lines.append(f"{title:<10}{len(chosen):>9}{count:>14,}{share:>8.2f}%{memory:>8.2f} MiB")
    predict_ms, step_ms = measure_step(network, names, size)
    height, width = size
    lines.append(f"measured once at {width}x{height}: a prediction {predict_ms:.0f} ms, a step {step_ms:.0f} ms")
    return "\n".join(lines)


def measure_step(network: Segmenter, names: set[str], size: tuple[int, int]) -> tuple[float, float]:
    """Milliseconds of a prediction, and of forward and backward with ``names`` learning; each once after a warm-up."""
    network = copy.deepcopy(network).eval()
    everything = list(network.named_parameters())
    set_trainable(everything, [(name, parameter) for name, parameter in everything if name in names])
    frames = torch.rand(1, 3, *size, device=everything[0][1].device)
    took = {"predict": 0.0, "step": 0.0}
    for _ in range(2):
        started = time.perf_counter()
        with torch.no_grad():
            network(frames)
        _wait(frames)
        took["predict"] = time.perf_counter() - started
        if not names:
            continue
        started = time.perf_counter()
        network(frames).logits.float().square().mean().backward()
        _wait(frames)
        took["step"] = time.perf_counter() - started
    return 1000.0 * took["predict"], 1000.0 * took["step"]


def _wait(frames: torch.Tensor) -> None:
    if frames.device.type == "cuda":
        torch.cuda.synchronize(frames.device)
