"""Learning from labels: the loss of a labelled batch, and the training of a light head with everything else frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from online_uda.networks.segmenter import Segmenter, to_full_size
from streams.frame import IGNORE_ID

Report = Callable[[int, float, float], None]
"""Called after every step with the number of steps done, the loss and the learning rate."""

AUXILIARY_WEIGHT = 0.4
"""Of an auxiliary head's loss, as in PSPNet and UPerNet."""


def segmentation_loss(network: Segmenter, frames: Tensor, labels: Tensor, stride: int, light: bool = False) -> Tensor:
    """Mean cross-entropy over valid pixels of every ``stride``-th row and column.

    Args:
        network: Network to evaluate.
        frames: ``(B, 3, H, W)`` float32 RGB in [0, 1].
        labels: ``(B, H, W)`` int64, 255 = ignore.
        stride: Pixel step of the loss, 1 for all pixels.
        light: Take the light head's logits instead of the main head's.
    """
    output = network.light(frames) if light else network(frames)
    target = labels[:, ::stride, ::stride]
    logits = to_full_size(output.logits, output.size, output.padded, (target.shape[-2], target.shape[-1]))
    valid = (target != IGNORE_ID).sum().clamp(min=1)
    loss = F.cross_entropy(logits, target, ignore_index=IGNORE_ID, reduction="sum") / valid
    if output.auxiliary is None:
        return loss
    logits = to_full_size(output.auxiliary, output.size, output.padded, (target.shape[-2], target.shape[-1]))
    auxiliary = F.cross_entropy(logits, target, ignore_index=IGNORE_ID, reduction="sum") / valid
    return loss + AUXILIARY_WEIGHT * auxiliary


def train_light_head(
    network: Segmenter,
    batches: Iterable[tuple[Tensor, Tensor]],
    steps: int,
    optimizer: torch.optim.Optimizer,
    *,
    stride: int,
    bf16: bool,
    report: Report | None = None,
) -> None:
    """Trains the light head of a frozen network (specs/hamlet.md 2.3); every other tensor stays bit-identical.

    Args:
        network: In eval mode, nothing outside its light head asking for gradients; afterwards the head neither.
        batches: Frames ``(B, 3, H, W)`` float32 RGB in [0, 1] and labels ``(B, H, W)`` int64, 255 = ignore.
        steps: Number of batches; the rate of the optimiser falls linearly to 0 over them.
        optimizer: Of the light head's parameters, with its first rate.
        stride: See `segmentation_loss`.
        bf16: Run under bfloat16 autocast.
        report: See `Report`.
    """
    first = float(optimizer.param_groups[0]["lr"])
    head = network.light_head.requires_grad_(True).train()
    for step, (frames, labels) in enumerate(batches):
        rate = first * (1.0 - step / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(frames.device.type, torch.bfloat16, enabled=bf16):
            loss = segmentation_loss(network, frames, labels, stride, light=True)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if report is not None:
            report(step + 1, loss.item(), rate)
    head.requires_grad_(False).eval()
