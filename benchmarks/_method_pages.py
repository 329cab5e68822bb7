"""The measured row on the page of every method in docs/methods, as the method table has it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_ROW = re.compile(r"\*\*Measured\.\*\*.*?(?=\n\n)", re.DOTALL)
_BEFORE = "**Fails.**"


def measured(row: dict[str, Any], table: str) -> str:
    """The paragraph of a page.

    Args:
        row: Of `benchmarks.methods.rows_of`.
        table: Name of the table that it is a row of, in docs/benchmarks.
    """
    seeds = "seed " + str(row["seeds"][0]) if len(row["seeds"]) == 1 else "seeds " + ", ".join(map(str, row["seeds"]))
    size = "" if row["size"] is None else f" at {row['size']}"
    return (
        f"**Measured.** `{row['schedule']}`, {row['frames']} frames{size}, {seeds}: harmonic mean {row['hmean']:.1f} "
        f"({row['gain']:+.1f}\nover frozen), worst visit {row['worst_visit_gain']:+.1f}, "
        f"{row['frame_ms']:.0f} ms of CPU time a frame ([table](../benchmarks/{table}.md))."
    )


def with_row(page: str, row: dict[str, Any], table: str) -> str:
    """A page with the paragraph in the place of the one it has, or before what is said of failures."""
    text = measured(row, table)
    if _ROW.search(page):
        return _ROW.sub(lambda _: text, page)
    before, fails, after = page.partition(_BEFORE)
    return f"{before}{text}\n\n{fails}{after}"


def write_pages(rows: Iterable[dict[str, Any]], folder: Path, table: str) -> None:
    """Writes the first row of every method on its page; a method from a file of its own has none."""
    seen: set[str] = set()
    for row in rows:
        path = folder / f"{row['method']}.md"
        if row["method"] in seen or not path.is_file():
            continue
        seen.add(row["method"])
        path.write_text(with_row(path.read_text(encoding="utf-8"), row, table), encoding="utf-8")
