"""Tables that grow: what an earlier run of a benchmark measured, and this one does not measure again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def kept(path: Path, again: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Rows of a result file, without those whose values are all among the ones that ``again`` names; none of no file.

    Args:
        path: JSON with a list of ``rows``.
        again: By the key of a row, its values that are measured again.
    """
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return [row for row in rows if not all(row[key] in values for key, values in again.items())]
