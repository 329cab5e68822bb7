"""Which backend predicts: what the user asked for, or the faster one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from online_uda.errors import UserError
from online_uda.networks.predictor import Predictor, PredictorFactory, TorchPredictor, Wishes
from online_uda.networks.segmenter import Segmenter
from online_uda.runtime.clock import Clock

FASTER = 1.1
"""ONNX Runtime must be this many times as fast as torch to be worth another rounding."""
_LAPS = 5
Autocast = Callable[[], AbstractContextManager[Any]]


class Predicts(Protocol):
    """A method whose predictions another backend can make."""

    def use_predictor(self, factory: PredictorFactory) -> None:
        """Predicts with what ``factory`` makes."""
        ...


def choose_backend(
    method: Predicts, wanted: str, *, size: tuple[int, int], threads: int, autocast: Autocast, clock: Clock
) -> str:
    """Gives ``method`` the backend that ``wanted`` names, and returns its name.

    Args:
        method: Predicts with torch so far.
        wanted: ``torch``, ``compile``, ``onnxruntime``, or ``auto``: ONNX Runtime where it is faster than torch and
            publishing does not cost a new session, else torch.
        size: Height and width of frames.
        threads: CPU threads.
        autocast: Context of predictions in torch.
        clock: Times both for ``auto``.

    Raises:
        UserError: The backend cannot be had, or cannot predict this network or method.
    """
    if wanted == "torch":
        return wanted
    chosen: list[str] = []

    def make(network: Segmenter, wishes: Wishes) -> Predictor:
        plain = TorchPredictor(network, autocast)
        predictor: Predictor
        if wanted == "compile":
            from online_uda.runtime.compiled import CompiledPredictor

            predictor = CompiledPredictor(network, wishes, size, autocast)
        else:
            from online_uda.export.onnx_predictor import OnnxPredictor

            predictor = onnx = OnnxPredictor(network, wishes, size, threads)
            if wanted == "auto" and not (onnx.by_input and is_faster(onnx, plain, size, network, clock)):
                raise _Stay
        chosen.append(predictor.name)
        return predictor

    try:
        method.use_predictor(make)
    except (_Stay, UserError):
        if wanted != "auto":
            raise
        return "torch"
    return chosen[0]


class _Stay(Exception):
    """Torch is as good."""


def is_faster(one: Predictor, other: Predictor, size: tuple[int, int], network: Segmenter, clock: Clock) -> bool:
    """Whether ``one`` predicts at least `FASTER` times as fast as ``other``; the best of some laps, taken in turns."""
    frames = torch.zeros(1, 3, *size, device=network.get_buffer("mean").device)

    def lap_ms(predictor: Predictor) -> float:
        with clock.measure("predict") as lap:
            predictor.predict(frames)[0].labels()
        return lap.latency_ms

    laps = [(lap_ms(one), lap_ms(other)) for _ in range(_LAPS)]
    one_ms, other_ms = (min(side) for side in zip(*laps, strict=True))
    return other_ms >= FASTER * one_ms
