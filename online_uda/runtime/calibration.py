"""What predicting, watching and learning cost on this device, measured before a stream starts; leaves no trace."""

from __future__ import annotations

import torch

from online_uda.adaptation.method import SteppedMethod
from online_uda.adaptation.pieces import FULL, Effort
from online_uda.adaptation.trigger.base import Decision
from online_uda.runtime.cost_model import Stopwatch, step_stage
from online_uda.runtime.rng import rng_state, set_rng_state

LIMIT_MS = 10_000.0
"""No further effort is measured once steps have cost this much; its pieces are then expected to cost their share."""
_LAPS = 3


def calibrate(method: SteppedMethod, watch: Stopwatch, size: tuple[int, int], device: torch.device) -> None:
    """Measures every stage of a frame and every effort of a step on a made-up frame.

    Args:
        method: Comes back as it was.
        watch: Times the stages; its cost model learns them.
        size: Height and width of frames.
        device: Where the method is.
    """
    saved, draws = method.state_dict(), rng_state()
    frames = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        for lap in range(_LAPS + 1):
            timed = lap > 0  # the first pays for memory and kernels
            with watch.measure("predict") if timed else watch.clock.measure("predict"):
                prediction = method.predict(frames)
                prediction.labels().cpu()
            with watch.measure("detect") if timed else watch.clock.measure("detect"):
                method.watch(frames, prediction)
        spent_ms = _step(method, watch, frames, FULL, timed=False)
        for effort in (FULL, *(effort for effort in method.efforts if effort.first_stage == 1)):
            if spent_ms > LIMIT_MS and effort != FULL:
                break
            spent_ms += _step(method, watch, frames, effort, timed=True)
        _rest(method, watch)
    finally:
        method.load_state_dict(saved)
        method.take_events()  # what guards say to a made-up frame is nobody's business
        set_rng_state(draws)


def _rest(method: SteppedMethod, watch: Stopwatch) -> None:
    """Takes the weights, which the steps have moved, a step home again."""
    if not method.rests(Decision(learn=False, relax=True)):
        return
    pieces = method.resting()
    name = next(pieces, None)
    while name is not None:
        with watch.measure(f"detect.{name}"):
            name = next(pieces, None)


def _step(method: SteppedMethod, watch: Stopwatch, frames: torch.Tensor, effort: Effort, *, timed: bool) -> float:
    """Takes one step and returns its milliseconds."""
    pieces = method.learn(frames, Decision(learn=True), effort)
    spent_ms = 0.0
    name = next(pieces, None)
    while name is not None:
        stage = step_stage(name, effort)
        with watch.measure(stage) if timed else watch.clock.measure(stage) as lap:
            name = next(pieces, None)
        spent_ms += lap.latency_ms
    return spent_ms
