"""Which backend predicts: what the user asked for, or the faster one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from online_uda.errors import UserError
from online_uda.networks.predictor import Predictor, PredictorFactory, TorchPredictor, Wishes
from online_uda.networks.segmenter import Segmenter
from online_uda.networks.views import Views
from online_uda.runtime.buffered import StagedPredictor
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

    def predict_in_views(self, views: Views) -> None:
        """Predicts with torch, in several views of a frame."""
        ...


def choose_backend(
    method: Predicts,
    wanted: str,
    *,
    size: tuple[int, int],
    threads: int,
    autocast: Autocast,
    clock: Clock,
    apart: bool = False,
    views: Views | None = None,
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
        apart: Frames are answered from memory that nothing is learned in. ONNX Runtime does so anyway; what torch does
            is chosen with the pace of the run.
        views: How a frame is shown to the network.

    Raises:
        UserError: The backend cannot be had, or cannot predict this network or method.
    """
    views = views or Views()
    if wanted in ("torch", "auto") and not views.settings.is_plain:
        method.predict_in_views(views)  # for auto, until something faster is found
    if wanted == "torch":
        return wanted
    chosen: list[str] = []

    def make(network: Segmenter, wishes: Wishes) -> Predictor:
        if wishes.normalising is not None:
            raise UserError(
                "norm.statistics batch, alpha and iabn change how frames are predicted; only --backend torch can"
            )
        predictor: Predictor
        if wanted == "compile":
            from online_uda.runtime.compiled import CompiledPredictor

            def compiled(held: Segmenter) -> Predictor:
                return CompiledPredictor(held, wishes, size, autocast, views=views)

            predictor = StagedPredictor(network, compiled) if apart else compiled(network)
        else:
            from online_uda.export.onnx_predictor import OnnxPredictor

            predictor = onnx = OnnxPredictor(network, wishes, size, threads, views)
            if wanted == "auto" and not chosen:  # later ones stand in for the first
                plain = TorchPredictor(network, autocast, views)
                if not (onnx.by_input and is_faster(onnx, plain, size, network, clock)):
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
