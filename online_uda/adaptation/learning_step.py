"""One step of the optimiser, in pieces: what learns, its gradients, the update, and what holds the weights back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from online_uda.adaptation.anchor import Anchor
from online_uda.adaptation.fisher import FisherPull
from online_uda.adaptation.pieces import Effort, Pieces, around
from online_uda.adaptation.recovery import Recovery
from online_uda.adaptation.scope_choice import ScopeChoice
from online_uda.adaptation.settings import MethodSettings
from online_uda.adaptation.sharpness import Uphill
from online_uda.adaptation.step import StepGradients
from online_uda.adaptation.student_mode import StudentMode
from online_uda.adaptation.teacher import EMATeacher
from online_uda.adaptation.warm_up import WarmUp


class LearningStep:
    """Takes steps.

    Args:
        settings: Of the method.
        learning: Every parameter that may ever learn, with its name.
        optimizer: Of these.
        scope: Chooses among them.
        mode: Of the student while it learns.
        gradients: Of the objectives.
        anchor: Holds the source weights.
        teacher: Follows the student; None without one.
        taught: What the teacher follows.
        fisher: Weights of parameters by what the source's answers hang on; None without.
        generator: Of every draw.
    """

    def __init__(
        self,
        settings: MethodSettings,
        learning: list[tuple[str, nn.Parameter]],
        *,
        optimizer: torch.optim.Optimizer,
        scope: ScopeChoice,
        mode: StudentMode,
        gradients: StepGradients,
        anchor: Anchor,
        teacher: EMATeacher | None,
        taught: Callable[[], nn.Module],
        fisher: FisherPull | None,
        generator: torch.Generator,
    ) -> None:
        self._settings, self._learning = settings, [parameter for _, parameter in learning]
        self._optimizer, self._scope, self._mode, self._gradients = optimizer, scope, mode, gradients
        self._anchor, self._teacher, self._taught, self._fisher = anchor, teacher, taught, fisher
        self._generator = generator
        self._recovery = Recovery(settings.anchor)
        self._since_followed = 0
        self.warm_up = WarmUp(settings.optimizer.warm_up, settings.optimizer.warm_up_ratio)

    def pieces(
        self, frames: Tensor, mix_ratio: float | None, effort: Effort
    ) -> Pieces[tuple[str | None, dict[str, float]]]:
        """One step; gives what learned, None if it was not taken, and its losses.

        Args:
            frames: ``(1, 3, H, W)`` float32 RGB in [0, 1].
            mix_ratio: ClassMix ratio; None leaves the near value.
            effort: How much of a step to take.
        """
        yield "begin"
        scope = self._scope.begin(effort)
        self._follow("before")
        draws = self._generator.get_state()
        losses = yield from self._descend(frames, mix_ratio, effort)
        radius = self._settings.optimizer.sharpness
        if radius > 0.0 and self._may_update(losses):
            yield "sharpen"
            uphill = Uphill(self._learning, radius)
            self._generator.set_state(draws)  # the same windows and views of the frame as before
            losses = yield from around(self._descend(frames, mix_ratio, effort), uphill)
        yield "update"
        if self._fisher is not None and self._settings.objectives.fisher is not None:
            losses["fisher"] = self._fisher.add_gradient(self._settings.objectives.fisher.weight)
        if not self._may_update(losses):
            self._optimizer.zero_grad(set_to_none=True)
            return None, losses
        self._mode.commit()
        self._optimizer.step()
        self.warm_up.stepped()
        self._scope.note(losses["mixed"] if "mixed" in losses else self._total(losses))
        # A student that predicts itself must not be seen between its step and the way back.
        in_pieces = self._settings.deploy == "teacher"
        if in_pieces:
            yield "update.follow"
        self._follow("after")
        if in_pieces:
            yield "update.hold"
        self._hold_back(losses)
        return scope, losses

    def _descend(self, frames: Tensor, mix_ratio: float | None, effort: Effort) -> Pieces[dict[str, float]]:
        """Gradients at the weights as they stand."""
        self._optimizer.zero_grad(set_to_none=True)
        self._mode.begin(self._generator)
        return (yield from self._gradients.pieces(frames, mix_ratio, effort))

    def _follow(self, when: str) -> None:
        slot = self._settings.teacher
        if self._teacher is None or slot is None or slot.follows != when:
            return
        if self._since_followed % slot.every == 0:
            self._teacher.update(self._taught())
        self._since_followed += 1

    def _hold_back(self, losses: Mapping[str, float]) -> None:
        slot = self._settings.anchor
        self._anchor.pull(slot.pull)
        self._anchor.restore(slot.restore, self._generator)
        self._anchor.blend()
        if self._recovery.due(losses.get("entropy"), self._total(losses)):
            self.reset()

    def shifted(self) -> None:
        """The trigger has found that the domain changed."""
        self.warm_up.restart()
        self._gradients.shifted()

    def reset(self) -> None:
        """Weights, statistics, moments of the optimiser and memories of the objectives are as at the start."""
        self._anchor.wake()
        self._anchor.relax(1.0)
        self._anchor.forget()
        self._optimizer.state.clear()
        self._gradients.forget()
        if self._teacher is not None:
            self._teacher.steps = 0  # its next update copies the student
            self._since_followed = 0

    def _may_update(self, losses: Mapping[str, float]) -> bool:
        """Whether there is anything to step along: a finite loss can still have a gradient that is not."""
        if not all(math.isfinite(value) for value in losses.values()):
            return False
        gradients = [parameter.grad for parameter in self._learning if parameter.grad is not None]
        return bool(gradients) and bool(torch.stack(torch._foreach_norm(gradients)).isfinite().all())

    def _total(self, losses: Mapping[str, float]) -> float:
        return sum(getattr(self._settings.objectives, name).weight * value for name, value in losses.items())

    def state_dict(self) -> dict[str, Any]:
        """Memories of the objectives, the way back and its counters."""
        return {
            "gradients": self._gradients.state_dict(), "recovery": self._recovery.state_dict(),
            "anchor": self._anchor.state_dict(), "warm_up": self.warm_up.state_dict(),
            "since_followed": self._since_followed,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self._gradients.load_state_dict(state["gradients"])
        self._recovery.load_state_dict(state["recovery"])
        self._anchor.load_state_dict(state["anchor"])
        self.warm_up.load_state_dict(state["warm_up"])
        self._since_followed = int(state["since_followed"])
