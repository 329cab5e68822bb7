"""Progress: a bar on a terminal, plain lines elsewhere, few of them where steps are short."""

from __future__ import annotations

import io

import pytest

from streams import progress as progress_module
from streams.progress import Progress


def test_progress_writes_plain_lines_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    with Progress("work", 5, start=1, every=2, stream=stream) as progress:
        for step in range(2, 6):
            progress.update(step, "note")
        progress.say("aside")
    lines = stream.getvalue().splitlines()
    assert [line.rsplit(" ", 2)[0] for line in lines[:-1]] == ["work 2/5 note", "work 4/5 note", "work 5/5 note"]
    assert lines[-1] == "aside"


def test_progress_draws_a_bar_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with Progress("work", 3, stream=stream) as progress:
        progress.update(3, "loss 0.5")
    assert "3/3" in stream.getvalue()
    assert "\r" in stream.getvalue()


def test_a_line_every_ten_seconds_and_none_for_what_is_done_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "perf_counter", lambda: now[0])
    stream = io.StringIO()
    with Progress("work", 40, every=None, stream=stream) as progress:
        for step in range(1, 41):
            now[0] = 0.6 * step
            progress.update(step)
    with Progress("quick", 3, every=None, stream=stream) as progress:
        progress.update(3)
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["17/40", "34/40", "40/40"]
    assert {line.split()[0] for line in lines} == {"work"}
