"""From the slot to what it does around every forward pass that a step learns from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor

from online_uda.adaptation.activations.frozen import lean
from online_uda.adaptation.activations.prune import Prune
from online_uda.adaptation.activations.recompute import Again, Recompute
from online_uda.adaptation.pieces import Pieces
from online_uda.adaptation.settings.activations import Activations, PruneSettings
from online_uda.networks.segmenter import Segmenter


class Saving:
    """Keeps what frozen convolutions do not need out of the graph, and with the slot more than that.

    Args:
        slot: How; None keeps all that is needed.
        student: That learns.
        looking: Mode of the student when it looks at a frame without a trace, and autocast.

    Attributes:
        prune: Where the slot asks for it; it has a memory.

    Raises:
        UserError: The network has no blocks to run again.
    """

    def __init__(self, slot: Activations | None, student: Segmenter, looking: Again) -> None:
        self._student = student
        self.prune = Prune(slot, student, looking) if isinstance(slot, PruneSettings) else None
        self._recompute = Recompute(student) if slot is not None and slot.kind == "recompute" else None

    def look(self, frames: Tensor) -> Pieces[None]:
        """What comes before the objectives of a step.

        Args:
            frames: ``(1, 3, H, W)`` float32 RGB in [0, 1], as far as the step learns from them.
        """
        if self.prune is None:
            return
        if self.prune.due:
            yield "activations.look"
            self.prune.look(frames)
        self.prune.stepped()

    @contextmanager
    def around(self, again: Again) -> Iterator[None]:
        """Around a forward pass of the student.

        Args:
            again: The mode of the student in that pass, without a trace.
        """
        with self._more(lambda: _both(again, self._lean)), self._lean():
            yield

    def _lean(self) -> AbstractContextManager[Any]:
        return lean(self._student)

    def _more(self, again: Again) -> AbstractContextManager[Any]:
        if self.prune is not None:
            return self.prune.around()
        return nullcontext() if self._recompute is None else self._recompute.around(again)


@contextmanager
def _both(first: Again, second: Again) -> Iterator[None]:
    with first(), second():
        yield
