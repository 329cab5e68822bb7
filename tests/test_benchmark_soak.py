"""The soak benchmark: every fault reaches its place, and every tick is recorded."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.soak import markdown, soak


def test_a_soak_of_forty_frames(tmp_path: Path) -> None:
    arguments = argparse.Namespace(frames=40, faults=1, visit=20, snapshot_every=5, seed=0)
    got = soak(tmp_path, arguments)
    assert (got["frames"], got["recorded"], got["not_finite"]) == (40, 40, 0)
    assert got["predicted"] == 39
    assert all(got["injected"][kind] == 1 for kind in ("bad_frame", "black", "report", "clock", "memory"))
    environment = {"cpu": "one", "torch": {"version": "2"}}
    assert "| ticks recorded | 40 | 40 |" in markdown({"environment": environment, "command": "soak", "result": got})
