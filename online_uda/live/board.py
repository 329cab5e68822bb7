"""What a live page shows: the newest picture, the last points of every curve, and what has happened."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import cv2

from online_uda.reports.overlay import Overlay
from online_uda.reports.record import FrameRecord
from streams.frame import ClassSet

POINTS, EVENTS = 1500, 200
PICTURES_PER_S = 15.0
CURVES = (
    "miou", "miou_frozen", "agreement", "confidence", "signal", "predict_ms", "adapt_ms", "frame_ms",
)  # fmt: skip
_QUALITY = 80
_PENDING = 512


class Board:
    """Takes records from the run in microseconds; pictures are drawn and encoded in a thread, the newest alone.

    Args:
        classes: For the colours.
        on_picture: Called in the thread when a new picture is there.
        width: Most pixels of a picture.
    """

    def __init__(self, classes: ClassSet, on_picture: Callable[[], None] = lambda: None, width: int = 1280) -> None:
        self._overlay = Overlay(classes.palette, width)
        self._on_picture = on_picture
        self._changed = threading.Condition()
        self._pending: deque[FrameRecord] = deque(maxlen=_PENDING)
        self._last: FrameRecord | None = None
        self._viewers = 0
        self._drawn = -1
        self._ended = False
        self._learning = False
        self._points: deque[list[Any]] = deque(maxlen=POINTS)
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS)
        self._event_count = 0
        self._seen_s: float | None = None
        self.frames = 0
        self.picture: bytes | None = None
        self.picture_number = 0
        self.verdict: str | None = None
        self._thread = threading.Thread(target=self._run, name="live-pictures", daemon=True)
        self._thread.start()

    def show(self, record: FrameRecord) -> None:
        """Takes a record of the run; returns at once."""
        values = [getattr(record, name) for name in CURVES]
        with self._changed:
            self.frames += 1
            self._seen_s = time.monotonic()
            self._points.append(
                [record.frame, *(None if v is None else round(float(v), 4) for v in values), record.detected,
                 record.updated]
            )  # fmt: skip
            self._note_events(record)
            self._pending.append(record)
            if record.images is not None:
                self._last = record
            self._changed.notify_all()

    def _note_events(self, record: FrameRecord) -> None:
        if record.fault is not None:
            self._event(record, "lost", record.fault)
        if record.detected:
            self._event(record, "detected", f"change announced (signal {record.signal or 0.0:.2f})")
        if record.fault is None and record.updated != self._learning:
            self._learning = record.updated
            what = f"learns {record.scope or 'statistics'}" if record.updated else "nothing to learn"
            self._event(record, "adapting" if record.updated else "rests", what)
        for event in record.guard:
            self._event(record, event["action"], f"{event['cause']}: {event['detail']}")

    def _event(self, record: FrameRecord, kind: str, text: str) -> None:
        self._event_count += 1
        self._events.append({"number": self._event_count, "frame": record.frame, "kind": kind, "text": text})

    def since(self, frame: int, event: int) -> dict[str, Any]:
        """Points after a frame and events after a number, and what holds now; JSON-safe."""
        with self._changed:
            last = self._last
            return {
                "points": [point for point in self._points if point[0] > frame],
                "events": [entry for entry in self._events if entry["number"] > event],
                "frames": self.frames,
                "domain": None if last is None else last.domain,
                "ended": self._ended,
                "verdict": self.verdict,
            }

    def age_s(self) -> float | None:
        """Seconds since the last record; None before the first."""
        return None if self._seen_s is None else time.monotonic() - self._seen_s

    def watch(self, viewers: int) -> None:
        """Tells how many look: nobody looks, nothing is drawn. A new viewer gets the last picture at once."""
        with self._changed:
            if viewers > self._viewers:
                self._drawn = -1
            self._viewers = viewers
            self._changed.notify_all()

    def end(self, verdict: str | None) -> None:
        """The run is over."""
        with self._changed:
            self._ended, self.verdict = True, verdict
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the thread."""
        self.end(self.verdict)
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._pending or self._wanted())
                if self._ended and not self._wanted():
                    return
                pending, self._pending = list(self._pending), deque(maxlen=_PENDING)
                record = self._last if self._wanted() else None
            for noted in pending:
                self._overlay.note(noted)
            if record is None:
                continue
            began_s = time.monotonic()
            picture = self._overlay.draw(record)
            done, content = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
            with self._changed:
                self._drawn = record.frame
                if done:
                    self.picture, self.picture_number = content.tobytes(), self.picture_number + 1
            self._on_picture()
            time.sleep(max(0.0, 1.0 / PICTURES_PER_S - (time.monotonic() - began_s)))

    def _wanted(self) -> bool:
        return self._viewers > 0 and self._last is not None and self._last.frame != self._drawn
