"""What a user may ask of a run while it plays: pause learning, go back to the source network, write a snapshot."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from online_uda.adaptation.method import Method

Wish = Literal["pause", "resume", "reset", "snapshot"]
WISHES: tuple[Wish, ...] = get_args(Wish)


class Controls:
    """Wishes from any thread, until the run comes to them between two frames."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wishes: list[Wish] = []
        self.paused = False

    def ask(self, wish: Wish) -> None:
        """Leaves a wish; asking twice before the run comes to it is asking once."""
        with self._lock:
            if wish not in self._wishes:
                self._wishes.append(wish)

    def take(self) -> list[Wish]:
        """The wishes since the last call, in their order."""
        with self._lock:
            wishes, self._wishes = self._wishes, []
            return wishes


class Steering:
    """Does what is asked of a run, between two frames.

    Args:
        method: As it starts: with the source weights. Its state is what ``reset`` goes back to.
        controls: Holds the wishes.
    """

    def __init__(self, method: Method, controls: Controls) -> None:
        self._method, self._controls = method, controls
        self._start = method.state_dict()
        self._reset_due = False
        self.snapshot_due = False

    @property
    def holds(self) -> bool:
        """Whether no step may begin: learning is paused, or something can be done only while none is in flight."""
        return self._controls.paused or self._reset_due or self.snapshot_due

    def obey(self, settled: bool) -> list[dict[str, str]]:
        """Takes new wishes and does what can be done now.

        Args:
            settled: Whether no step is in flight.

        Returns:
            Events for the record: {action, cause, detail} each.
        """
        events = []
        for wish in self._controls.take():
            if wish in ("pause", "resume"):
                self._controls.paused = wish == "pause"
                events.append(_event(wish, "nothing is learned" if wish == "pause" else "learning goes on"))
            elif wish == "reset":
                self._reset_due = True
            else:
                self.snapshot_due = True
        # Each time: a method that was replaced knows nothing of it.
        self._method.pause(self._controls.paused)
        if self._reset_due and settled:
            self._method.load_state_dict(self._start)
            self._reset_due = False
            events.append(_event("reset", "back to the source network"))
        return events

    def snapshot_taken(self) -> None:
        """The snapshot that was wished for stands."""
        self.snapshot_due = False


def _event(action: str, detail: str) -> dict[str, Any]:
    return {"action": action, "cause": "user", "detail": detail}
