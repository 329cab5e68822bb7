"""What the stages of a frame cost on some device: given, or recorded in a run and kept in a file.

A stage has a dotted name, from the general to the special, and may end in ``@SHARE`` where a share of the image was
worked on: ``predict``, ``detect``, ``step.replay.backward.3``, ``step.replay.backward.3@0.50``. A file may stop at any
level: ``step: 15`` is the cost of every piece of a step that it does not name, and a share costs its share.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from online_uda.errors import UserError
from streams.yaml_config import ConfigModel, build, load_yaml

KEPT = 64
"""Samples of a stage that a file keeps: the newest."""

Milliseconds = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class CostFile(ConfigModel):
    """Content of a file of costs; JSON, or YAML written by hand.

    Attributes:
        recorded: Where the figures come from, as text by key; nothing depends on it.
        passes: Passes over a whole frame that a prediction of the file consists of, where the run answered tiles,
            scales or mirror images (`InferenceSettings.passes`). A run of other inference is charged in proportion.
        stages_ms: Milliseconds by stage, one figure or the samples of a run in order.
    """

    recorded: dict[str, str] = Field(default_factory=dict)
    passes: float = Field(1.0, gt=0.0, allow_inf_nan=False)
    stages_ms: dict[str, Milliseconds | Annotated[list[Milliseconds], Field(min_length=1)]] = Field(min_length=1)


class StageCosts:
    """Costs by stage, taken one after the other and from the start again.

    Args:
        stages_ms: Milliseconds by stage, a figure or samples.
        name: What messages call the source of the figures.
        predictions: Factor on every stage of a prediction.
    """

    def __init__(
        self, stages_ms: Mapping[str, float | Sequence[float]], name: str = "costs", predictions: float = 1.0
    ) -> None:
        self._name, self._predictions = name, predictions
        self._samples = {
            stage: (float(ms),) if isinstance(ms, (int, float)) else tuple(ms) for stage, ms in stages_ms.items()
        }
        self._taken = dict.fromkeys(self._samples, 0)

    @classmethod
    def read(cls, path: Path, passes: float = 1.0) -> StageCosts:
        """Costs of a file.

        Args:
            path: JSON or YAML.
            passes: Passes over a whole frame that a prediction of this run consists of.

        Raises:
            ConfigError: The file is unreadable or says something else; names file, line and key.
        """
        file = build(CostFile, load_yaml(path))
        return cls(file.stages_ms, str(path), passes / file.passes)

    def take_ms(self, stage: str) -> float:
        """The next sample of ``stage``, or of the most special stage above it that is known.

        Raises:
            UserError: None is known.
        """
        ms = self.peek_ms(stage)
        known, _ = self._find(stage)
        self._taken[known] = (self._taken[known] + 1) % len(self._samples[known])
        return ms

    def peek_ms(self, stage: str) -> float:
        """What `take_ms` would answer; nothing is taken."""
        known, share = self._find(stage)
        factor = self._predictions if stage.partition(".")[0] == "predict" else 1.0
        return self._samples[known][self._taken[known]] * share * factor

    def _find(self, stage: str) -> tuple[str, float]:
        if stage in self._samples:
            return stage, 1.0
        plain, _, share = stage.partition("@")
        parts = plain.split(".")
        for length in range(len(parts), 0, -1):
            known = ".".join(parts[:length])
            if known in self._samples:
                return known, float(share or 1.0)
        raise UserError(
            f"{self._name}: stages_ms has no cost of {parts[0]} ({stage}); add one in milliseconds. "
            f"It knows {', '.join(sorted(self._samples)[:12])}"
        )

    def rewind(self) -> None:
        """Back to the first sample of every stage."""
        self._taken = dict.fromkeys(self._samples, 0)

    def positions(self) -> dict[str, int]:
        """How far every stage has been taken."""
        return dict(self._taken)

    def seek(self, positions: Mapping[str, int]) -> None:
        """Continues from `positions`.

        Raises:
            UserError: They are of other costs.
        """
        if positions.keys() != self._taken.keys():
            raise UserError(f"{self._name}: the costs changed since the run was saved")
        self._taken = {stage: int(position) for stage, position in positions.items()}


class CostRecord:
    """Keeps the newest samples of every stage that passes.

    Args:
        recorded: What to say in the file about where the figures come from.
        passes: Passes over a whole frame that a prediction consists of.
    """

    def __init__(self, recorded: Mapping[str, str], passes: float = 1.0) -> None:
        self._recorded, self._passes = dict(recorded), passes
        self._samples: dict[str, deque[float]] = {}

    def note(self, stage: str, ms: float) -> None:
        """Adds a sample."""
        self._samples.setdefault(stage, deque(maxlen=KEPT)).append(ms)

    def write(self, path: Path) -> None:
        """Writes a file that `StageCosts.read` reads; nothing where nothing was noted."""
        if self._samples:
            stages = {stage: [round(ms, 4) for ms in list(samples)] for stage, samples in sorted(self._samples.items())}
            content: dict[str, Any] = {"recorded": self._recorded, "passes": self._passes, "stages_ms": stages}
            path.write_text(json.dumps(content, separators=(",", ":")) + "\n")
