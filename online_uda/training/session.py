"""One training session: source images into memory, main training, scores, light head, and the network on disk."""

from __future__ import annotations

import argparse
import os
import platform
from collections import deque
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import torch

from online_uda.adaptation.replay.buffer import ReplayBuffer
from online_uda.errors import UserError
from online_uda.networks.architecture import AnyConfig, NetworkConfig, build_network, with_drop_path
from online_uda.networks.checkpoint_writer import save_folder
from online_uda.networks.segmenter import Segmenter
from online_uda.networks.zoo import architecture, load_network
from online_uda.training.card import model_card
from online_uda.training.data import open_source, spread
from online_uda.training.draw import SourceDraw
from online_uda.training.plan import TrainingPlan
from online_uda.training.read_ahead import ReadAhead
from online_uda.training.trainer import STATE_FILE, Trainer
from online_uda.training.validate import Scores, validate
from streams.frame import LabelledSet
from streams.progress import Progress

NETWORK_FOLDER = "network"
LATEST_FOLDER = "latest"
_CHECK_IMAGES = 60


def run_session(flags: argparse.Namespace, command: str) -> Scores:
    """Trains as the command line says.

    Args:
        flags: Parsed flags of `online_uda.training.cli`.
        command: The command as typed, for the model card.

    Returns:
        Scores of the finished network on the validation images.

    Raises:
        UserError: For bad flags or data; nothing is written then.
        StreamError: For a folder of images that cannot be read.
    """
    device = _device(flags.device, flags.processes)
    train, val = open_source(flags.data, flags.classes, flags.size, flags.images, flags.val_images)
    weights: dict[str, torch.Tensor] | None = None
    if flags.start is None:
        sizes = architecture(flags.network, len(train.classes))
    else:
        start = load_network(flags.start, train.classes)
        assert start.config is not None
        sizes, weights = start.config, start.network.state_dict()
    described = sizes.drop_path if isinstance(sizes, NetworkConfig) else 0.0
    config = with_drop_path(sizes, described if flags.drop_path is None else flags.drop_path)
    _check_out(flags.out, flags.resume)
    _set_threads(flags.threads, flags.processes)

    plan = TrainingPlan(
        iterations=flags.iterations,
        light_iterations=flags.light_iterations,
        learning_rate=flags.learning_rate,
        seed=flags.seed,
    )
    chosen = spread(len(train), flags.images)
    with (
        Progress("source images", len(chosen), every=500) as progress,
        ReadAhead(train, chosen, flags.processes) as ahead,
    ):
        arena = ReplayBuffer(ahead, range(len(chosen)), progress=lambda done, _: progress.update(done))
    torch.manual_seed(flags.seed)
    draw = SourceDraw(arena, flags.rare_share)
    network = build_network(config)
    if weights is not None:
        network.load_state_dict(weights)
    trainer = Trainer(network, plan, draw, arena.size, device, flags.out, processes=flags.processes)
    if flags.resume:
        trainer.resume()
    trainer.history.append((trainer.step, command))
    flags.out.mkdir(parents=True, exist_ok=True)

    provenance = _provenance(flags, trainer.history, device)
    scored = spread(len(val), flags.val_images)
    with Progress("training", plan.iterations, trainer.step) as progress:
        recent: deque[float] = deque(maxlen=50)

        def report(step: int, loss: float, rate: float) -> None:
            recent.append(loss)
            progress.update(step, f"loss {sum(recent) / len(recent):.3f} rate {rate:.2e}")
            if step % flags.check_every == 0 and step < plan.iterations:
                network = trainer.averaged()
                scores = validate(network, val, scored[:: max(1, len(scored) // _CHECK_IMAGES)], device)
                progress.say(f"step {step}: mIoU {scores.miou:.2f} on {scores.images} unseen images {scores.iou}")
                _write(flags.out / LATEST_FOLDER, network, config, val, provenance, scores, step)

        trainer.train(report)
    trainer.draw = SourceDraw(arena, rare_share=0.0)
    with Progress("light head", plan.light_iterations) as progress:
        network = trainer.train_light_head(lambda step, loss, rate: progress.update(step, f"loss {loss:.3f}"))
    scores = validate(network, val, scored, device)
    _write(flags.out / NETWORK_FOLDER, network, config, val, provenance, scores, plan.iterations)
    print(f"mIoU {scores.miou:.2f} over {len(scores.iou)} classes on {scores.images} unseen images")
    for name, iou in scores.iou.items():
        print(f"  {name:<14} {iou:6.2f}")
    print(f"light head agrees with the main head on {scores.light_agreement:.2f} % of the pixels")
    print(f"network: {flags.out / NETWORK_FOLDER}")
    return scores


def _device(name: str, processes: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() and processes == 1 else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: unknown device; use auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: unsupported device; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device {name}: not available, found {torch.cuda.device_count()} CUDA devices; use --device cpu"
        )
    if device.type == "cuda" and processes > 1:
        raise UserError(f"--processes {processes}: only a CPU is shared by processes; use --processes 1 with {name}")
    return device


def _check_out(out: Path, resume: bool) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; give a folder")
    if resume and not (out / STATE_FILE).is_file():
        raise UserError(f"{out / STATE_FILE}: no training state to resume; start without --resume")
    if not resume and ((out / STATE_FILE).exists() or (out / NETWORK_FOLDER).exists()):
        raise UserError(f"--out {out}: holds a training run already; add --resume or give another folder")
    parent = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    if not os.access(parent, os.W_OK):
        raise UserError(f"--out {out}: {parent} cannot be written to; give another folder")


def _set_threads(threads: int | None, processes: int) -> None:
    torch.set_num_threads(threads or max(1, (os.cpu_count() or 1) // processes))
    cv2.setNumThreads(1)


def _provenance(flags: argparse.Namespace, history: list[tuple[int, str]], device: torch.device) -> dict[str, Any]:
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} CPU cores"
    return {
        "commands": [{"from_step": step, "command": command} for step, command in history],
        "seed": flags.seed,
        "start": None if flags.start is None else str(flags.start),
        "data": flags.data,
        "size": list(flags.size),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {machine}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _write(
    folder: Path,
    network: Segmenter,
    config: AnyConfig,
    val: LabelledSet,
    provenance: dict[str, Any],
    scores: Scores,
    iterations: int,
) -> None:
    record = {
        **provenance,
        "iterations": iterations,
        "val_images": scores.images,
        "val_miou": scores.miou,
        "val_iou": scores.iou,
        "light_agreement": scores.light_agreement,
    }
    try:
        save_folder(folder, network, config, val.classes.names, record)
        (folder / "README.md").write_text(model_card(config, val.classes.names, record), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None
