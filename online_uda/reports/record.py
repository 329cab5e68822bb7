"""What the runner tells the sinks about one frame."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

FRAME_SCHEMA = "online_uda.frame/1"


@dataclass(frozen=True, slots=True)
class FrameImages:
    """Pictures of one frame for panels; sinks that draw nothing ignore them.

    Attributes:
        image: ``(H, W, 3)`` uint8 RGB.
        adapted: ``(h, w)`` uint8 train ids predicted by the adapted network.
        frozen: The same from the frozen network, or None.
        truth: ``(h, w)`` uint8 train ids with 255 = ignore, or None without label.
        sureness: Pixels that are right and wrong by their probability (`online_uda.evaluation.sureness`), or None.
    """

    image: NDArray[np.uint8]
    adapted: NDArray[np.uint8]
    frozen: NDArray[np.uint8] | None = None
    truth: NDArray[np.uint8] | None = None
    sureness: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """One frame of a run. Scores in percent, None where unknown; latencies in milliseconds.

    Attributes:
        frame: Stream index.
        domain: Domain the frame belongs to.
        visit: Index of the domain visit.
        timestamp_s: Seconds since the start of the stream; None for a fault.
        fault: Why there was no usable frame, or None.
        miou: mIoU of this frame, adapted network.
        miou_frozen: The same for the frozen network.
        visit_miou: mIoU of the visit so far, adapted network.
        visit_miou_frozen: The same for the frozen network.
        agreement: Share of pixels on which both networks agree, in percent.
        confidence: Mean probability of the predicted class over the pixels, in percent; needs no label.
        signal: Value of the domain-shift signal.
        detected: A domain change was announced at this frame.
        updated: An adaptation step ran after this frame.
        scope: Which parameters that step changed.
        lr: Learning rate of that step.
        losses: Loss terms of that step by name.
        predict_ms: Camera image in to mask out.
        forwards: Forward passes of that prediction; None where there was none.
        adapt_ms: The adaptation step; None if none ran.
        frame_ms: Everything the user waited for.
        guard: What the method's guards did since the frame before: {action, cause, detail} each.
        dropped: Never predicted, because a newer frame had arrived.
        late: Its mask came after its deadline.
        mask_of: Index of the frame whose mask was at hand at this one's deadline; None without deadlines, or before
            the first mask.
        images: Pictures for panels; never written as text.
    """

    frame: int
    domain: str
    visit: int
    timestamp_s: float | None = None
    fault: str | None = None
    miou: float | None = None
    miou_frozen: float | None = None
    visit_miou: float | None = None
    visit_miou_frozen: float | None = None
    agreement: float | None = None
    signal: float | None = None
    detected: bool = False
    updated: bool = False
    scope: str | None = None
    lr: float | None = None
    losses: Mapping[str, float] = field(default_factory=dict)
    predict_ms: float | None = None
    forwards: int | None = None
    adapt_ms: float | None = None
    frame_ms: float | None = None
    guard: tuple[Mapping[str, str], ...] = ()
    dropped: bool = False
    late: bool = False
    mask_of: int | None = None
    confidence: float | None = None
    images: FrameImages | None = None

    def as_json(self) -> dict[str, Any]:
        """JSON-safe dictionary with the schema first and without pictures; NaN and infinities become None."""
        row: dict[str, Any] = {"schema": FRAME_SCHEMA}
        for item in fields(self):
            if item.name != "images":
                value = getattr(self, item.name)
                row[item.name] = {k: _finite(v) for k, v in value.items()} if item.name == "losses" else _finite(value)
        return row


def _finite(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
