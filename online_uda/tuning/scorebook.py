"""Scores that have been paid for: a line each in a file, so that nothing is played twice, whatever interrupts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from online_uda.tuning.conditions import Role
from online_uda.tuning.objective import Score, VisitGain


class Scorebook:
    """Scores on whole sets of streams by method and values.

    Args:
        path: File of JSON lines; made at the first score. A last line that was cut off is dropped.
        harm: Weight of harm.
    """

    def __init__(self, path: Path, harm: float) -> None:
        self._path, self._harm = path, harm
        self._scores: dict[str, Score] = {}
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                self._scores[row["key"]] = Score.of([VisitGain(**visit) for visit in row["visits"]], harm)

    def find(self, role: Role, method: str, values: dict[str, Any]) -> Score | None:
        """The score, if it is known."""
        return self._scores.get(_key(role, method, values))

    def note(self, role: Role, method: str, values: dict[str, Any], score: Score) -> None:
        """Keeps a score, here and in the file."""
        key = _key(role, method, values)
        self._scores[key] = score
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "visits": score.as_dict()["visits"]}) + "\n")


def _key(role: Role, method: str, values: dict[str, Any]) -> str:
    return json.dumps([role, method, values], sort_keys=True)
