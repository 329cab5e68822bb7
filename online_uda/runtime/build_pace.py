"""From a plan to the pace of its run: the clock, the costs, and how learning goes beside the stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from online_uda.adaptation.method import SteppedMethod
from online_uda.config import RunConfig
from online_uda.errors import UserError
from online_uda.networks.predictor import Wishes
from online_uda.networks.segmenter import Segmenter
from online_uda.runtime.async_learning import AsyncLearning, SimulatedAsyncLearning
from online_uda.runtime.buffered import BufferedPredictor
from online_uda.runtime.calibration import calibrate
from online_uda.runtime.camera import Camera
from online_uda.runtime.clock import RealClock, SimulatedClock
from online_uda.runtime.cost_model import CostModel, Stopwatch
from online_uda.runtime.costs import CostRecord, StageCosts
from online_uda.runtime.device import Precision, autocast
from online_uda.runtime.learning_modes import InterleavedLearning, LearningMode, SyncLearning
from online_uda.runtime.on_time import OnTime
from online_uda.runtime.scoring import Scorer

COSTS_FILE = "costs.json"


def open_clock(run: RunConfig, device: torch.device) -> RealClock | SimulatedClock:
    """The clock that a run asks for.

    Raises:
        ConfigError: The file of costs is faulty.
    """
    return RealClock(device) if run.clock == "real" else SimulatedClock(StageCosts.read(Path(run.clock)))


def on_time_pace(
    run: RunConfig,
    method: SteppedMethod,
    clock: RealClock | SimulatedClock,
    scorer: Scorer,
    *,
    total: int | None,
    size: tuple[int, int],
    folder: Path,
) -> OnTime:
    """A run with deadlines; measures the method on the clock first, which takes seconds.

    Args:
        run: With ``fps`` or ``budget_ms``.
        method: Predicts and learns.
        clock: From `open_clock`.
        scorer: Of the run.
        total: Frames of the stream; None where it has no known end.
        size: Height and width of frames.
        folder: Where measured costs are kept, as `COSTS_FILE`.

    Raises:
        UserError: A given cost is missing.
    """
    fps, budget_ms = run.camera
    simulated = isinstance(clock, SimulatedClock)
    about: dict[str, Any] = {
        "fps": fps, "budget_ms": budget_ms, "learn": run.learn_mode, "clock": run.clock
    }  # fmt: skip
    recorded = {**about, "method": method.name, "size": size, "device": run.device, "threads": run.threads}
    record = None if simulated else CostRecord({key: str(value) for key, value in recorded.items()})
    watch = Stopwatch(clock, CostModel(), record)
    if run.learn_mode == "async":
        _hold_weights_apart(run, method, scorer.device)
    calibrate(method, watch, size, scorer.device)
    if isinstance(clock, SimulatedClock):
        clock.restart()

    def write_costs() -> None:
        if record is not None:
            record.write(folder / COSTS_FILE)

    mode = _mode(run, method, watch, clock, 1.0 / fps, scorer.device)
    return OnTime(mode, scorer, clock, watch, Camera(fps, budget_ms / 1000.0), total, about, write_costs)


def _hold_weights_apart(run: RunConfig, method: SteppedMethod, device: torch.device) -> None:
    """Lets frames be answered with weights that the worker does not touch while it learns."""
    if run.backend == "compile":
        raise UserError("--learn async: --backend compile answers from the memory that is learned in; use another")
    if run.backend == "torch":
        precision: Precision = "bf16" if run.precision == "bf16" else "fp32"

        def buffered(network: Segmenter, wishes: Wishes) -> BufferedPredictor:
            return BufferedPredictor(network, wishes, lambda: autocast(device, precision))

        method.use_predictor(buffered)


def _mode(
    run: RunConfig,
    method: SteppedMethod,
    watch: Stopwatch,
    clock: RealClock | SimulatedClock,
    period_s: float,
    device: torch.device,
) -> LearningMode:
    if run.learn_mode == "sync":
        return SyncLearning(method, watch)
    if run.learn_mode == "interleaved":
        return InterleavedLearning(method, watch, clock, period_s)
    if isinstance(clock, SimulatedClock):
        return SimulatedAsyncLearning(method, watch, clock, period_s)
    threads = run.threads or 1
    of_worker = max(1, threads // 2)
    torch.set_num_threads(max(1, threads - of_worker))
    return AsyncLearning(method, watch, clock, period_s, threads=of_worker, device=device)
