"""Metrics of a run for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from online_uda.reports.record import FrameRecord

_BUCKETS = (0.005, 0.01, 0.02, 0.033, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class RunMetrics:
    """Counts frames as they are reported; a registry of its own, so that runs of one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counters = {
            "frames": "frames seen", "faults": "frames that could not be used", "updates": "learning steps",
            "detections": "changes announced", "rollbacks": "times that guards replaced the weights",
            "dropped": "frames never predicted, because a newer one had come", "late": "masks after their deadline",
        }  # fmt: skip
        self._counts = {
            name: Counter(f"online_uda_{name}", what, registry=self.registry) for name, what in counters.items()
        }
        gauges = {
            "miou": "mIoU of the visit so far, adapted, percent",
            "miou_frozen": "mIoU of the visit so far, frozen, percent",
            "agreement": "pixels on which adapted and frozen agree, percent",
            "confidence": "mean probability of the predicted class, percent",
            "signal": "domain-shift signal",
            "last_frame": "index of the last frame",
        }
        self._gauges = {
            name: Gauge(f"online_uda_{name}", what, registry=self.registry) for name, what in gauges.items()
        }
        self._seconds = Histogram(
            "online_uda_stage_seconds", "time of a stage", ["stage"], buckets=_BUCKETS, registry=self.registry
        )

    def note(self, record: FrameRecord) -> None:
        """Takes a record of the run."""
        rollbacks = sum(event["action"] in ("rollback", "frozen") for event in record.guard)
        for name, number in (
            ("frames", 1), ("faults", record.fault is not None), ("updates", record.updated),
            ("detections", record.detected), ("rollbacks", rollbacks), ("dropped", record.dropped),
            ("late", record.late),
        ):  # fmt: skip
            self._counts[name].inc(number)
        for name, value in (
            ("miou", record.visit_miou), ("miou_frozen", record.visit_miou_frozen), ("agreement", record.agreement),
            ("confidence", record.confidence), ("signal", record.signal), ("last_frame", record.frame),
        ):  # fmt: skip
            if value is not None:
                self._gauges[name].set(value)
        for stage, ms in (("predict", record.predict_ms), ("adapt", record.adapt_ms), ("frame", record.frame_ms)):
            if ms is not None:
                self._seconds.labels(stage).observe(ms / 1000.0)

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)
