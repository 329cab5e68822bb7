"""The first stage of a frozen network in ONNX Runtime: on a CPU, watching then costs as little as predicting does."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from online_uda.errors import UserError
from online_uda.export.graph import FRAMES, traced
from online_uda.export.session import open_session
from online_uda.networks.predictor import aliased
from online_uda.networks.segmenter import Segmenter

PARITY = 1e-4
"""Largest difference from torch, as a share of the largest value of the map."""


class _FirstStage(nn.Module):
    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> Tensor:
        return self.network.encode(self.network.normalise(frames)[0], 1)[0]


class OnnxFirstStage:
    """First stage maps of frames on the CPU; a size of frames that was not seen before costs an export of seconds.

    A network that cannot be exported, or whose map comes out otherwise, answers in torch.

    Args:
        network: Its weights are taken as they are now.
        threads: CPU threads.
    """

    def __init__(self, network: Segmenter, threads: int) -> None:
        self._stage, self._threads = _FirstStage(aliased(network)).eval(), threads
        self._sessions: dict[tuple[int, int], Any] = {}

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> Tensor:
        """Map ``(1, C, h, w)`` float32 of ``frames`` (1, 3, H, W) float32 RGB in [0, 1]."""
        size = (int(frames.shape[-2]), int(frames.shape[-1]))
        if size not in self._sessions:
            self._sessions[size] = self._open(frames)
        session = self._sessions[size]
        return self._stage(frames) if session is None else _run(session, frames)

    def is_exported(self, size: tuple[int, int]) -> bool:
        """Whether frames of a size that was seen are answered by ONNX Runtime."""
        return self._sessions.get(size) is not None

    def _open(self, frames: Tensor) -> Any:
        try:
            program = traced(self._stage, (torch.zeros_like(frames),), [FRAMES], ["map"])
            session = open_session(program.SerializeToString(), torch.device("cpu"), self._threads)
        except UserError:
            return None
        found, expected = _run(session, frames), self._stage(frames)
        close = found.shape == expected.shape and bool(
            (found - expected).abs().max() <= PARITY * expected.abs().max().clamp_min(1.0)
        )
        return session if close else None


def _run(session: Any, frames: Tensor) -> Tensor:
    (answer,) = session.run(None, {FRAMES: np.ascontiguousarray(frames.numpy())})
    return torch.from_numpy(answer)
