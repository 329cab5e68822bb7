"""The slots of a method as typed settings: a method YAML is one `MethodSettings`, every key is checked."""

from online_uda.adaptation.settings.guards import GuardSettings
from online_uda.adaptation.settings.labels import (
    MixingSettings,
    PseudoLabelSettings,
    ReplaySettings,
    StyleSettings,
    TeacherSettings,
)
from online_uda.adaptation.settings.method import MethodSettings
from online_uda.adaptation.settings.objectives import (
    EntropySettings,
    FeatureDistanceSettings,
    ObjectiveSettings,
    ReplayedSettings,
    WeightSettings,
)
from online_uda.adaptation.settings.student import (
    AdapterSettings,
    AlignmentSettings,
    AnchorSettings,
    EnsembleSettings,
    FusionSettings,
    MemorySettings,
    NormSettings,
    OptimizerSettings,
    ScopeSettings,
)
from online_uda.adaptation.settings.trigger import AlwaysTrigger, DriftTrigger, HamletTrigger, StrideTrigger, Trigger

__all__ = [
    "AdapterSettings",
    "AlignmentSettings",
    "AlwaysTrigger",
    "AnchorSettings",
    "DriftTrigger",
    "EnsembleSettings",
    "EntropySettings",
    "FeatureDistanceSettings",
    "FusionSettings",
    "GuardSettings",
    "HamletTrigger",
    "MemorySettings",
    "MethodSettings",
    "MixingSettings",
    "NormSettings",
    "ObjectiveSettings",
    "OptimizerSettings",
    "PseudoLabelSettings",
    "ReplaySettings",
    "ReplayedSettings",
    "ScopeSettings",
    "StrideTrigger",
    "StyleSettings",
    "TeacherSettings",
    "Trigger",
    "WeightSettings",
]
