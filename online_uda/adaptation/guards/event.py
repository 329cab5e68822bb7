"""What a guard or a memory did and why, as one line of a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Action = Literal["skip", "rollback", "frozen", "resume", "spare", "restart", "recall"]
Cause = Literal[
    "blank", "non-finite", "collapse", "disagreement", "canary", "rest over", "out of memory", "worker died",
    "worker hung", "domain memory", "reservoir",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class GuardEvent:
    """One deed of a guard.

    Attributes:
        action: ``skip``: a frame, or the first of a spell of them, is kept from the method. ``rollback``: a candidate
            was thrown away, the last good weights predict. ``frozen``: the source weights predict and nothing is
            learned for a while. ``resume``: learning starts again. ``spare``: a step was left out, later ones are
            smaller. ``restart``: a worker beside the stream was left behind, another one takes over.
            ``recall``: a domain has come back, and the weights that were learned in it.
        cause: Which check asked for it.
        detail: The figures, for people.
    """

    action: Action
    cause: Cause
    detail: str
