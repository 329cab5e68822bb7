"""How often a bigger network is asked: less while the student keeps up with it, more where it does not (JITNet)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from online_uda.adaptation.trigger.base import Decision
from online_uda.networks.segmenter import Segmentation


class StridePolicy:
    """Learns on every d-th frame; d doubles after a frame on which the student kept up, and halves after another.

    Mullapudi et al. 2019 (specs/methods.md 3, JITNet).

    Args:
        smallest: Least d in frames, and d at the start.
        largest: Most.
    """

    def __init__(self, smallest: int, largest: int) -> None:
        self._smallest, self._largest = smallest, largest
        self.stride = smallest
        self._waited = smallest - 1  # the first frame is learned from

    def decide(self, frames: Tensor, prediction: Segmentation) -> Decision:
        """See `TriggerPolicy.decide`."""
        self._waited += 1
        if self._waited < self.stride:
            return Decision(False, signal=float(self.stride))
        self._waited = 0
        return Decision(True, signal=float(self.stride))

    def note(self, kept_up: bool) -> None:
        """Whether the student came to agree with the bigger network on the frame that was learned from."""
        self.stride = min(2 * self.stride, self._largest) if kept_up else max(self.stride // 2, self._smallest)

    def state_dict(self) -> dict[str, Any]:
        """See `TriggerPolicy.state_dict`."""
        return {"stride": self.stride, "waited": self._waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `TriggerPolicy.load_state_dict`."""
        self.stride, self._waited = int(state["stride"]), int(state["waited"])
