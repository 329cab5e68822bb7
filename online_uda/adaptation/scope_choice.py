"""What learns in the step at hand: a fixed set of parameters, or the modules that a selector chooses."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from online_uda.adaptation.pieces import Effort
from online_uda.adaptation.scope import set_trainable, suffix_parameters
from online_uda.adaptation.scope_bandit import ModuleBandit
from online_uda.adaptation.scope_lottery import ModuleLottery
from online_uda.adaptation.scope_select import ScopeSelector
from online_uda.adaptation.scope_switch import HybridSwitch
from online_uda.adaptation.settings import ScopeSettings
from online_uda.errors import UserError
from online_uda.networks.adapters import MARK
from online_uda.networks.segmenter import Segmenter


class ScopeChoice:
    """Switches gradients on for what learns, step by step.

    Args:
        method: Name for messages.
        student: The network that learns.
        settings: The scope slot.
        learning: Every parameter that may ever learn.
        fixed: Whether the student is the shared source network, which nobody may touch.
        seed: Of a drawn choice.

    Raises:
        UserError: The selector is made for another number of stages.
    """

    def __init__(
        self,
        method: str,
        student: Segmenter,
        settings: ScopeSettings,
        learning: list[tuple[str, nn.Parameter]],
        *,
        fixed: bool,
        seed: int = 0,
    ) -> None:
        self._student, self._settings, self._learning = student, settings, learning
        self._everything = list(student.named_parameters())
        self._first_stage, self._seed = 1, seed
        self.selector = self._build_selector(method)
        if not fixed:
            set_trainable(self._everything, learning)

    def _build_selector(self, method: str) -> ScopeSelector | ModuleBandit | ModuleLottery | HybridSwitch | None:
        scope = self._settings
        if scope.parameters == "hybrid":
            return HybridSwitch(scope.window, scope.rise, scope.memory)
        if scope.parameters != "suffix":
            return None
        if scope.select == "measured":
            return ModuleBandit(self._student.stage_count, rate=scope.rate, exploration=scope.exploration)
        if scope.select == "mad":
            generator = torch.Generator().manual_seed(self._seed)
            return ModuleLottery(self._student.stage_count, scope.decay, scope.draw, generator)
        if scope.select == "hamt" and self._student.stage_count != len(scope.speeds_hz):
            raise UserError(
                f"method {method}: scope.select hamt chooses among {len(scope.speeds_hz)} modules, this network has "
                f"{self._student.stage_count}; set scope.select to fixed"
            )
        return ScopeSelector(
            scope.select, speeds_hz=scope.speeds_hz, temperature=scope.temperature, rate=scope.rate,
            fixed_stage=scope.first_module,
        )  # fmt: skip

    def begin(self, effort: Effort) -> str:
        """Lets the parameters of the coming step learn and no others; names them."""
        last = self._student.stage_count
        if isinstance(self.selector, HybridSwitch):
            return self._begin_hybrid(self.selector.everything, effort)
        if isinstance(self.selector, ModuleLottery):
            return self._begin_alone(self.selector.select())
        if self.selector is not None:
            first = max(self.selector.select(), effort.first_stage)
            may_learn = {name for name, _ in self._learning}
            suffix = suffix_parameters(self._student, first, self._settings.train_fuse)
            set_trainable(self._everything, [pair for pair in suffix if pair[0] in may_learn])
            return f"modules {first}-{last}"
        if effort.first_stage != self._first_stage:
            self._first_stage = effort.first_stage
            stages = range(min(effort.first_stage - 1, self._student.stage_count))
            resting = {name for index in stages for name, _ in self._student.stage_parameters(index)}
            chosen = [(name, parameter) for name, parameter in self._learning if name not in resting]
            set_trainable(self._everything, chosen)
        name = self._settings.parameters
        return name if self._first_stage == 1 else f"{name}, stages {self._first_stage}-{last}"

    def _begin_alone(self, module: int) -> str:
        """Module ``module`` alone learns; with the last one also fuse and classifier, where they may."""
        may_learn = {name for name, _ in self._learning}
        last = self._student.stage_count
        chosen = list(self._student.module_parameters(module - 1))
        if module == last:
            chosen = suffix_parameters(self._student, last, self._settings.train_fuse)
        set_trainable(self._everything, [pair for pair in chosen if pair[0] in may_learn])
        return f"module {module}"

    def _begin_hybrid(self, everything: bool, effort: Effort) -> str:
        stages = range(min(effort.first_stage - 1, self._student.stage_count))
        resting = {name for index in stages for name, _ in self._student.stage_parameters(index)}
        chosen = [(name, parameter) for name, parameter in self._learning
                  if (everything or MARK in name) and name not in resting]  # fmt: skip
        set_trainable(self._everything, chosen)
        return "all" if everything else "adapters"

    def note(self, loss: float) -> None:
        """The loss of the step that `begin` prepared."""
        if self.selector is not None:
            self.selector.update(loss)

    def note_cost(self, ms: float) -> None:
        """What that step cost, in milliseconds."""
        if isinstance(self.selector, ModuleBandit):
            self.selector.note_cost(ms)

    def state_dict(self) -> dict[str, Any] | None:
        """The selector's scores."""
        return None if self.selector is None else self.selector.state_dict()
