"""A method that does nothing, in pieces: what is left of a frame's time is what deciding costs."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from online_uda.adaptation.method import StepReport
from online_uda.adaptation.pieces import FULL, Effort, Pieces
from online_uda.adaptation.trigger.base import Decision
from online_uda.networks.segmenter import Segmentation
from online_uda.runtime.clock import RealClock
from online_uda.runtime.cost_model import CostModel, Stopwatch
from online_uda.runtime.learning_modes import InterleavedLearning

PIECES_A_STEP, PERIOD_S, FRAMES = 8, 0.1, 500


class IdleMethod:
    """Wants to learn from every frame; every piece of a step is empty."""

    name = "idle"
    efforts: Sequence[Effort] = (FULL,)

    def watch(self, frames: Tensor, prediction: Segmentation) -> Decision:
        """Learn."""
        return Decision(learn=True)

    def rests(self, decision: Decision) -> bool:
        """Nothing moves."""
        return False

    def note_cost(self, ms: float) -> None:
        """Nothing depends on it."""

    def learn(self, frames: Tensor, decision: Decision, effort: Effort | None = FULL) -> Pieces[StepReport]:
        """Empty pieces."""
        for number in range(PIECES_A_STEP):
            yield f"piece.{number}"
        return StepReport(updated=True, scope="all")


def overhead_of(method: IdleMethod) -> float:
    """Median milliseconds a frame of watching, planning, checking and timing one step of empty pieces.

    A frame that leaves 60 % slack holds about this many pieces of a step of `default`.
    """
    clock = RealClock(torch.device("cpu"))
    mode = InterleavedLearning(method, Stopwatch(clock, CostModel()), clock, PERIOD_S)  # type: ignore[arg-type]
    frames, said = torch.zeros(1, 3, 4, 4), Segmentation(torch.zeros(1, 2, 1, 1), (), (4, 4), (4, 4))
    laps = []
    for index in range(FRAMES):
        start = time.perf_counter()
        mode.show(index, frames, said)
        mode.use_slack(clock.now_s() + PERIOD_S)
        mode.collect()
        laps.append(1000.0 * (time.perf_counter() - start))
    return sorted(laps)[FRAMES // 2]
