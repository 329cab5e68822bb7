"""From a plan to the pace of its run: the clock, the costs, and how learning goes beside the stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from online_uda.adaptation.method import SteppedMethod
from online_uda.config import RunConfig
from online_uda.networks.predictor import Wishes
from online_uda.networks.segmenter import Segmenter
from online_uda.networks.views import Views
from online_uda.runtime.async_learning import AsyncLearning
from online_uda.runtime.buffered import BufferedPredictor
from online_uda.runtime.calibration import calibrate
from online_uda.runtime.camera import Camera
from online_uda.runtime.clock import RealClock, SimulatedClock
from online_uda.runtime.cost_model import CostModel, Stopwatch
from online_uda.runtime.costs import CostRecord, StageCosts
from online_uda.runtime.device import Precision, autocast
from online_uda.runtime.learning_modes import InterleavedLearning, LearningMode, SyncLearning
from online_uda.runtime.live_pace import LivePace
from online_uda.runtime.on_time import OnTime
from online_uda.runtime.replaceable import Replaceable
from online_uda.runtime.scoring import Scorer
from online_uda.runtime.simulated_async import SimulatedAsyncLearning
from streams.live.stream import FeedStream
from streams.stream import Stream

COSTS_FILE = "costs.json"


def open_clock(run: RunConfig, device: torch.device, size: tuple[int, int]) -> RealClock | SimulatedClock:
    """The clock that a run asks for.

    Args:
        run: With ``clock``.
        device: What a real clock waits for.
        size: Height and width of frames; with ``run.inference`` it says how many passes a prediction costs.

    Raises:
        ConfigError: The file of costs is faulty.
    """
    if run.clock == "real":
        return RealClock(device)
    return SimulatedClock(StageCosts.read(Path(run.clock), run.inference.passes(size)))


def beside_the_stream(run: RunConfig) -> bool:
    """Whether a worker thread learns."""
    return run.has_deadlines and run.learn_mode == "async" and run.clock == "real"


def holds_weights_apart(run: RunConfig, method: SteppedMethod) -> bool:
    """Whether frames are answered from memory that nothing is learned in.

    A worker may change a weight at any time. Between two pieces of a step no weight is half changed, but those that the
    guards have not judged yet must not predict.
    """
    if not run.has_deadlines or run.learn_mode == "sync":
        return False
    return run.learn_mode == "async" or method.guarded


def shared_threads(run: RunConfig, threads: int) -> tuple[int, int]:
    """CPU threads of prediction and of a worker beside it."""
    of_worker = max(1, threads // 2) if beside_the_stream(run) else 0
    return max(1, threads - of_worker), of_worker


def on_time_pace(
    run: RunConfig,
    method: SteppedMethod,
    clock: RealClock | SimulatedClock,
    scorer: Scorer,
    *,
    stream: Stream | FeedStream,
    size: tuple[int, int],
    folder: Path,
) -> OnTime:
    """A run with deadlines; measures the method on the clock first, which takes seconds.

    Args:
        run: With ``fps`` or ``budget_ms``.
        method: Predicts and learns.
        clock: From `open_clock`.
        scorer: Of the run.
        stream: What is played; a live one has the wall's time.
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
    passes = run.inference.passes(size)
    record = None if simulated else CostRecord({key: str(value) for key, value in recorded.items()}, passes)
    watch = Stopwatch(clock, CostModel(), record)
    if run.backend == "torch" and holds_weights_apart(run, method):
        precision: Precision = "bf16" if run.precision == "bf16" else "fp32"

        def buffered(network: Segmenter, wishes: Wishes) -> BufferedPredictor:
            return BufferedPredictor(network, wishes, lambda: autocast(scorer.device, precision), Views(run.inference))

        method.use_predictor(buffered)
    threads, of_worker = shared_threads(run, run.threads or 1)
    torch.set_num_threads(threads)
    calibrate(method, watch, size, scorer.device)
    if isinstance(clock, SimulatedClock):
        clock.restart()

    def write_costs() -> None:
        if record is not None:
            record.write(folder / COSTS_FILE)

    mode = _mode(run, method, watch, clock, 1.0 / fps, of_worker, scorer.device)
    camera = Camera(fps, budget_ms / 1000.0)
    if isinstance(stream, FeedStream) and stream.is_live:
        return LivePace(mode, scorer, clock, watch, camera, stream.arrival_s, about, write_costs)
    return OnTime(mode, scorer, clock, watch, camera, stream.length, about, write_costs)


def _mode(
    run: RunConfig,
    method: SteppedMethod,
    watch: Stopwatch,
    clock: RealClock | SimulatedClock,
    period_s: float,
    of_worker: int,
    device: torch.device,
) -> LearningMode:
    if run.learn_mode == "sync":
        return SyncLearning(method, watch)
    if run.learn_mode == "interleaved":
        return InterleavedLearning(method, watch, clock, period_s)
    if isinstance(clock, SimulatedClock):
        return SimulatedAsyncLearning(method, watch, clock, period_s)
    assert isinstance(method, Replaceable)
    return AsyncLearning(method, watch, clock, period_s, threads=of_worker, device=device)
