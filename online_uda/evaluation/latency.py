"""Latency of the stages of a frame: p50, p95, p99 and maximum in bounded memory (specs/protocols.md section 8)."""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

STAGES = ("predict", "adapt", "frame")
PERCENTILES = (50, 95, 99)

# Bins of 1 % width from 1 microsecond to about 15 hours: a percentile from the histogram is within 0.5 %.
_LOG_STEP = math.log(1.01)
_LOWEST_MS = 1e-3
_BINS = 2500


class _StageSamples:
    """Samples of one stage: exact up to ``capacity``, then folded into a logarithmic histogram."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.count = 0
        self.total_ms = 0.0
        self.max_ms = 0.0
        self.recent = array("d")  # a list would hold an object a sample
        self.folded = np.zeros(_BINS, dtype=np.int64)

    def add(self, latency_ms: float) -> None:
        self.count += 1
        self.total_ms += latency_ms
        self.max_ms = max(self.max_ms, latency_ms)
        self.recent.append(latency_ms)
        if len(self.recent) > self.capacity:
            self.folded += self._binned()
            self.recent = array("d")

    def _binned(self) -> np.ndarray:
        values = np.maximum(np.asarray(self.recent), _LOWEST_MS)
        bins = np.clip(np.log(values / _LOWEST_MS) / _LOG_STEP, 0, _BINS - 1).astype(np.int64)
        return np.bincount(bins, minlength=_BINS)

    def percentiles(self) -> list[float]:
        if not self.folded.any():
            return [float(value) for value in np.percentile(self.recent, PERCENTILES)]
        counts = np.cumsum(self.folded + self._binned())
        ranks = np.asarray(PERCENTILES) / 100.0 * (self.count - 1)
        bins = np.searchsorted(counts, ranks, side="right")
        middle_ms = _LOWEST_MS * np.exp((bins + 0.5) * _LOG_STEP)
        return [min(float(value), self.max_ms) for value in middle_ms]


class LatencyMeter:
    """Collects latencies in milliseconds for the stages ``predict``, ``adapt`` and ``frame``.

    ``predict`` is camera image in to mask out, ``adapt`` an adaptation step (record it only when one ran), ``frame``
    everything the user waits for. The evaluator and the frozen network stay outside these clocks.

    Args:
        device: A CUDA device (``cuda``, ``cuda:0``, ``torch.device``) is synchronised at both ends of `measure`;
            None or a CPU is not.
        warmup: Samples of each stage to leave out at the start.
        capacity: Samples a stage keeps exactly; beyond it percentiles come from a histogram with 1 % bins.
    """

    def __init__(self, device: Any = None, warmup: int = 0, capacity: int = 10_000) -> None:
        self._cuda = device if device is not None and str(device).startswith("cuda") else None
        self._warmup = warmup
        self._skipped = dict.fromkeys(STAGES, 0)
        self.forwards = 0
        self._stages = {stage: _StageSamples(capacity) for stage in STAGES}

    def record(self, stage: str, latency_ms: float, forwards: int = 0) -> None:
        """Add one sample of a stage.

        Args:
            stage: One of `STAGES`.
            latency_ms: How long it took.
            forwards: Forward passes of the network that it took; their sum is the attribute ``forwards``.

        Raises:
            ValueError: Unknown stage, or a latency that is negative or not finite.
        """
        if stage not in self._stages:
            raise ValueError(f"unknown stage {stage!r}; one of {', '.join(STAGES)}")
        if not (math.isfinite(latency_ms) and latency_ms >= 0):
            raise ValueError(f"latency_ms must be finite and not negative, got {latency_ms}")
        self.forwards += forwards
        if self._skipped[stage] < self._warmup:
            self._skipped[stage] += 1
            return
        self._stages[stage].add(float(latency_ms))

    @contextmanager
    def measure(self, stage: str) -> Iterator[Lap]:
        """Time a block, also if it raises; the yielded `Lap` holds ``latency_ms`` afterwards."""
        lap = Lap()
        self._synchronise()
        start = time.perf_counter()
        try:
            yield lap
        finally:
            self._synchronise()
            lap.latency_ms = 1000.0 * (time.perf_counter() - start)
            self.record(stage, lap.latency_ms)

    def _synchronise(self) -> None:
        if self._cuda is not None:
            import torch

            torch.cuda.synchronize(self._cuda)

    def summary(self) -> dict[str, dict[str, float | int | None]]:
        """Stage to ``{p50, p95, p99, max, mean, count}`` in milliseconds; None in a stage without samples."""
        result: dict[str, dict[str, float | int | None]] = {}
        for stage, samples in self._stages.items():
            values: list[float | None] = list(samples.percentiles()) if samples.count else [None] * len(PERCENTILES)
            result[stage] = {f"p{p}": value for p, value in zip(PERCENTILES, values, strict=True)}
            result[stage]["max"] = samples.max_ms if samples.count else None
            result[stage]["mean"] = samples.total_ms / samples.count if samples.count else None
            result[stage]["count"] = samples.count
        return result

    def state_dict(self) -> dict[str, Any]:
        """State as plain values and tensors, loadable with ``torch.load(weights_only=True)``."""
        import torch

        stages: dict[str, Any] = {
            stage: {
                "skipped": self._skipped[stage],
                "count": samples.count,
                "total_ms": samples.total_ms,
                "max_ms": samples.max_ms,
                "recent": torch.tensor(samples.recent, dtype=torch.float64),
                "folded": torch.from_numpy(samples.folded.copy()),
            }
            for stage, samples in self._stages.items()
        }
        return {**stages, "forwards": self.forwards}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict``."""
        self.forwards = int(state["forwards"])
        for stage, samples in self._stages.items():
            saved = state[stage]
            self._skipped[stage] = int(saved["skipped"])
            samples.count, samples.total_ms = int(saved["count"]), float(saved["total_ms"])
            samples.max_ms = float(saved["max_ms"])
            samples.recent = array("d", saved["recent"].tolist())
            samples.folded = saved["folded"].numpy().copy()


class Lap:
    """One timed block: ``latency_ms`` is set when the block ends."""

    __slots__ = ("latency_ms",)

    def __init__(self) -> None:
        self.latency_ms = 0.0
