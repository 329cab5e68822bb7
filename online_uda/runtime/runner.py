"""A run from its first frame to its summary: plays the stream at a pace, reports, saves, resumes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import torch

from online_uda.adaptation.method import Method
from online_uda.config import RunPlan
from online_uda.errors import USER_ERRORS, UserError
from online_uda.evaluation.prequential import PrequentialEvaluator
from online_uda.evaluation.summary import build_summary
from online_uda.networks.segmenter import Segmenter
from online_uda.reports.console import ConsoleSink
from online_uda.reports.hparams import settings_of
from online_uda.reports.jsonl import JsonlSink
from online_uda.reports.outputs import output_sinks
from online_uda.reports.record import FrameRecord
from online_uda.reports.run_folder import RunFolder
from online_uda.reports.sinks import Sink, SinkGroup
from online_uda.reports.tensorboard import TensorBoardSink
from online_uda.runtime.clock import Clock
from online_uda.runtime.controls import Controls, Steering
from online_uda.runtime.interrupts import GracefulStop
from online_uda.runtime.pace import Pace, Untimed
from online_uda.runtime.rng import rng_state, set_rng_state
from online_uda.runtime.scoring import Scorer
from online_uda.runtime.snapshot import RunState, latest_state
from online_uda.runtime.snapshot_writer import SnapshotWriter
from streams.frame import StreamItem
from streams.live.stream import FeedStream
from streams.stream import Stream


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
        make_pace: How the run goes through time; None lets the stream wait for learning.
    """

    def __init__(
        self,
        plan: RunPlan,
        folder: RunFolder,
        stream: Stream | FeedStream,
        method: Method,
        frozen: Segmenter,
        network_digest: str,
        device: torch.device,
        clock: Clock,
        console: bool = True,
        make_pace: Callable[[Scorer], Pace] | None = None,
    ) -> None:
        self.plan, self.folder, self.stream, self.method = plan, folder, stream, method
        self.network_digest, self.clock, self.console = network_digest, clock, console
        self.evaluator = PrequentialEvaluator(stream.classes)
        self.scorer = Scorer(plan, self.evaluator, frozen, device)
        self.controls = None if plan.run.serve is None else Controls()
        self._steering = None if self.controls is None else Steering(method, self.controls)
        self.pace = Untimed(method, self.scorer, clock) if make_pace is None else make_pace(self.scorer)
        self.next_frame = 0
        self._resumed = False
        self._ended = False
        self._saved_at: int | None = None
        self._save_due = False
        self._snapshots = SnapshotWriter(folder.snapshots, beside=plan.run.has_deadlines or plan.run.stream is not None)
        self.terminated = False
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
            ("stream length", state.total_frames, self.stream.length),
        ):
            if saved != here:
                raise UserError(
                    f"{self.folder.path}: the {what} changed since the snapshot was written "
                    f"({str(saved)[:12]} then, {str(here)[:12]} now); "
                    f"bring back what was there, or start a new run with --out"
                )
        self.method.load_state_dict(state.method)
        self.evaluator.load_state_dict(state.evaluator)
        self.scorer.latency.load_state_dict(state.latency)
        self.pace.load_state_dict(state.pace)
        set_rng_state(state.rng)
        self.next_frame = self._saved_at = state.next_frame
        self._wall_s_before = state.wall_s
        if isinstance(self.stream, FeedStream):
            self.stream.go_on_at(state.wall_s)

    def run(self) -> dict[str, Any]:
        """Plays to the end, or to the frame in hand at Ctrl-C; then saves, reports and writes the summary.

        Returns:
            The summary (schema ``online_uda.summary/1``); ``interrupted`` tells whether frames are left.

        Raises:
            UserError: The stream turned out faulty on the way; what was played is saved and reported first.
            KeyboardInterrupt: At the second Ctrl-C, at once.
        """
        self._started_s = self.clock.now_s()
        with self.stream, SinkGroup(self._sinks()) as sinks, GracefulStop(self.stream.stop) as stop:
            try:
                try:
                    fault = self._play(sinks, stop)
                finally:
                    self.pace.close()
                    self.scorer.close()
                self._save(sinks)
            finally:
                self._snapshots.close()
            self.terminated = stop.terminated
            summary = sinks.finish(self.summary())
            try:
                self.folder.write_summary(summary)
            except OSError as error:
                raise UserError(f"{self.folder.summary} cannot be written: {error.strerror}") from error
        if fault is not None:
            raise fault
        return summary

    def _play(self, sinks: SinkGroup, stop: GracefulStop) -> Exception | None:
        """Frame after frame; returns a fault of the stream's files, which comes between frames."""
        items: Iterator[StreamItem] = self.stream.iterate(self.next_frame)
        while not stop.requested:
            try:
                with self.pace.off_clock():
                    item = next(items, None)
            except USER_ERRORS as fault:
                return fault
            if item is None:
                self._ended = not stop.requested
                break
            record = self._take(item)
            with self.pace.off_clock():
                sinks.write(record)
            self.next_frame = item.index + 1
            if self._save_due and self.pace.settled:
                self._save(sinks)
        return None

    def _take(self, item: StreamItem) -> FrameRecord:
        due = (item.index + 1) % self.plan.run.snapshot_every == 0
        self._save_due = self._save_due or due
        asked = [] if self._steering is None else self._steering.obey(self.pace.settled)
        self._save_due = self._save_due or (self._steering is not None and self._steering.snapshot_due)
        hold = self._save_due or (self._steering is not None and self._steering.holds)
        record = self.pace.take(item, save_soon=hold)
        events = (*asked, *(asdict(event) for event in self.method.take_events()))
        for event in events:
            self.evaluator.note_guard(item.index, event)
        return replace(record, guard=events) if events else record

    def state(self) -> RunState:
        """Everything the run knows, between two frames."""
        return RunState(
            next_frame=self.next_frame, total_frames=self.stream.length, config_digest=self.plan.digest(),
            network_digest=self.network_digest, wall_s=self._wall_s(), method=self.method.state_dict(),
            evaluator=self.evaluator.state_dict(), latency=self.scorer.latency.state_dict(),
            pace=self.pace.state_dict(), rng=rng_state(),
        )  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """The summary of the frames so far."""
        run = self.plan.run
        return build_summary(
            self.evaluator,
            self.scorer.latency,
            schedule=self.plan.schedule.name,
            method=self.plan.method_name,
            network=self.plan.network_name,
            seed=run.seed,
            extra={
                "interrupted": not self._ended and self.next_frame != self.stream.length,
                "frames_planned": self.stream.length,
                "stream": self.stream.figures(),
                "sources": self.stream.sources(),
                "size": list(run.size or self.plan.schedule.size or ()) or None,
                "device": run.device,
                "threads": run.threads,
                "precision": run.precision,
                "backend": run.backend,
                "inference": {**run.inference.model_dump(mode="json"), "forwards": self.scorer.latency.forwards},
                "snapshot_failures": self._snapshots.failures,
                "wall_s": self._wall_s(),
                "frames_per_s": self.evaluator.frames / max(self._wall_s(), 1e-9),
                **self.pace.figures(),
            },
        )

    def _wall_s(self) -> float:
        # A clock that jumps back must not take away time that was spent before.
        return self._wall_s_before + max(0.0, self.clock.now_s() - self._started_s)

    def _save(self, sinks: SinkGroup) -> None:
        """Reports first, then the snapshot: what a snapshot counts as played has its line on the disk."""
        self._save_due = False
        if self._steering is not None:
            self._steering.snapshot_taken()
        if self._saved_at == self.next_frame:
            return
        sinks.sync()
        if self._snapshots.write(self.state()):
            self._saved_at = self.next_frame

    def _sinks(self) -> list[Sink]:
        resumed_at = self.next_frame if self._resumed else None
        sinks: list[Sink] = [JsonlSink(self.folder.frames, resumed_at)]
        if self.plan.run.tensorboard:
            domains = [visit.domain for visit in self.stream.visits]
            settings = settings_of(self.plan.as_dict(), self.plan.method_name)
            classes, folder = self.stream.classes, self.folder.tensorboard
            sinks.append(TensorBoardSink(folder, classes, domains, resumed_at, settings=settings))
        sinks += output_sinks(self.plan, self.folder.path, self.stream.classes, resumed_at, self.controls)
        if self.console:
            sinks.append(ConsoleSink(self.stream.length, self.next_frame))
        return sinks
