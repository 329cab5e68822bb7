"""A tiny network and a labelled folder, and a study on them that takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from online_uda.tune import main
from online_uda.tuning import session
from tests.run_kit import write_network

measure_sensitivity = session._measure


@dataclass(frozen=True)
class TuneKit:
    """Where a study's inputs are."""

    root: Path

    def words(self, *extra: str, out: str = "study", **changes: str) -> list[str]:
        """A command line of a study on the tiny inputs."""
        flags = {
            "network": str(self.root / "network"), "source": str(self.root / "source"), "methods": "norm_ema",
            "frames": "2", "trials": "2", "minutes": "5", "threads": "1", "device": "cpu", **changes,
        }  # fmt: skip
        words = [word for key, value in flags.items() for word in (f"--{key}", *value.split())]
        return [*words, "--out", str(self.root / out), *extra]

    def tune(self, *extra: str, out: str = "study", **changes: str) -> Path:
        """Runs a study, expects success, returns its folder."""
        assert main(self.words(*extra, out=out, **changes)) == 0
        return self.root / out


@pytest.fixture
def kit(tmp_path: Path, make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> TuneKit:
    """Without the sensitivity, which takes longer than all the rest; `measure_sensitivity` of this module is it."""
    monkeypatch.setattr(session, "_measure", lambda *_: None)
    make_folder("source", count=32, size=(32, 48))
    write_network(tmp_path / "network")
    return TuneKit(tmp_path)
