"""Which device, how many threads, which precision: what the user asked for, checked against the machine."""

from __future__ import annotations

from typing import Literal

import torch

from online_uda.errors import UserError
from online_uda.networks.segmenter import Segmenter
from online_uda.runtime.clock import Clock
from streams._workers import core_count

FASTER = 1.25
"""bf16 must be this many times as fast as fp32 to be worth its rounding."""
_LAPS = 5
_HOPELESS = 4

Precision = Literal["fp32", "bf16"]


def choose_device(wanted: str) -> torch.device:
    """The device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` names; ``auto`` takes CUDA where it is there.

    Raises:
        UserError: CUDA is asked for and absent.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        wanted = "cuda" if count else "cpu"
    if wanted == "cpu":
        return torch.device("cpu")
    index = int(wanted.partition(":")[2] or 0)
    if index >= count:
        found = f"cuda:0 to cuda:{count - 1}" if count else "no CUDA device that this torch can use"
        raise UserError(f"--device {wanted}: this machine has {found}; use --device auto or --device cpu")
    return torch.device("cuda", index)


def use_threads(wanted: int | None) -> int:
    """Sets torch's CPU threads and returns their number.

    By default one core is left to the thread that makes the stream's frames: predictor and stream must not fight over
    cores. A limit that the environment sets (``OMP_NUM_THREADS``) is kept.
    """
    if wanted is None:
        wanted = max(1, min(torch.get_num_threads(), core_count() - 1))
    torch.set_num_threads(wanted)
    return wanted


def works_beside(wanted: bool | None, threads: int, size: tuple[int, int], device: torch.device) -> bool:
    """Whether the frozen network answers beside the adapted one: as asked for, or where as many cores are free.

    Args:
        wanted: What the run asks for; None leaves it to the machine.
        threads: CPU threads of either network.
        size: Height and width of frames; smaller ones than 128 x 256 are answered sooner than a thread is woken.
        device: Of both networks; a GPU has one queue for them.
    """
    if wanted is not None:
        return wanted
    return device.type == "cpu" and core_count() >= 2 * threads and size[0] * size[1] >= 128 * 256


def choose_precision(
    wanted: str, network: Segmenter, size: tuple[int, int], device: torch.device, clock: Clock
) -> Precision:
    """``fp32`` or ``bf16`` as asked; for ``auto``, whichever predicts a frame faster on this device.

    Also warms the network up for frames of this size.

    Args:
        wanted: ``auto``, ``fp32`` or ``bf16``.
        network: On ``device``; not changed.
        size: Height and width of frames.
        device: Where the network is.
        clock: Times the predictions.
    """
    frames = torch.zeros(1, 3, *size, device=device)

    def predict_ms(precision: Precision) -> float:
        with torch.inference_mode(), autocast(device, precision), clock.measure("predict") as lap:
            network(frames).labels()
        return lap.latency_ms

    if wanted != "auto":
        asked: Precision = "bf16" if wanted == "bf16" else "fp32"
        predict_ms(asked)
        return asked
    first_ms = {"fp32": predict_ms("fp32"), "bf16": predict_ms("bf16")}  # pays for memory and kernels
    if first_ms["bf16"] > _HOPELESS * first_ms["fp32"]:
        return "fp32"
    # In turns, so that other work on the machine slows both; the best of each, so that it slows neither.
    laps = [(predict_ms("fp32"), predict_ms("bf16")) for _ in range(_LAPS)]
    fp32_ms, bf16_ms = (min(side) for side in zip(*laps, strict=True))
    return "bf16" if fp32_ms > FASTER * bf16_ms else "fp32"


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Autocast to bfloat16 for ``bf16``; for ``fp32`` a context that changes nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
