"""Data-parallel training in forked processes on one machine.

Threads inside an operator meet at a barrier after each of thousands of operators a step, and wait spinning for the
slowest: on a machine with other work that costs several times the work itself. Processes meet once a step.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkProcess
from threading import BrokenBarrierError

import torch
from torch import Tensor

_PATIENCE_S = 600.0


class Team:
    """Processes that average tensors through shared memory. Create it before `start` forks the others.

    Args:
        members: Number of processes, this one included.
        numbers: Most numbers that one `average` call carries.
    """

    def __init__(self, members: int = 1, numbers: int = 0) -> None:
        self.members, self.rank = members, 0
        self._others: list[ForkProcess] = []
        if members > 1:
            context = multiprocessing.get_context("fork")
            self._barrier = context.Barrier(members)
            # Two sets of rows: one may be filled while the other is still being read.
            self._rows = torch.zeros(2, members, numbers).share_memory_()
            self._turn = 0

    def start(self, work: Callable[[], None]) -> None:
        """Forks the other members; each runs ``work`` with its own ``rank`` and ends."""
        context = multiprocessing.get_context("fork")
        for rank in range(1, self.members):
            process = context.Process(target=self._run, args=(rank, work), daemon=True)
            process.start()
            self._others.append(process)

    def _run(self, rank: int, work: Callable[[], None]) -> None:
        self.rank = rank
        try:
            work()
        except (KeyboardInterrupt, BrokenBarrierError):
            return
        except BaseException:
            self._barrier.abort()
            raise

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each float32 tensor by its mean over the members; all members call it alike.

        Raises:
            RuntimeError: If another member has died.
        """
        if self.members == 1:
            return
        rows = self._rows[self._turn]
        self._turn = 1 - self._turn
        start = 0
        for tensor in tensors:
            rows[self.rank, start : start + tensor.numel()].copy_(tensor.detach().reshape(-1))
            start += tensor.numel()
        try:
            self._barrier.wait(_PATIENCE_S)
        except BrokenBarrierError:
            raise RuntimeError(
                "another training process has died; --resume continues from the last saved state"
            ) from None
        mean = rows[:, :start].mean(0)
        start = 0
        for tensor in tensors:
            tensor.detach().copy_(mean[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()

    def close(self) -> None:
        """Ends the other members, wherever they are."""
        if self._others:
            self._barrier.abort()
        for process in self._others:
            process.join(timeout=5.0)
            if process.is_alive():
                process.terminate()
        self._others.clear()
