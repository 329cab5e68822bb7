"""The thread of a worker beside the stream: watches what it is sent, learns piece by piece, says when it began what."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from online_uda.adaptation.pieces import Effort
from online_uda.networks.segmenter import Segmentation
from online_uda.runtime.clock import RealClock
from online_uda.runtime.cost_model import Stopwatch
from online_uda.runtime.learner import LearnedStep, Learner
from online_uda.runtime.replaceable import Replaceable

MAILBOX = 8
"""Frames that wait to be watched; a worker that is further behind misses the oldest."""
NICE = 5
"""How much the worker stands back behind the thread of the stream."""
SLOW = 20.0
"""A piece hangs when it takes this many times as long as expected, and longer than the limit."""
BUILD = 10.0
"""Share of the limit that the building of a method may take: a network may have to be exported or compiled."""


class Worker:
    """One life of the thread. Whoever made it sends frames, and takes steps and detections out.

    While the stream's clock stands, what it does is time that no camera would have given it: it rests as long
    afterwards.

    Args:
        method: What learns; an incarnation other than the first is built here, beside the stream.
        number: Of the incarnation that this worker works on.
        watch: Times the stages.
        clock: Of the stream.
        plan: How much of a step to take.
        threads: CPU threads of torch.
        device: Where the method is; a GPU gets a stream of its own.
        limit_s: Seconds that a piece may take before it hangs.
    """

    def __init__(
        self,
        method: Replaceable,
        number: int,
        watch: Stopwatch,
        clock: RealClock,
        plan: Callable[[], Effort | None],
        *,
        threads: int,
        device: torch.device,
        limit_s: float,
    ) -> None:
        self._method, self.number, self._watch, self._clock, self._plan = method, number, watch, clock, plan
        self._threads, self._device, self._limit_s = threads, device, limit_s
        self._turn = threading.Condition()
        self._mail: deque[tuple[int, Tensor, Segmentation]] = deque(maxlen=MAILBOX)
        self._learner: Learner | None = None
        self._holding = self._stopping = False
        self._until_s: float | None = None
        self.busy = True
        self.steps: deque[LearnedStep] = deque()
        self.detected: deque[int] = deque()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._live, name=f"learning-{number}", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    @property
    def hangs(self) -> bool:
        """Whether what it is at takes longer than it ever should."""
        until_s = self._until_s
        return until_s is not None and time.perf_counter() > until_s

    @property
    def settled(self) -> bool:
        """Whether it waits for frames and has no step in flight."""
        with self._turn:
            return not self.busy and not self._mail and (self._learner is None or self._learner.settled)

    @property
    def in_flight(self) -> bool:
        """Whether a step has begun and not ended."""
        return self._learner is not None and self._learner.in_flight

    @property
    def given_up(self) -> int:
        """Steps that were begun and not finished."""
        return 0 if self._learner is None else self._learner.given_up

    def send(self, index: int, frames: Tensor, prediction: Segmentation) -> None:
        """A frame to watch."""
        with self._turn:
            self._mail.append((index, frames, prediction))
            self._turn.notify()

    def hold(self, hold: bool) -> None:
        """Whether no further step may begin."""
        with self._turn:
            self._holding = hold
            self._turn.notify()

    def stop(self, wait_s: float) -> None:
        """Asks the thread to end after its piece, and gives it ``wait_s`` for that; a step in flight is given up."""
        with self._turn:
            self._stopping = True
            self._turn.notify()
        self._thread.join(wait_s)
        if not self.alive and self._learner is not None:
            self._learner.give_up()

    def abandon(self) -> None:
        """Nobody listens any more: the thread ends where it wakes up."""
        self._stopping = True

    def fault(self) -> str:
        """Why the thread died, for people."""
        if self.error is None:
            return "ended without a word"
        text = " ".join(str(self.error).split())[:200]
        calls = traceback.extract_tb(self.error.__traceback__)
        where = f" ({Path(calls[-1].filename).name}:{calls[-1].lineno})" if calls else ""
        return f"{type(self.error).__name__}{': ' if text else ''}{text}{where}"

    def _live(self) -> None:
        if sys.platform == "linux":
            # This thread alone, and those that torch starts from it: where cores are scarce, frames go first.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(19, os.nice(0) + NICE))
        torch.set_num_threads(self._threads)
        stream: AbstractContextManager[Any] = nullcontext()
        if self._device.type == "cuda":
            stream = torch.cuda.stream(torch.cuda.Stream(self._device))
        try:
            with stream:
                if self.number:
                    self._begin(BUILD * self._limit_s)
                    self._method.replace(self.number)
                self._learner = Learner(self._method.current, self._watch, self._plan)
                while self._turn_taken(self._learner):
                    self._take_turn(self._learner)
        except BaseException as error:
            self.error = error
        finally:
            self._until_s = None
            self.busy = False

    def _begin(self, limit_s: float) -> None:
        self._until_s = time.perf_counter() + limit_s

    def _begin_stage(self, stage: str) -> None:
        self._begin(max(self._limit_s, SLOW * self._watch.model.safe_ms(stage) / 1000.0))

    def _turn_taken(self, learner: Learner) -> bool:
        """Waits for work; False when there will be no more."""
        self._until_s = None
        with self._turn:
            learner.hold(self._holding)
            self.busy = False
            while not self._stopping and not self._mail and not learner.has_work:
                self._turn.wait()
                learner.hold(self._holding)
            self.busy = True
            return not self._stopping

    def _take_turn(self, learner: Learner) -> None:
        """Watches what has come, then does one piece."""
        began_s, began = time.perf_counter(), self._clock.now_s()
        while self._mail:
            self._begin_stage("detect")
            index, frames, prediction = self._mail.popleft()
            if learner.show(index, frames, prediction).detected:
                self.detected.append(index)
        stage = learner.next_stage()
        if stage is not None:
            self._begin_stage(stage)
            step = learner.run()
            if step is not None:
                self.steps.append(step)
        self._method.keep(self.number)
        self._until_s = None
        # More on the wall than on the clock: the clock stood meanwhile.
        owed_s = (time.perf_counter() - began_s) - (self._clock.now_s() - began)
        self._clock.wait_until(self._clock.now_s() + max(0.0, owed_s))
