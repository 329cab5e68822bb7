"""The summary of a run: one JSON-safe dictionary, the contract that programs and reports read.

Schema ``online_uda.summary/1``: scores in percent, differences in points, times in milliseconds, memory in MiB,
positions as frame indices. A value that is unknown is null, never missing and never NaN.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import PurePath
from statistics import median
from typing import Any

import numpy as np

from online_uda.evaluation import domain_metrics as metrics
from online_uda.evaluation.detection import match_detections
from online_uda.evaluation.latency import LatencyMeter
from online_uda.evaluation.memory import peak_cuda_memory_mb, peak_memory_mb
from online_uda.evaluation.prequential import PrequentialEvaluator, VisitScore
from online_uda.evaluation.windows import max_drawdown, recovery

SUMMARY_SCHEMA = "online_uda.summary/1"
SCORING = "prequential: every frame is predicted and scored before any update from it"
SCORING_ON_TIME = (
    "wall-clock stream: every frame is scored by the mask that is at hand at its deadline; frozen plays the same "
    "camera with predictions alone"
)
WINDOW_FRAMES = 50
"""Window of recovery and drawdown in frames (specs/protocols.md section 4)."""


def json_safe(value: Any) -> Any:
    """Copy a value into what JSON can hold: NaN and infinities become None, numpy scalars and arrays plain values."""
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [json_safe(item) for item in value]
    if isinstance(value, np.ndarray):
        return json_safe(value.tolist())
    if isinstance(value, np.generic):
        return json_safe(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return json_safe({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    raise TypeError(f"cannot write a {type(value).__name__} as JSON")


def _visit_row(visit: VisitScore) -> dict[str, Any]:
    return {
        "domain": visit.domain,
        "visit": visit.visit,
        "start": visit.start,
        "frames": visit.frames,
        "scored": visit.scored,
        "faults": visit.faults,
        "miou": visit.miou,
        "miou_frozen": visit.miou_frozen,
        "gain": metrics.difference(visit.miou, visit.miou_frozen),
        "updates": visit.updates,
        "agreement": visit.agreement,
    }


def _recovery_rows(evaluator: PrequentialEvaluator, window: int) -> list[dict[str, Any]]:
    history = evaluator.history
    changes = set(evaluator.boundaries)
    rows = []
    for visit in evaluator.visits:
        if visit.start not in changes:
            continue
        adapted, frozen = history.counts(visit.visit)
        row: dict[str, Any] = {"domain": visit.domain, "visit": visit.visit, "boundary": visit.start}
        for suffix, counts in (("", adapted), ("_frozen", frozen)):
            found = recovery(counts, history.rows_of(window))
            row[f"frames{suffix}"] = None if found is None else found.frames * history.stride
            row[f"area{suffix}"] = None if found is None else found.area * history.stride
            row[f"steady_miou{suffix}"] = None if found is None else found.steady_miou
        row["window"] = None if found is None else found.window * history.stride
        rows.append(row)
    return rows


def build_summary(
    evaluator: PrequentialEvaluator,
    latency: LatencyMeter,
    *,
    schedule: str,
    method: str,
    network: str,
    seed: int,
    window: int = WINDOW_FRAMES,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything a run has to say, as a JSON-safe dictionary.

    Args:
        evaluator: The scorebook, finished or not: a summary of the frames so far is always valid.
        latency: Latencies of the run.
        schedule: Name of the schedule.
        method: Name of the method.
        network: Name of the network.
        seed: Seed of the run.
        window: Frames of recovery and drawdown windows; shorter visits use a sixth of their length.
        extra: Further top-level entries, such as ``interrupted`` or wall time; they may not replace a key.

    Returns:
        The summary; see the module's docstring for units.

    Raises:
        ValueError: A key of ``extra`` is taken.
    """
    visits = evaluator.visits
    adapted, frozen = evaluator.history.counts()
    drawdown = max_drawdown(adapted, frozen, evaluator.history.rows_of(window))
    recoveries = _recovery_rows(evaluator, window)
    recovery_frames = [row["frames"] for row in recoveries if row["frames"] is not None]
    matched = match_detections(evaluator.boundaries, evaluator.detections, evaluator.frames)
    overall, overall_frozen = metrics.overall_miou(visits)
    summary: dict[str, Any] = {
        "schema": SUMMARY_SCHEMA,
        "schedule": schedule,
        "method": method,
        "network": network,
        "seed": seed,
        "classes": evaluator.classes.name,
        "frames": evaluator.frames,
        "scored_frames": sum(visit.scored for visit in visits),
        "scoring": SCORING_ON_TIME if (extra or {}).get("on_time") else SCORING,
        "hmean_rule": metrics.HMEAN_RULE,
        **metrics.means(visits),
        "overall_miou": overall,
        "overall_miou_frozen": overall_frozen,
        "worst": metrics.worst(visits),
        "worst_frozen": metrics.worst(visits, frozen=True),
        "visits": [_visit_row(visit) for visit in visits],
        "forward": metrics.direction(visits, 0),
        "backward": metrics.direction(visits, 1),
        "return_gap": metrics.return_gap(visits),
        "last_minus_first": metrics.last_minus_first(visits),
        "harm": metrics.harm(visits, drawdown, window),
        "recovery": recoveries,
        "median_recovery_frames": median(recovery_frames) if recovery_frames else None,
        "domain_time_matrix": metrics.domain_time_matrix(visits),
        "per_class": metrics.per_class(visits, evaluator.classes.names),
        "boundaries": evaluator.boundaries,
        "detections": evaluator.detections,
        "detection": {
            "found": matched.found,
            "misses": matched.misses,
            "delays": matched.delays,
            "median_delay": matched.median_delay,
            "false_alarms": matched.false_alarms,
            "false_alarms_per_1000": matched.false_alarms_per_1000,
        },
        "updates": evaluator.updates,
        "faults": evaluator.faults.count,
        "fault_examples": [{"frame": index, "reason": reason} for index, reason in evaluator.faults.examples],
        "rollbacks": sum(evaluator.guards.actions.get(action, 0) for action in ("rollback", "frozen")),
        "guards": {
            "actions": evaluator.guards.actions,
            "causes": evaluator.guards.causes,
            "events": evaluator.guards.events,
        },
        "latency_ms": latency.summary(),
        "peak_memory_mb": peak_memory_mb(),
        "peak_cuda_memory_mb": peak_cuda_memory_mb(),
    }
    taken = sorted(summary.keys() & (extra or {}).keys())
    if taken:
        raise ValueError(f"extra may not replace summary keys: {', '.join(taken)}")
    return json_safe({**summary, **(extra or {})})
