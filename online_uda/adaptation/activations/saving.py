"""From the slot to what it does around every forward pass that a step learns from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from online_uda.adaptation.activations.frozen import FrozenConvolutions, has_frozen_convolutions
from online_uda.adaptation.activations.recompute import Again, Recompute
from online_uda.adaptation.settings.activations import Activations
from online_uda.networks.segmenter import Segmenter


class Saving:
    """Keeps what frozen convolutions do not need out of the graph, and with the slot more than that.

    Args:
        student: That learns.
        recompute: Runs blocks again; None keeps all that is needed.
    """

    def __init__(self, student: Segmenter, recompute: Recompute | None = None) -> None:
        self._student, self._recompute = student, recompute

    @contextmanager
    def around(self, again: Again) -> Iterator[None]:
        """Around a forward pass of the student.

        Args:
            again: The mode of the student in that pass, without a trace.
        """
        with self._lean(), self._more(lambda: _both(again, self._lean)):
            yield

    def _lean(self) -> AbstractContextManager[Any]:
        return FrozenConvolutions() if has_frozen_convolutions(self._student) else nullcontext()

    def _more(self, again: Again) -> AbstractContextManager[Any]:
        return nullcontext() if self._recompute is None else self._recompute.around(again)


@contextmanager
def _both(first: Again, second: Again) -> Iterator[None]:
    with first(), second():
        yield


def saving_of(slot: Activations | None, student: Segmenter) -> Saving:
    """What the slot asks for.

    Raises:
        UserError: The network has no blocks to run again.
    """
    return Saving(student, None if slot is None else Recompute(student))
