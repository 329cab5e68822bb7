"""Tiny runs for the tests of the command line and the runner: folders of frames, a schedule, a network, read-backs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from online_uda.cli import main
from online_uda.networks.checkpoint_writer import save_folder
from online_uda.networks.mit import MiTConfig
from online_uda.networks.segmenter import SegformerConfig, build_segformer
from online_uda.runtime.snapshot import read_snapshot, snapshots
from streams.classes import CAMVID_11

SIZE = (48, 64)
SCHEDULE = """classes: camvid11
fps: 4
visits:
  - {domain: day, folder: day}
  - {domain: rain100, folder: day, weather: {rain: 100}}
  - {domain: dusk, folder: dusk}
"""
FRAMES = 14
TIMED = ("predict_ms", "adapt_ms", "frame_ms")
TIMED_IN_SUMMARY = ("latency_ms", "wall_s", "frames_per_s", "peak_memory_mb", "peak_cuda_memory_mb")


@dataclass(frozen=True)
class Kit:
    """Where a test's inputs are."""

    root: Path

    @property
    def schedule(self) -> Path:
        return self.root / "storm.yaml"

    @property
    def network(self) -> Path:
        return self.root / "network"

    @property
    def source(self) -> Path:
        return self.root / "source"

    def arguments(self, method: str | Path = "tent", out: str = "run", **flags: object) -> list[str]:
        """A command line that runs everything on the tiny inputs into the folder `out`, without TensorBoard."""
        words = ["--schedule", str(self.schedule), "--network", str(self.network), "--source", str(self.source)]
        words += ["--method", str(method), "--out", str(self.root / out), "--device", "cpu", "--threads", "1"]
        for flag, value in flags.items():
            words += [f"--{flag}", str(value)]
        return [*words, "run.tensorboard=false", "run.report=false", "run.precision=fp32"]

    def run(self, *extra: str, method: str | Path = "tent", out: str = "run", **flags: object) -> Path:
        """Runs the command line, expects success, returns the run folder."""
        assert main([*self.arguments(method, out, **flags), *extra]) == 0
        return self.root / out


def write_kit(root: Path, make_folder: Callable[..., Path]) -> Kit:
    """Five day frames, four dusk frames, six source frames, a schedule of day, day in rain and dusk, a network."""
    make_folder("day", count=5, size=SIZE)
    make_folder("dusk", count=4, size=SIZE, seed=1)
    make_folder("source", count=6, size=SIZE, seed=2)
    (root / "storm.yaml").write_text(SCHEDULE)
    write_network(root / "network")
    return Kit(root)


def write_network(folder: Path, classes: tuple[str, ...] = CAMVID_11.names) -> None:
    """A network with random weights and a light head, in the project's own format."""
    encoder = MiTConfig((8, 8, 10, 16), (1, 1, 1, 1), (1, 1, 1, 1))
    config = SegformerConfig(encoder, len(classes), head_width=16, light_width=8)
    torch.manual_seed(5)
    save_folder(folder, build_segformer(config), config, classes, {"from": "a test"})


def frames_of(folder: Path, timed: bool = False) -> list[dict[str, Any]]:
    """Lines of ``frames.jsonl``, without times unless wanted."""
    rows = [json.loads(line) for line in (folder / "frames.jsonl").read_text().splitlines()]
    return rows if timed else [{k: v for k, v in row.items() if k not in TIMED} for row in rows]


def summary_of(folder: Path, timed: bool = False) -> dict[str, Any]:
    """``summary.json``, without times and memory unless wanted."""
    summary = json.loads((folder / "summary.json").read_text())
    return summary if timed else {k: v for k, v in summary.items() if k not in TIMED_IN_SUMMARY}


def method_state(folder: Path) -> dict[str, Any]:
    """The method's state in the newest snapshot."""
    return read_snapshot(snapshots(folder / "snapshots")[-1]).method


def assert_same(one: Any, other: Any, path: str = "state") -> None:
    """Fails at the first leaf that differs between two nested states, tensors compared bit for bit."""
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_same(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), path
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{path}.{i}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, path
        assert torch.equal(one, other), path
    else:
        assert one == other, path
