"""The group of sinks: order, isolation of failures, closing."""

from __future__ import annotations

import pytest

from online_uda.errors import UserError
from online_uda.reports.jsonl import JsonlSink
from online_uda.reports.sinks import SinkGroup


class Spy:
    """A sink that remembers its calls and fails where it is told to."""

    def __init__(self, name, log, fails=()):
        self.name, self.log, self.fails = name, log, fails

    def _did(self, what, error=OSError):
        self.log.append((self.name, what))
        if what in self.fails:
            raise error(f"{what} of {self.name}")

    def __enter__(self):
        self._did("open")
        return self

    def write(self, record):
        self._did(f"write {record.frame}")

    def finish(self, summary):
        self.summary = summary
        self._did("finish")

    def __exit__(self, kind, error, trace):
        self._did("close")


def test_every_sink_gets_everything_and_is_closed_in_reverse(record):
    log = []
    with SinkGroup([Spy("a", log), Spy("b", log)]) as sinks:
        sinks.write(record(0))
        assert sinks.finish({"frames": 1}) == {"frames": 1, "sink_failures": []}
    assert log == [
        ("a", "open"), ("b", "open"), ("a", "write 0"), ("b", "write 0"), ("a", "finish"), ("b", "finish"),
        ("b", "close"), ("a", "close"),
    ]  # fmt: skip


def test_a_sink_that_cannot_open_stops_the_run_and_closes_the_others():
    log = []
    with (
        pytest.raises(UserError, match="cannot open the b report: open of b"),
        SinkGroup([Spy("a", log), Spy("b", log, fails=("open",)), Spy("c", log)]),
    ):
        pass
    assert log == [("a", "open"), ("b", "open"), ("a", "close")]


def test_missing_folder_is_a_clear_error_at_open(tmp_path):
    with (
        pytest.raises(UserError, match=r"cannot open the jsonl report: .*nowhere"),
        SinkGroup([JsonlSink(tmp_path / "nowhere" / "frames.jsonl")]),
    ):
        pass


def test_a_sink_that_fails_later_is_dropped_and_reported(record, capsys):
    log = []
    a, b = Spy("a", log, fails=("write 1", "close")), Spy("b", log)
    with SinkGroup([a, b]) as sinks:
        for frame in range(3):
            sinks.write(record(frame))
        summary = sinks.finish({"frames": 3})
    assert [entry for entry in log if entry[0] == "a"] == [
        ("a", "open"),
        ("a", "write 0"),
        ("a", "write 1"),
        ("a", "close"),
    ]
    assert ("b", "write 2") in log
    assert summary["sink_failures"] == [
        {"sink": "a", "doing": "write", "frame": 1, "error": "OSError: write 1 of a"},
        {"sink": "a", "doing": "close", "frame": 1, "error": "OSError: close of a"},
    ]
    assert b.summary == summary
    assert "warning: the a report failed (write: write 1 of a); the run goes on" in capsys.readouterr().err


def test_a_failure_in_finish_is_in_the_summary_that_is_returned(record, capsys):
    with SinkGroup([Spy("a", [], fails=("finish",))]) as sinks:
        sinks.write(record(4))
        failures = sinks.finish({})["sink_failures"]
    assert [(failure["doing"], failure["frame"]) for failure in failures] == [("finish", 4)]
    capsys.readouterr()


def test_an_interrupted_run_closes_its_sinks_and_keeps_the_exception(record, capsys):
    log = []

    def run():
        with SinkGroup([Spy("a", log, fails=("close",)), Spy("b", log)]) as sinks:
            sinks.write(record(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert log[-2:] == [("b", "close"), ("a", "close")]
    assert "close of a" in capsys.readouterr().err
