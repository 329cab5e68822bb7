"""Candidates timed in turns, so that other work on the machine slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

_ENERGY = Path("/sys/class/powercap/intel-rapl:0/energy_uj")
Work = Callable[[], object]


def in_turns(candidates: Mapping[str, Work], rounds: int, synchronise: Work, warm_up: int = 3) -> dict[str, Any]:
    """Runs every candidate once a round.

    Args:
        candidates: What to time, by name.
        rounds: Timed rounds.
        synchronise: Waits for the device.
        warm_up: Rounds before, not timed.

    Returns:
        For every name: percentiles of wall time, median CPU time of the process and median energy of the processor
        package (None without a counter); and the wall time of every round, for ratios.
    """
    wall: dict[str, list[float]] = {name: [] for name in candidates}
    cpu: dict[str, list[float]] = {name: [] for name in candidates}
    joule: dict[str, list[float]] = {name: [] for name in candidates}
    for round_ in range(warm_up + rounds):
        for name, work in candidates.items():
            synchronise()
            energy, start, start_cpu = _energy_uj(), time.perf_counter(), time.process_time()
            work()
            synchronise()
            took = time.perf_counter() - start, time.process_time() - start_cpu
            spent = _energy_uj()
            if round_ >= warm_up:
                wall[name].append(1e3 * took[0])
                cpu[name].append(1e3 * took[1])
                if energy is not None and spent is not None and spent > energy:  # it wraps around now and then
                    joule[name].append((spent - energy) / 1e6)
    return {
        name: {
            **percentiles(wall[name]),
            "cpu_ms": statistics.median(cpu[name]),
            "joule": statistics.median(joule[name]) if joule[name] else None,
            "rounds_ms": wall[name],
        }
        for name in candidates
    }


def percentiles(values_ms: list[float]) -> dict[str, float]:
    """Smallest value, p50, p95 and p99, in ms."""
    p50, p95, p99 = np.percentile(values_ms, (50, 95, 99)).tolist()
    return {"min_ms": min(values_ms), "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}


def times_faster(slow: Mapping[str, Any], fast: Mapping[str, Any]) -> float:
    """Median over rounds of the ratio inside a round."""
    pairs = zip(slow["rounds_ms"], fast["rounds_ms"], strict=True)
    return statistics.median(one / other for one, other in pairs)


def resident_mb() -> float:
    """Resident memory of this process now, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024.0
    raise RuntimeError("/proc/self/status tells no VmRSS")


def _energy_uj() -> int | None:
    try:
        return int(_ENERGY.read_text())
    except (OSError, ValueError):
        return None
