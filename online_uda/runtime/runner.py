"""The way of a frame: predict on time, compare and score, learn, report; and a run's state between two frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from online_uda.adaptation.method import Method
from online_uda.config import RunPlan
from online_uda.errors import USER_ERRORS, UserError
from online_uda.evaluation.latency import LatencyMeter
from online_uda.evaluation.prequential import PrequentialEvaluator
from online_uda.evaluation.summary import build_summary
from online_uda.networks.segmenter import Segmenter
from online_uda.reports.console import ConsoleSink
from online_uda.reports.jsonl import JsonlSink
from online_uda.reports.record import FrameImages, FrameRecord
from online_uda.reports.run_folder import RunFolder
from online_uda.reports.sinks import Sink, SinkGroup
from online_uda.reports.tensorboard import TensorBoardSink
from online_uda.runtime.clock import Clock
from online_uda.runtime.device import autocast
from online_uda.runtime.interrupts import GracefulStop
from online_uda.runtime.rng import rng_state, set_rng_state
from online_uda.runtime.snapshot import RunState, latest_state, write_snapshot
from streams.frame import Frame, StreamItem, Truth
from streams.stream import Stream


def to_tensor(image: Any, device: torch.device) -> Tensor:
    """A camera image ``(H, W, 3)`` uint8 RGB as ``(1, 3, H, W)`` float32 in [0, 1] on ``device``."""
    return torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float().div_(255.0)


class Runner:
    """A run that is ready to play, from whichever frame comes next.

    `online_uda.run.start` makes one; a test or another front end may put its own parts together.

    Args:
        plan: With device, threads and precision found out.
        folder: Where everything is written.
        stream: The frames.
        method: Bound to its network.
        frozen: The source network that every frame is compared with, on ``device``; shared with nobody.
        network_digest: Of the source network's weights, to know them again when the run is resumed.
        device: Where frames go.
        clock: What stages are timed with.
        console: Whether a progress bar and the final table are printed.
    """

    def __init__(
        self,
        plan: RunPlan,
        folder: RunFolder,
        stream: Stream,
        method: Method,
        frozen: Segmenter,
        network_digest: str,
        device: torch.device,
        clock: Clock,
        console: bool = True,
    ) -> None:
        self.plan, self.folder, self.stream, self.method, self.frozen = plan, folder, stream, method, frozen
        self.network_digest, self.device, self.clock, self.console = network_digest, device, clock, console
        self.evaluator = PrequentialEvaluator(stream.classes)
        self.latency = LatencyMeter()
        self.next_frame = 0
        self._resumed = False
        self._saved_at: int | None = None
        self._wall_s_before = 0.0
        self._started_s = clock.now_s()

    def restore(self) -> None:
        """Continues where the folder's newest readable snapshot stands, or from the start if there is none.

        Raises:
            UserError: The snapshot belongs to another configuration, network or stream, or all are damaged.
        """
        self._resumed = True
        state = latest_state(self.folder.snapshots)
        if state is None:
            return
        for what, saved, here in (
            ("configuration", state.config_digest, self.plan.digest()),
            ("network weights", state.network_digest, self.network_digest),
            ("stream length", state.total_frames, len(self.stream)),
        ):
            if saved != here:
                raise UserError(
                    f"{self.folder.path}: the {what} changed since the snapshot was written "
                    f"({str(saved)[:12]} then, {str(here)[:12]} now); "
                    f"bring back what was there, or start a new run with --out"
                )
        self.method.load_state_dict(state.method)
        self.evaluator.load_state_dict(state.evaluator)
        self.latency.load_state_dict(state.latency)
        set_rng_state(state.rng)
        self.next_frame = self._saved_at = state.next_frame
        self._wall_s_before = state.wall_s

    def run(self) -> dict[str, Any]:
        """Plays to the end, or to the frame in hand at Ctrl-C; then saves, reports and writes the summary.

        Returns:
            The summary (schema ``online_uda.summary/1``); ``interrupted`` tells whether frames are left.

        Raises:
            UserError: The stream turned out faulty on the way; what was played is saved and reported first.
            KeyboardInterrupt: At the second Ctrl-C, at once.
        """
        self._started_s = self.clock.now_s()
        with self.stream, SinkGroup(self._sinks()) as sinks, GracefulStop() as stop:
            fault = self._play(sinks, stop)
            self._save()
            summary = sinks.finish(self.summary())
            self.folder.write_summary(summary)
        if fault is not None:
            raise fault
        return summary

    def _play(self, sinks: SinkGroup, stop: GracefulStop) -> Exception | None:
        """Frame after frame; returns a fault of the stream's files, which comes between frames."""
        items: Iterator[StreamItem] = self.stream.iterate(self.next_frame)
        while not stop.requested:
            try:
                item = next(items, None)
            except USER_ERRORS as fault:
                return fault
            if item is None:
                break
            sinks.write(self._take(item))
            self.next_frame = item.index + 1
            if self.next_frame % self.plan.run.snapshot_every == 0:
                self._save()
        return None

    def _take(self, item: StreamItem) -> FrameRecord:
        if item.frame is None:
            return self._note_fault(item)
        return self._learn_and_score(item.frame, item.truth)

    def _note_fault(self, item: StreamItem) -> FrameRecord:
        reason = item.fault or "no frame"
        self.evaluator.note_fault(item.index, item.truth, reason)
        visit = self.evaluator.visits[-1]
        return FrameRecord(
            item.index, item.truth.domain, item.truth.visit, fault=reason, visit_miou=visit.miou,
            visit_miou_frozen=visit.miou_frozen,
        )  # fmt: skip

    def _learn_and_score(self, frame: Frame, truth: Truth) -> FrameRecord:
        """Predict on the clock, compare with frozen and score off it, learn on it: in this order."""
        with self.clock.measure("predict") as predict:
            frames = to_tensor(frame.image, self.device)
            prediction = self.method.predict(frames)
            mask = prediction.labels().cpu().numpy()[0]

        size = mask.shape if truth.label is None else truth.label.shape
        same_size = size == mask.shape
        scored = mask if same_size else prediction.labels(size).cpu().numpy()[0]
        scored_frozen = scored
        if not self.plan.is_frozen:
            with torch.inference_mode(), autocast(self.device, "bf16" if self.plan.run.precision == "bf16" else "fp32"):
                scored_frozen = self.frozen(frames).labels(size).cpu().numpy()[0]
        score = self.evaluator.update(frame.index, truth, scored, scored_frozen)

        with self.clock.measure("adapt") as adapt:
            step = self.method.observe(frames, prediction)

        self.latency.record("predict", predict.latency_ms)
        self.latency.record("frame", predict.latency_ms + adapt.latency_ms)
        if step.updated:
            self.evaluator.note_update()
            self.latency.record("adapt", adapt.latency_ms)
        if step.detected:
            self.evaluator.note_detection(frame.index)
        return FrameRecord(
            frame.index, truth.domain, truth.visit, frame.timestamp_s, None,
            score.miou, score.miou_frozen, score.visit_miou, score.visit_miou_frozen, score.agreement,
            signal=step.signal, detected=step.detected, updated=step.updated, scope=step.scope, lr=step.learning_rate,
            losses=step.losses, predict_ms=predict.latency_ms, adapt_ms=adapt.latency_ms if step.updated else None,
            frame_ms=predict.latency_ms + adapt.latency_ms,
            images=FrameImages(frame.image, scored, scored_frozen, truth.label),
        )  # fmt: skip

    def state(self) -> RunState:
        """Everything the run knows, between two frames."""
        return RunState(
            next_frame=self.next_frame, total_frames=len(self.stream), config_digest=self.plan.digest(),
            network_digest=self.network_digest, wall_s=self._wall_s(), method=self.method.state_dict(),
            evaluator=self.evaluator.state_dict(), latency=self.latency.state_dict(), rng=rng_state(),
        )  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """The summary of the frames so far."""
        run = self.plan.run
        return build_summary(
            self.evaluator,
            self.latency,
            schedule=self.plan.schedule.name,
            method=self.plan.method_name,
            network=self.plan.network_name,
            seed=run.seed,
            extra={
                "interrupted": self.next_frame < len(self.stream),
                "frames_planned": len(self.stream),
                "size": list(run.size or self.plan.schedule.size or ()) or None,
                "device": run.device,
                "threads": run.threads,
                "precision": run.precision,
                "wall_s": self._wall_s(),
                "frames_per_s": self.evaluator.frames / max(self._wall_s(), 1e-9),
            },
        )

    def _wall_s(self) -> float:
        return self._wall_s_before + self.clock.now_s() - self._started_s

    def _save(self) -> None:
        if self._saved_at != self.next_frame:
            write_snapshot(self.folder.snapshots, self.state())
            self._saved_at = self.next_frame

    def _sinks(self) -> list[Sink]:
        resumed_at = self.next_frame if self._resumed else None
        sinks: list[Sink] = [JsonlSink(self.folder.frames, resumed_at)]
        if self.plan.run.tensorboard:
            domains = [visit.domain for visit in self.stream.visits]
            sinks.append(TensorBoardSink(self.folder.tensorboard, self.stream.classes, domains, resumed_at))
        if self.console:
            sinks.append(ConsoleSink(len(self.stream), self.next_frame))
        return sinks
