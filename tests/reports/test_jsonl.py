"""frames.jsonl: contract, flushing, and what a resumed run keeps."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from online_uda.reports.jsonl import JsonlSink, kept_bytes, parts_of


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_frames(path, record, frames, **options):
    with JsonlSink(path, **options) as sink:
        for frame in frames:
            sink.write(record(frame))


def test_every_frame_is_a_line_on_disk_at_once(tmp_path, record):
    path = tmp_path / "frames.jsonl"
    with JsonlSink(path) as sink:
        for frame in range(3):
            sink.write(record(frame, images=True, scope="norm"))
            assert [row["frame"] for row in lines_of(path)] == list(range(frame + 1))
    row = lines_of(path)[1]
    assert row["schema"] == "online_uda.frame/1"
    assert "images" not in row
    assert (row["domain"], row["visit"], row["miou"], row["scope"]) == ("clear", 0, 51.0, "norm")
    assert row["losses"] == {"entropy": 1.5}
    assert row["adapt_ms"] is None


def test_numbers_json_cannot_hold_become_null(tmp_path, record):
    path = tmp_path / "frames.jsonl"
    with JsonlSink(path) as sink:
        sink.write(record(0, miou=float("nan"), signal=np.float32(0.5), losses={"entropy": float("inf")}))
    row = lines_of(path)[0]
    assert (row["miou"], row["signal"], row["losses"]) == (None, 0.5, {"entropy": None})


def test_resume_cuts_back_to_the_snapshot_and_appends(tmp_path, record):
    whole, resumed = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    write_frames(whole, record, range(12))
    write_frames(resumed, record, range(9))
    write_frames(resumed, record, range(6, 12), resume_frame=6)
    assert resumed.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("tail", [b'{"schema": "online_uda.fra', b'{"frame": 3}', b"\x00\xff\n", b'["frame"]\n'])
def test_torn_tail_is_cut_off(tmp_path, record, tail):
    path = tmp_path / "frames.jsonl"
    write_frames(path, record, range(3))
    good = path.read_bytes()
    path.write_bytes(good + tail)
    assert kept_bytes(path, 10) == len(good)
    write_frames(path, record, [3], resume_frame=3)
    assert [row["frame"] for row in lines_of(path)] == [0, 1, 2, 3]


def test_a_new_run_starts_a_new_file_and_resume_without_a_file_makes_one(tmp_path, record):
    path = tmp_path / "frames.jsonl"
    write_frames(path, record, range(5))
    write_frames(path, record, [0])
    assert len(lines_of(path)) == 1
    write_frames(tmp_path / "new.jsonl", record, [7], resume_frame=7)
    assert lines_of(tmp_path / "new.jsonl")[0]["frame"] == 7


def test_writing_to_a_closed_file_is_an_error(tmp_path, record):
    sink = JsonlSink(tmp_path / "frames.jsonl")
    with sink:
        pass
    with pytest.raises(ValueError, match=r"frames\.jsonl is not open"):
        sink.write(record(0))


def short(frame):
    """A record whose line has the same length for all frames of two digits."""
    return SimpleNamespace(frame=frame, as_json=lambda: {"frame": frame})


FOUR_LINES = 4 * len('{"frame": 10}\n')


def frames_in(path):
    return [row["frame"] for row in lines_of(path)]


def test_a_full_file_is_closed_and_the_oldest_removed(tmp_path):
    path = tmp_path / "frames.jsonl"
    write_frames(path, short, range(15, 30), part_bytes=FOUR_LINES, kept_parts=2)
    assert [part.name for part in parts_of(path)] == ["frames.00000019.jsonl", "frames.00000023.jsonl"]
    assert [frames_in(part) for part in parts_of(path)] == [[19, 20, 21, 22], [23, 24, 25, 26]]
    assert frames_in(path) == [27, 28, 29]


@pytest.mark.parametrize("resumed_at", [10, 13, 14, 15, 18, 21, 22])
def test_a_resumed_run_cuts_back_over_closed_files(tmp_path, resumed_at):
    whole, parts = tmp_path / "whole" / "frames.jsonl", tmp_path / "parts" / "frames.jsonl"
    for path in (whole, parts):
        path.parent.mkdir()
    write_frames(whole, short, range(10, 24), part_bytes=FOUR_LINES)
    write_frames(parts, short, range(10, 22), part_bytes=FOUR_LINES)
    write_frames(parts, short, range(resumed_at, 24), resume_frame=resumed_at, part_bytes=FOUR_LINES)
    for one, other in zip((*parts_of(whole), whole), (*parts_of(parts), parts), strict=True):
        assert one.name == other.name
        assert one.read_bytes() == other.read_bytes()


def test_sync_puts_lines_on_the_disk(tmp_path, record, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fsync", synced.append)
    with JsonlSink(tmp_path / "frames.jsonl") as sink:
        sink.write(record(0))
        sink.sync()
    assert len(synced) == 1
