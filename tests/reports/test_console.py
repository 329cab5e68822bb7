"""Console output with and without a terminal."""

from __future__ import annotations

import io

import pytest

from online_uda.reports import console
from online_uda.reports.console import ConsoleSink


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def test_without_a_terminal_there_is_a_line_a_visit_and_no_control_code(record, toy_summary):
    progress, output = io.StringIO(), io.StringIO()
    with ConsoleSink(total_frames=12, progress=progress, output=output) as sink:
        for frame in range(12):
            sink.write(record(frame))
        sink.finish(toy_summary)
    assert progress.getvalue().splitlines() == [
        "frame 4/12  visit 1 clear: adapted 55.0, frozen 51.5 (+3.5), 2 updates in 4 frames",
        "frame 8/12  visit 2 rain: adapted 59.0, frozen 55.5 (+3.5), 2 updates in 4 frames",
        "frame 12/12  visit 3 clear: adapted 63.0, frozen 59.5 (+3.5), 2 updates in 4 frames",
    ]
    assert "harmonic mean" in output.getvalue()
    assert not any(code in progress.getvalue() + output.getvalue() for code in "\033\r")


def test_on_a_terminal_a_bar_shows_the_live_score(record, toy_summary, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    progress, output = Terminal(), Terminal()
    with ConsoleSink(total_frames=12, start_frame=3, progress=progress, output=output) as sink:
        for frame in range(3, 12):
            sink.write(record(frame))
        sink.finish(toy_summary)
    shown = progress.getvalue()
    assert "3/12" in shown
    assert "12/12" in shown
    assert "clear adapted 63.0 frozen 59.5" in shown
    assert "visit 2 rain" not in shown
    assert "\033[32m" in output.getvalue()


def test_no_color_is_honoured(toy_summary, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    output = Terminal()
    with ConsoleSink(progress=io.StringIO(), output=output) as sink:
        sink.finish(toy_summary)
    assert "\033" not in output.getvalue()


def test_unlabelled_live_stream_of_unknown_length(record, toy_summary):
    progress = io.StringIO()
    with ConsoleSink(progress=progress, output=io.StringIO()) as sink:
        sink.write(record(0, visit_miou=None, visit_miou_frozen=None))
        sink.finish(toy_summary)
    assert progress.getvalue() == "frame 1  visit 1 clear: adapted –, frozen – (–), 1 updates in 1 frames\n"


def test_a_visit_that_lasts_has_a_line_a_minute(record, toy_summary, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    progress = io.StringIO()
    with ConsoleSink(progress=progress, output=io.StringIO()) as sink:
        for frame in range(9):
            now[0] += 20
            sink.write(record(frame, domain="yard", visit=0))
        sink.finish(toy_summary)
    lines = progress.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == [f"frame {n}  visit 1 yard" for n in (3, 6, 9)]
    assert [line[-11:] for line in lines] == ["in 3 frames"] * 3


def test_the_bar_is_closed_when_the_run_raises(record):
    sink = ConsoleSink(total_frames=12, progress=Terminal(), output=io.StringIO())

    def run():
        with sink:
            sink.write(record(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert sink._bar is None
