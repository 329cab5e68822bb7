"""Domain memory: what was learned in a domain is filed under how that domain looks, and recalled when it comes back.

The second half of a storm brings the rates of the first half again. At every change that the trigger finds, the weights
are filed under the mean signature of the domain that was left (where the detector saw it), and the nearest of three
kinds of weights to the signature of the frames that revealed the change goes on: those at hand, unless the change leads
back towards the source; the source network's; or filed ones. A bank of states by domain is the idea of ReservoirTTA
(specs/methods.md 3); the signature and the rule are our own. Distances are Euclidean between signatures, in units of
the detector's limit; the source's signature is the origin. The bank is bounded: a domain that was filed already is
filed anew, and the state used longest ago makes room.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from online_uda.adaptation.settings import MemorySettings
from online_uda.adaptation.trigger.base import Decision

SAME = 0.25
"""Signatures nearer than this share of their length are of one domain."""
_MEAN_RATE = 0.1


@dataclass(slots=True, eq=False)
class _Filed:
    """A state: how its domain looked, what learning had changed there, and when it was used last."""

    signature: Tensor
    changes: dict[int, Tensor]
    used: int


def live_tensors(networks: Sequence[nn.Module]) -> list[Tensor]:
    """What learning may change of some networks: floating-point weights and statistics, the light head left out."""
    return [
        tensor.data
        for network in dict.fromkeys(networks)
        for name, tensor in network.state_dict(keep_vars=True).items()
        if tensor.is_floating_point() and not name.startswith("light_head.")
    ]


class DomainMemory:
    """Files and recalls the state of some networks.

    Args:
        networks: What learns, and what is averaged from it. Their present state is the source's.
        settings: The slot.
    """

    def __init__(self, networks: Sequence[nn.Module], settings: MemorySettings) -> None:
        self._live = live_tensors(networks)
        self._source = [tensor.clone() for tensor in self._live]
        self._settings = settings
        self._window: list[Tensor] = []
        self._mean: Tensor | None = None
        self._frames = 0
        self._change: tuple[Tensor | None, Tensor, bool, bool] | None = None
        self._bank: list[_Filed] = []
        self._uses = 0

    def __len__(self) -> int:
        """States that are filed."""
        return len(self._bank)

    def watch(self, decision: Decision) -> None:
        """Takes the trigger's word on a frame; no weight moves."""
        if decision.signature is None:
            return
        self._window.append(decision.signature)
        if len(self._window) > self._settings.window:
            oldest = self._window.pop(0)
            self._frames += 1
            rate = max(_MEAN_RATE, 1.0 / self._frames)
            self._mean = oldest if self._mean is None else torch.lerp(self._mean, oldest, rate)
        if decision.confirmed:
            # The frames of the window have revealed the change: they are the new domain's, and the mean the old one's.
            self._change = (self._mean, torch.stack(self._window).mean(0), decision.far, decision.nearer)
            self._mean, self._frames = None, 0

    @property
    def pending(self) -> bool:
        """Whether a change was found that `settle` has not answered yet."""
        return self._change is not None

    def settle(self) -> str | None:
        """After a change was found: files the state of the domain that was left and puts the nearest one in place.

        Returns:
            What has happened, for people; None where the weights stay as they are.
        """
        if self._change is None:
            return None
        (left, found, far, nearer), self._change = self._change, None
        others = list(self._bank)
        if left is not None:
            self._file(left)
        if not far:
            return None  # the weights are on their way to the source's
        home = float(found.norm())
        # What a storm has taught is no help in the drizzle after it: towards the source nothing is kept as it is.
        at_hand = math.inf if left is None or nearer else float((found - left).norm())
        best = min(others, key=lambda filed: float((found - filed.signature).norm()), default=None)
        if best is not None and float((found - best.signature).norm()) < min(home, at_hand):
            self._put(best)
            return "the weights learned in a domain that looked like this one"
        if home < at_hand and left is not None:
            self._put(None)
            return "the source weights"
        return None

    @torch.no_grad()
    def _file(self, signature: Tensor) -> None:
        changes = {
            index: _halved(now - source)
            for index, (now, source) in enumerate(zip(self._live, self._source, strict=True))
            if not torch.equal(now, source)
        }
        if not changes:
            return
        self._bank = [
            filed for filed in self._bank if (filed.signature - signature).norm() >= SAME * float(signature.norm())
        ]
        if len(self._bank) >= self._settings.states:
            self._bank.remove(min(self._bank, key=lambda filed: filed.used))
        self._uses += 1
        self._bank.append(_Filed(signature, changes, self._uses))

    @torch.no_grad()
    def _put(self, filed: _Filed | None) -> None:
        torch._foreach_copy_(self._live, self._source)
        if filed is None:
            return
        self._uses += 1
        filed.used = self._uses
        for index, change in filed.changes.items():
            self._live[index] += change.to(self._live[index])

    def state_dict(self) -> dict[str, Any]:
        """The bank, and what is known of the domain at hand."""
        return {
            "window": list(self._window), "mean": self._mean, "frames": self._frames, "change": self._change,
            "uses": self._uses, "bank": [(filed.signature, dict(filed.changes), filed.used) for filed in self._bank],
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self._window, self._mean, self._frames = list(state["window"]), state["mean"], int(state["frames"])
        self._change = None if state["change"] is None else tuple(state["change"])
        self._uses = int(state["uses"])
        self._bank = [_Filed(signature, dict(changes), int(used)) for signature, changes, used in state["bank"]]


def _halved(change: Tensor) -> Tensor:
    """In half precision, unless that overflows: statistics of an odd network can be large."""
    half = change.half()
    return half if bool(half.isfinite().all()) else change
