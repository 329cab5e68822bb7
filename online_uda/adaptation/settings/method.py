"""A whole method: every slot, and the check that they fit."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from online_uda.adaptation.settings.activations import Activations
from online_uda.adaptation.settings.base import SlotModel
from online_uda.adaptation.settings.fitting import faults_of
from online_uda.adaptation.settings.guards import GuardSettings
from online_uda.adaptation.settings.labels import MixingSettings, PseudoLabelSettings, ReplaySettings, TeacherSettings
from online_uda.adaptation.settings.objectives import ObjectiveSettings
from online_uda.adaptation.settings.reservoir import ReservoirSettings
from online_uda.adaptation.settings.student import (
    AdapterSettings,
    AlignmentSettings,
    AnchorSettings,
    FusionSettings,
    MemorySettings,
    NormSettings,
    OptimizerSettings,
    ScopeSettings,
)
from online_uda.adaptation.settings.trigger import AlwaysTrigger, Trigger
from streams.yaml_config import KeyedErrors


class MethodSettings(SlotModel):
    """A whole method.

    ``student_mode`` is the mode of dropout and stochastic depth while learning: ``train`` as in source training,
    ``eval`` with both switched off. With ``train``, BatchNorm layers also learn their statistics from the step's crops.
    ``deploy`` says whose weights predict: the student's, or their average over recent steps, which the teacher holds.
    ``activations`` saves memory of the step's graph.
    ``prior_correction`` weighs every answer by how often its classes appear in the frame (ROID).
    """

    description: str = Field(min_length=1)
    alignment: AlignmentSettings | None = None
    fusion: FusionSettings | None = None
    norm: NormSettings = NormSettings()
    scope: ScopeSettings = ScopeSettings()
    adapters: AdapterSettings | None = None
    student_mode: Literal["eval", "train"] = "eval"
    optimizer: OptimizerSettings = OptimizerSettings()
    anchor: AnchorSettings = AnchorSettings()
    memory: MemorySettings | None = None
    reservoir: ReservoirSettings | None = None
    steps: int = Field(default=1, ge=1, le=16)
    activations: Activations | None = None
    teacher: TeacherSettings | None = None
    replay: ReplaySettings | None = None
    mixing: MixingSettings | None = None
    pseudo_labels: PseudoLabelSettings | None = None
    objectives: ObjectiveSettings = ObjectiveSettings()
    deploy: Literal["student", "teacher"] = "student"
    prior_correction: bool = False
    trigger: Trigger = AlwaysTrigger()
    guards: GuardSettings | None = None

    @property
    def keeps_the_source(self) -> bool:
        """Whether no prediction can differ from the source network's."""
        still = self.scope.parameters == "none" and self.norm.statistics == "source"
        return still and self.alignment is None and self.fusion is None and not self.prior_correction

    @property
    def needs_source(self) -> bool:
        """Whether source images are needed: for replay, trigger, alignment, the canary, or Fisher's weights."""
        watched = self.guards is not None and self.guards.canary > 0
        return self.replay is not None or watched or self.alignment is not None or self._weighs_source

    @property
    def _weighs_source(self) -> bool:
        return self.reservoir is not None or self.objectives.weighs_source

    @model_validator(mode="after")
    def _slots_fit(self) -> Self:
        faults = list(faults_of(self))
        if faults:
            raise KeyedErrors(faults)
        return self
