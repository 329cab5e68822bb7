"""docs/checks.md names tests: each of them exists, and every method has a row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from online_uda.config import named_methods

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "checks.md"
WHOLE = "| methods | test |"


def named() -> Iterator[tuple[str, str]]:
    """Files or folders below the repository, and the test in it or nothing; … stands for the file or folder before."""
    file = folder = ""
    for token in re.findall(r"`([^`]+)`", PAGE.read_text(encoding="utf-8")):
        where, _, test = re.sub(r"\[.*", "", token).partition("::")
        if not (where.endswith((".py", "/")) or where.startswith(("…", "tests/"))):
            continue
        if where.startswith("…/"):
            file = f"{folder}/{where[2:]}"
        elif where != "…":
            file = where if "/" in where else f"tests/adaptation/{where}"
        folder = file.rpartition("/")[0]
        yield file, test


@pytest.mark.parametrize(("file", "test"), sorted(set(named())))
def test_what_is_named_exists(file: str, test: str) -> None:
    found = list(ROOT.glob(file))
    assert found, f"{file} is not there"
    if test:
        names = [name for path in found for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))]
        assert any(fnmatch(name, test) for name in names), f"{file} has no {test}"


def test_every_method_has_a_row() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text[text.index(WHOLE) :].splitlines()[2:] if line.startswith("|")]
    listed = {name.strip() for row in rows for name in row.split(",")}
    assert listed == set(named_methods()) - {"frozen"}
