"""A run small enough to be killed a thousand times: folders of noise and a network of 10 000 weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from online_uda.networks.checkpoint_writer import save_folder
from online_uda.networks.mit import MiTConfig
from online_uda.networks.segmenter import SegformerConfig, build_segformer
from streams.classes import CAMVID_11

SIZE = (64, 64)
SCHEDULE = """classes: camvid11
fps: 10
visits:
  - {domain: day, folder: day}
  - {domain: rain100, folder: day, weather: {rain: 100}}
  - {domain: dusk, folder: dusk}
"""


def write_inputs(root: Path, frames: int) -> None:
    """Writes ``frames`` day and dusk frames, source images, a schedule and a network below ``root``."""
    generator = np.random.default_rng(0)
    for name, count, light in (("day", frames, 1.0), ("dusk", frames, 0.5), ("source", 6, 0.25)):
        for part in ("images", "labels"):
            (root / name / part).mkdir(parents=True)
        for index in range(count):
            coarse = (light * generator.integers(0, 256, (4, 4, 3))).astype(np.uint8)
            image = Image.fromarray(coarse).resize(SIZE[::-1], Image.Resampling.BICUBIC)
            image.save(root / name / "images" / f"frame_{index}.png")
            ids = Image.fromarray(generator.integers(0, len(CAMVID_11), (4, 4), np.uint8))
            ids.resize(SIZE[::-1], Image.Resampling.NEAREST).save(root / name / "labels" / f"frame_{index}.png")
    (root / "storm.yaml").write_text(SCHEDULE, encoding="utf-8")
    encoder = MiTConfig((8, 8, 10, 16), (1, 1, 1, 1), (1, 1, 1, 1))
    config = SegformerConfig(encoder, len(CAMVID_11), head_width=16, light_width=8)
    torch.manual_seed(5)
    save_folder(root / "network", build_segformer(config), config, CAMVID_11.names, {"from": "a benchmark"})


def command(root: Path, out: str, *overrides: str, method: str = "default") -> list[str]:
    """Arguments of a run on these inputs that learns on every frame, guards on, a snapshot after every frame."""
    learning = {
        "default": ("trigger.kind=always", "memory=null", "anchor.ensemble=null", "replay.frames=6", "guards.every=2")
    }.get(method, ())
    return [
        "--schedule", str(root / "storm.yaml"), "--network", str(root / "network"), "--source", str(root / "source"),
        "--method", method, "--out", str(root / out), "--device", "cpu", "--threads", "1", "run.precision=fp32",
        "run.tensorboard=false", "run.snapshot_every=1", *learning, *overrides,
    ]  # fmt: skip
