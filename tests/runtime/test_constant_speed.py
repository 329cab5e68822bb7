"""The delay rule of Alfarra et al. against specs/protocols.md, and a stream that follows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from online_uda.cli import main
from online_uda.evaluation.latency import Lap
from online_uda.runtime.constant_speed import delay_frames
from tests.run_kit import FRAMES, Kit, frames_of, summary_of, write_kit


@pytest.mark.parametrize(("eta", "delays"), [(0.1, (0, 0, 0)), (0.5, (0, 0, 1)), (1.0, (0, 1, 3))])
def test_delay_table_of_the_specification(eta: float, delays: tuple[int, ...]) -> None:
    assert tuple(delay_frames(cost, eta) for cost in (1.0, 1.2, 3.7)) == delays


def test_a_ratio_of_times_that_is_one_up_to_rounding_delays_nothing() -> None:
    assert delay_frames((0.1 + 0.2) / 0.3, 1.0) == 0


class Priced:
    """A clock of fixed prices: a frame with its learning costs 3.7 plain passes."""

    def now_s(self) -> float:
        return 0.0

    @contextmanager
    def measure(self, stage: str) -> Iterator[Lap]:
        lap = Lap()
        yield lap
        lap.latency_ms = {"predict": 10.0, "predict.frozen": 10.0, "adapt": 27.0}[stage]


@pytest.fixture
def kit(tmp_path: Path, make_folder: Callable[..., Path]) -> Kit:
    return write_kit(tmp_path, make_folder)


@pytest.mark.parametrize(("eta", "every"), [(1.0, 4), (0.5, 2), (0.1, 1)])
def test_slow_learning_lets_frames_pass(kit: Kit, monkeypatch: pytest.MonkeyPatch, eta: float, every: int) -> None:
    clock: Any = Priced()
    monkeypatch.setattr("online_uda.run.RealClock", lambda device: clock)
    folder = kit.run(f"run.constant_speed={eta}", "run.backend=torch")
    rows, summary = frames_of(folder), summary_of(folder)
    learned = list(range(0, FRAMES, every))
    assert [row["frame"] for row in rows if row["updated"]] == learned
    assert summary["adapted_ratio"] == len(learned) / FRAMES
    assert summary["published"] == len(learned)
    assert summary["constant_speed"] == {"eta": eta, "observed": len(learned)}
    assert (summary["dropped"], summary["scored_frames"]) == (None, FRAMES)


def test_two_protocols_at_once_are_refused(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*kit.arguments(fps=5), "run.constant_speed=1.0"]) == 2
    assert "constant_speed" in capsys.readouterr().err
    assert main([*kit.arguments(), "run.constant_speed=1.5"]) == 2
