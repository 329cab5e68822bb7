"""When HAMLET trains, and how hard: a windowed jump detector and the training budget that a jump buys.

The detector reads one scalar a frame (how much the frozen shallow head disagrees with the student) and compares window
means with an anchor window. A jump buys a number of training frames, a starting learning rate and a mixing ratio.
Everything follows specs/hamlet.md 2.3 and 2.5 (HAMLET, ICCV 2023, arXiv 2307.15063).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from online_uda.errors import UserError


@dataclass(frozen=True, slots=True)
class DomainChange:
    """A detected jump of the domain signal.

    Attributes:
        value: Mean signal of the window that fired.
        anchor: Mean signal of the window it was compared with.
    """

    value: float
    anchor: float

    @property
    def jump(self) -> float:
        """Signed distance from the anchor; positive means farther from the source domain."""
        return self.value - self.anchor

    @property
    def direction(self) -> int:
        """+1 when the signal rose, -1 when it fell."""
        return 1 if self.jump > 0 else -1


class WindowDetector:
    """Fires when the mean signal of a window leaves a band around an anchor window.

    The first full window becomes the anchor and stays it until a change fires, so slow drift adds up and fires too.
    After a change the next full window becomes the new anchor.

    In the released system the anchor window is not emptied, which makes the first comparison one frame later and over
    ``window + 1`` samples. That is the default here because the golden vectors depend on it.

    Args:
        window: Frames averaged for a decision.
        up: Smallest rise above the anchor that counts as a change, exclusive.
        down: Largest fall (a negative number) that counts as a change, exclusive.
        clear_anchor_window: Empty the window when it becomes the anchor, so that every sample is used once.

    Raises:
        UserError: If the window is empty or the band does not enclose zero.

    Example:
        >>> detector = WindowDetector(window=2, clear_anchor_window=True)
        >>> [detector.update(s) is not None for s in (0.8, 0.8, 1.3, 1.3)]
        [False, False, False, True]
    """

    def __init__(
        self, window: int = 75, up: float = 0.23, down: float = -0.23, *, clear_anchor_window: bool = False
    ) -> None:
        if window < 1:
            raise UserError(f"detector window must be at least 1 frame, got {window}")
        if not down < 0.0 < up:
            raise UserError(f"detector thresholds need down < 0 < up, got down={down}, up={up}")
        self.window = window
        self.up = up
        self.down = down
        self.clear_anchor_window = clear_anchor_window
        self.anchor: float | None = None
        self.last_value: float | None = None
        self.domain_id = 0
        self._signals: list[float] = []

    def update(self, signal: float) -> DomainChange | None:
        """Take the signal of one frame.

        Args:
            signal: Domain signal of the frame; a non-finite one is left out, as if the frame had not been seen.

        Returns:
            The change, on the frame where one is found.
        """
        if not math.isfinite(signal):
            return None
        self._signals.append(float(signal))
        if len(self._signals) < self.window:
            return None
        value = math.fsum(self._signals) / len(self._signals)
        if self.anchor is None:
            self.anchor = value
            if self.clear_anchor_window:
                self._signals.clear()
            return None
        change = None
        if value - self.anchor > self.up or value - self.anchor < self.down:
            change = DomainChange(value=value, anchor=self.anchor)
            self.domain_id += change.direction
            self.anchor = None
        self._signals.clear()
        self.last_value = value
        return change

    def state_dict(self) -> dict[str, Any]:
        """Everything that later updates depend on, in plain numbers and lists."""
        return {
            "signals": list(self._signals),
            "anchor": self.anchor,
            "last_value": self.last_value,
            "domain_id": self.domain_id,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict` of a detector with the same window.

        Raises:
            UserError: If the state holds more signals than this window can.
        """
        signals = [float(signal) for signal in state["signals"]]
        if len(signals) > self.window:
            raise UserError(
                f"detector state holds {len(signals)} signals, more than the window of {self.window}: "
                "resume with the window the state was saved with"
            )
        self._signals = signals
        self.anchor = state["anchor"]
        self.last_value = state["last_value"]
        self.domain_id = int(state["domain_id"])


def interpolate_by_distance(value: float, near_value: float, far_value: float, at_near: float, at_far: float) -> float:
    """Clamped linear interpolation from ``at_near`` at ``near_value`` to ``at_far`` at ``far_value``."""
    share = (value - near_value) / (far_value - near_value)
    return at_near + (at_far - at_near) * min(max(share, 0.0), 1.0)


def decayed_lr(initial_lr: float, frame: int, budget: int) -> float:
    """Learning rate of training frame ``frame`` (from 0) of ``budget``: linear to 0, and 0 afterwards."""
    return initial_lr * (1.0 - frame / budget) if frame < budget else 0.0


@dataclass(frozen=True, slots=True)
class BudgetRule:
    """What a change buys; the defaults are HAMLET's on Cityscapes.

    Attributes:
        near_value: Signal that counts as "at source".
        far_value: Signal that counts as "farthest".
        jump_unit: Jump that buys ``base_frames``.
        base_frames: Training frames for one ``jump_unit``.
        max_frames: Cap on the budget, carry-over included.
        return_factor: Factors on the budget when the signal fell, at ``near_value`` and ``far_value``.
        lr: Initial learning rates at ``near_value`` and ``far_value``.
        mix_ratio: Shares of source classes left out of the mix, at ``near_value`` and ``far_value``.

    Raises:
        UserError: If the rule cannot be applied.
    """

    near_value: float = 0.80
    far_value: float = 2.55
    jump_unit: float = 0.23
    base_frames: int = 750
    max_frames: int = 4450
    return_factor: tuple[float, float] = (0.25, 0.75)
    lr: tuple[float, float] = (1.5e-5, 6e-5)
    mix_ratio: tuple[float, float] = (0.5, 0.75)

    def __post_init__(self) -> None:
        if self.far_value <= self.near_value:
            raise UserError(f"budget needs near_value < far_value, got {self.near_value} and {self.far_value}")
        if self.jump_unit <= 0.0 or self.base_frames < 0 or self.max_frames < 0:
            raise UserError(
                "budget needs jump_unit > 0, base_frames >= 0 and max_frames >= 0, got "
                f"{self.jump_unit}, {self.base_frames}, {self.max_frames}"
            )
        if not all(0.0 <= ratio <= 1.0 for ratio in self.mix_ratio):
            raise UserError(f"mix_ratio must lie in [0, 1], got {self.mix_ratio}")

    def _between(self, value: float, ends: tuple[float, float]) -> float:
        return interpolate_by_distance(value, self.near_value, self.far_value, *ends)

    def frames_for(self, change: DomainChange, left_over: int = 0) -> int:
        """Training frames after a change, with what is left of the previous budget."""
        factor = 1.0 if change.direction > 0 else self._between(change.value, self.return_factor)
        bought = int(abs(change.jump) / self.jump_unit * self.base_frames * factor)
        return min(bought + max(left_over, 0), self.max_frames)

    def initial_lr(self, value: float) -> float:
        """Learning rate of the first training frame after a change to signal ``value``."""
        return self._between(value, self.lr)

    def mix_ratio_for(self, value: float) -> float:
        """Mixing ratio m after a change to signal ``value``: the share ``1 - m`` of source classes is pasted."""
        return self._between(value, self.mix_ratio)


@dataclass(frozen=True, slots=True)
class FramePlan:
    """What the budget allows for one frame: whether to train, at which learning rate, with which mixing ratio."""

    train: bool
    lr: float
    mix_ratio: float


class TrainingBudget:
    """Counts down the training frames that changes have bought; nothing is trained before the first change.

    Call `next_frame` once per frame, before training, and `on_change` after the detector fired on that frame.

    Args:
        rule: What a change buys.
    """

    def __init__(self, rule: BudgetRule | None = None) -> None:
        self.rule = rule if rule is not None else BudgetRule()
        self.budget = 0
        self.frames_since_change = 0
        self.initial_lr = 0.0
        self.mix_ratio = self.rule.mix_ratio[0]

    @property
    def remaining(self) -> int:
        """Training frames left."""
        return max(self.budget - self.frames_since_change, 0)

    def next_frame(self) -> FramePlan:
        """Plan the next frame and count it."""
        plan = FramePlan(
            train=self.frames_since_change < self.budget,
            lr=decayed_lr(self.initial_lr, self.frames_since_change, self.budget),
            mix_ratio=self.mix_ratio,
        )
        self.frames_since_change += 1
        return plan

    def on_change(self, change: DomainChange) -> None:
        """Start a new budget, carrying over what was left of the old one."""
        self.budget = self.rule.frames_for(change, left_over=self.remaining)
        self.frames_since_change = 0
        self.initial_lr = self.rule.initial_lr(change.value)
        self.mix_ratio = self.rule.mix_ratio_for(change.value)

    def state_dict(self) -> dict[str, Any]:
        """Everything that later plans depend on, in plain numbers."""
        return {
            "budget": self.budget,
            "frames_since_change": self.frames_since_change,
            "initial_lr": self.initial_lr,
            "mix_ratio": self.mix_ratio,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self.budget = int(state["budget"])
        self.frames_since_change = int(state["frames_since_change"])
        self.initial_lr = float(state["initial_lr"])
        self.mix_ratio = float(state["mix_ratio"])


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Give every parameter group the learning rate ``lr`` times its own ``lr_scale`` (1 where the group has none).

    The released system overwrites all groups with one value and so loses the head's multiplier at the first change;
    here the multiplier survives (specs/hamlet.md 2.5 and section 9, check 5).
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
