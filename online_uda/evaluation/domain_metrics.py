"""Scores over domain visits: means, worst domain, forward and backward, harm, return gap, per-class change.

Pure functions over `VisitScore` lists (specs/protocols.md sections 3 and 6, specs/hamlet.md section 3.4). All scores
are percent, all differences points. Visits without labels are left out; a metric without any input is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from online_uda.evaluation.confusion import iou_per_class, present_mean
from online_uda.evaluation.prequential import HARM_MARGIN, VisitScore

HMEAN_RULE = (
    "harmonic mean n / sum(1 / mIoU_v) over the n labelled domain visits v; mIoU_v from one confusion matrix a visit, "
    "over the classes with ground-truth pixels in it; every frame scored before any update from it. "
    "forward = first visit of each domain, backward = second visit of each domain"
)


def arithmetic_mean(values: Iterable[float]) -> float | None:
    """Arithmetic mean; None without values."""
    scores = list(values)
    return sum(scores) / len(scores) if scores else None


def harmonic_mean(values: Iterable[float]) -> float | None:
    """n / Σ(1/x); 0 as soon as one value is 0 (its limit); None without values.

    >>> round(harmonic_mean([20.0, 60.0]), 3)
    30.0
    """
    scores = list(values)
    if not scores:
        return None
    return 0.0 if min(scores) <= 0 else len(scores) / sum(1.0 / score for score in scores)


def labelled(visits: Sequence[VisitScore]) -> list[VisitScore]:
    """The visits that have a score."""
    return [visit for visit in visits if visit.miou is not None]


def nth_visits(visits: Sequence[VisitScore], n: int) -> list[VisitScore]:
    """The n-th visit (0 = first) of every domain that has one, in stream order; unlabelled visits count as visits."""
    seen: dict[str, int] = {}
    found = []
    for visit in visits:
        if seen.get(visit.domain, 0) == n:
            found.append(visit)
        seen[visit.domain] = seen.get(visit.domain, 0) + 1
    return found


def difference(a: float | None, b: float | None) -> float | None:
    """a − b, None if either is unknown."""
    return None if a is None or b is None else a - b


def means(visits: Sequence[VisitScore]) -> dict[str, float | None]:
    """``hmean``, ``hmean_frozen``, ``mean``, ``mean_frozen`` and the deltas over the labelled visits."""
    adapted = [visit.miou for visit in visits if visit.miou is not None]
    frozen = [visit.miou_frozen for visit in visits if visit.miou_frozen is not None]
    result = {
        "hmean": harmonic_mean(adapted),
        "hmean_frozen": harmonic_mean(frozen),
        "mean": arithmetic_mean(adapted),
        "mean_frozen": arithmetic_mean(frozen),
    }
    result["hmean_delta"] = difference(result["hmean"], result["hmean_frozen"])
    result["mean_delta"] = difference(result["mean"], result["mean_frozen"])
    return result


def direction(visits: Sequence[VisitScore], n: int) -> dict[str, Any]:
    """Forward (n = 0) or backward (n = 1) scores: one entry a domain, and the means over them."""
    chosen = labelled(nth_visits(visits, n))
    domains = {visit.domain: {"miou": visit.miou, "miou_frozen": visit.miou_frozen} for visit in chosen}
    return {"domains": domains, **means(chosen)}


def worst(visits: Sequence[VisitScore], frozen: bool = False) -> dict[str, Any] | None:
    """The labelled visit with the lowest mIoU of the adapted (or frozen) network, with both scores."""
    scored = labelled(visits)
    if not scored:
        return None
    low = min(scored, key=lambda visit: (visit.miou_frozen if frozen else visit.miou) or 0.0)
    return {"domain": low.domain, "visit": low.visit, "miou": low.miou, "miou_frozen": low.miou_frozen}


def return_gap(visits: Sequence[VisitScore]) -> dict[str, dict[str, float | None]]:
    """mIoU(second visit) − mIoU(first visit) of every domain visited twice with labels, adapted and frozen."""
    first = {visit.domain: visit for visit in labelled(nth_visits(visits, 0))}
    second = {visit.domain: visit for visit in labelled(nth_visits(visits, 1))}
    return {
        domain: {
            "adapted": difference(second[domain].miou, first[domain].miou),
            "frozen": difference(second[domain].miou_frozen, first[domain].miou_frozen),
        }
        for domain in first
        if domain in second
    }


def last_minus_first(visits: Sequence[VisitScore]) -> dict[str, Any] | None:
    """Last visit of the stream's first domain minus its first visit: what a whole run did to the home domain.

    Returns:
        ``{domain, first, last, adapted, frozen}`` with visit numbers and differences in points; None when the first
        labelled domain never returns.
    """
    scored = labelled(visits)
    if not scored:
        return None
    home = [visit for visit in scored if visit.domain == scored[0].domain]
    if len(home) < 2:
        return None
    return {
        "domain": home[0].domain,
        "first": home[0].visit,
        "last": home[-1].visit,
        "adapted": difference(home[-1].miou, home[0].miou),
        "frozen": difference(home[-1].miou_frozen, home[0].miou_frozen),
    }


def harm(visits: Sequence[VisitScore], drawdown: float | None, window: int) -> dict[str, Any]:
    """How often and how far the adapted network fell below frozen (specs/protocols.md section 6).

    Args:
        visits: All visits.
        drawdown: `windows.max_drawdown` of the run, in points.
        window: Frames of a drawdown window.
    """
    scored_frames = sum(visit.scored for visit in visits)
    gains = [
        visit.miou - visit.miou_frozen for visit in visits if visit.miou is not None and visit.miou_frozen is not None
    ]
    return {
        "margin": HARM_MARGIN,
        "frame_share": sum(visit.harmed for visit in visits) / scored_frames if scored_frames else None,
        "visit_share": sum(gain < -HARM_MARGIN for gain in gains) / len(gains) if gains else None,
        "frames_below_frozen": sum(visit.below for visit in visits),
        "worst_visit_gain": min(gains) if gains else None,
        "max_drawdown": drawdown,
        "drawdown_window": window,
    }


def per_class(visits: Sequence[VisitScore], names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """What happened to every class that occurs: IoU over all frames, change against frozen, worst visit, home change.

    Returns:
        Class name to ``{iou, iou_frozen, delta, worst_visit_iou, worst_visit_delta, last_minus_first}``.
    """
    scored = labelled(visits)
    if not scored:
        return {}
    iou = iou_per_class(np.sum([visit.confusion for visit in scored], axis=0))
    iou_frozen = iou_per_class(np.sum([visit.confusion_frozen for visit in scored], axis=0))
    by_visit = np.stack([visit.iou() for visit in scored])
    change = by_visit - np.stack([visit.iou_frozen() for visit in scored])
    home = [visit for visit in scored if visit.domain == scored[0].domain]
    home_change = home[-1].iou() - home[0].iou() if len(home) > 1 else np.full(len(names), np.nan)
    table: dict[str, dict[str, float | None]] = {}
    for i, name in enumerate(names):
        if np.isnan(iou[i]):
            continue
        table[name] = {
            "iou": float(iou[i]),
            "iou_frozen": float(iou_frozen[i]),
            "delta": float(iou[i] - iou_frozen[i]),
            "worst_visit_iou": float(np.nanmin(by_visit[:, i])),
            "worst_visit_delta": float(np.nanmin(change[:, i])),
            "last_minus_first": None if np.isnan(home_change[i]) else float(home_change[i]),
        }
    return table


def domain_time_matrix(visits: Sequence[VisitScore]) -> dict[str, Any]:
    """Prequential domain x time matrix: a row a visit, a column a domain, in order of first appearance.

    Only the deployed domain is scored at a time, so every row has one value (None elsewhere).
    """
    domains = list(dict.fromkeys(visit.domain for visit in visits))
    rows = [[visit.miou if visit.domain == domain else None for domain in domains] for visit in visits]
    return {"domains": domains, "rows": rows}


def overall_miou(visits: Sequence[VisitScore]) -> tuple[float | None, float | None]:
    """mIoU of one matrix over all frames, adapted and frozen (the cumulative score of CarlaTTA)."""
    scored = labelled(visits)
    if not scored:
        return None, None
    adapted = present_mean(iou_per_class(np.sum([visit.confusion for visit in scored], axis=0)))
    frozen = present_mean(iou_per_class(np.sum([visit.confusion_frozen for visit in scored], axis=0)))
    return float(adapted), float(frozen)
