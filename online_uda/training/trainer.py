"""Source training: labels in, a network out; then its light head with everything else frozen."""

from __future__ import annotations

import copy
import os
import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from online_uda.errors import UserError
from online_uda.networks.segmenter import Segmenter
from online_uda.networks.supervised import Report, segmentation_loss, train_light_head
from online_uda.training.augment import Augmentation, augment
from online_uda.training.parallel import Team
from online_uda.training.plan import Phase, TrainingPlan
from streams.frame import LabelledImage

Draw = Callable[[np.random.Generator], tuple[LabelledImage, int | None]]
"""Draws a labelled source image, and the class it was drawn for or None."""

STATE_FILE = "training_state.pt"


def bf16_is_faster(network: Segmenter, size: tuple[int, int], device: torch.device) -> bool:
    """Times forward and backward passes of a copy in float32 and in bfloat16 autocast on ``device``."""
    frames = torch.rand(2, 3, *size, device=device)
    trial = copy.deepcopy(network).train()

    def seconds(enabled: bool) -> float:
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
                output = trial(frames)
            output.logits.float().square().mean().backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best = min(best, time.perf_counter() - start)
        return best

    return seconds(True) < seconds(False)


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two AdamW groups: matrices with weight decay, vectors (norms, biases) without."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


class Trainer:
    """Trains a network from labelled images and can be interrupted at any step.

    Every random number of a step is a function of the seed and the step, so that a resumed run gives the same weights
    as an uninterrupted one (bit for bit on a CPU with the same numbers of threads and processes).

    Args:
        network: Freshly built network.
        plan: What to do.
        draw: Draws a labelled source image (rare-class sampling lives there).
        size: Height and width of the source images.
        device: Where to train.
        folder: Training state is kept here.
        bf16: Whether to train in bfloat16 autocast; None measures which is faster.
        processes: Processes that share the main training, for a CPU; each takes its part of a batch.

    Attributes:
        history: First step and command of every session of this training; the caller adds its own.
    """

    def __init__(
        self,
        network: Segmenter,
        plan: TrainingPlan,
        draw: Draw,
        size: tuple[int, int],
        device: torch.device,
        folder: Path,
        bf16: bool | None = None,
        processes: int = 1,
    ) -> None:
        self.network, self.plan, self.draw, self.size, self.device = network.to(device), plan, draw, size, device
        self.average = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
        self.optimizer = torch.optim.AdamW(parameter_groups(self.network, plan.weight_decay), lr=plan.learning_rate)
        self.step = 0
        self.history: list[tuple[int, str]] = []
        self.bf16 = bf16
        self.team = Team(processes, sum(t.numel() for t in self.network.state_dict().values()) + 1)
        self.state_path = folder / STATE_FILE

    def _batch(self, phase: Phase, step: int, items: range, pool: ThreadPoolExecutor) -> tuple[Tensor, Tensor]:
        side = [max(64, round(edge * phase.crop / 32) * 32) for edge in self.size]
        spec = Augmentation(crop=(side[0], side[1]), scale=phase.scale)
        if not phase.photometric:
            spec = replace(spec, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)

        def sample(item: int) -> LabelledImage:
            # Every item has its own stream of random numbers, whichever process and thread draws it.
            rng = np.random.default_rng((self.plan.seed, step, item))
            image, wanted = self.draw(rng)
            return augment(image, spec, rng, wanted)

        samples = list(pool.map(sample, items))
        frames = torch.from_numpy(np.stack([s.image for s in samples])).permute(0, 3, 1, 2)
        labels = torch.from_numpy(np.stack([s.label for s in samples]))
        return frames.to(self.device, torch.float32) / 255.0, labels.to(self.device, torch.int64)

    def _batches(self, phases: Iterator[Phase], first: int, team: Team) -> Iterator[tuple[Phase, Tensor, Tensor]]:
        """This member's part of every batch, prepared one step ahead so that no core waits for it."""
        with ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(2) as pool:
            step, pending = first, None
            for phase in phases:
                items = range(team.rank, phase.batch, team.members)
                future = ahead.submit(self._batch, phase, step, items, pool)
                if pending is not None:
                    yield pending[0], *pending[1].result()
                pending, step = (phase, future), step + 1
            if pending is not None:
                yield pending[0], *pending[1].result()

    def _seed_step(self, step: int, member: int = 0) -> None:
        # Dropout and stochastic depth draw from torch's global generator.
        state = np.random.SeedSequence((self.plan.seed, step, member)).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0]))

    def train(self, report: Report, save_every: int = 200) -> None:
        """Runs the main training from the current step to the end.

        Args:
            report: See `Report`.
            save_every: Steps between saved training states.
        """
        if self.bf16 is None:
            self.bf16 = bf16_is_faster(self.network, self.size, self.device)
        self.team.start(lambda: self._steps(lambda *_: None, save_every))
        try:
            self._steps(report, save_every)
        finally:
            self.team.close()

    def _steps(self, report: Report, save_every: int) -> None:
        phases = (self.plan.phase_at(step) for step in range(self.step, self.plan.iterations))
        parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        statistics = [buffer for buffer in self.network.buffers() if buffer.is_floating_point()]
        for phase, frames, labels in self._batches(phases, self.step, self.team):
            rate = self.plan.rate_at(self.step)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self._seed_step(self.step, self.team.rank)
            self.network.train()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bool(self.bf16)):
                loss = segmentation_loss(self.network, frames, labels, phase.loss_stride)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            loss = loss.detach()
            self.team.average([*(p.grad for p in parameters if p.grad is not None), *statistics, loss])
            nn.utils.clip_grad_norm_(parameters, self.plan.clip)
            self.optimizer.step()
            self._update_average(self.plan.average_decay_at(self.step))
            self.step += 1
            if self.team.rank == 0:
                if self.step % save_every == 0 or self.step == self.plan.iterations:
                    self.save()
                report(self.step, loss.item(), rate)

    @torch.no_grad()
    def _update_average(self, decay: float) -> None:
        for name, tensor in self.network.state_dict().items():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1.0 - decay)
            else:
                self.average[name].copy_(tensor)

    def averaged(self) -> Segmenter:
        """A copy of the network with the averaged weights, in eval mode."""
        network = copy.deepcopy(self.network)
        network.load_state_dict(self.average)
        return network.eval()

    def train_light_head(self, report: Report) -> Segmenter:
        """Trains the light head of the averaged network; every other tensor stays bit-identical to `averaged`.

        Give `draw` uniform draws before: rare-class sampling would shift what the light head expects to see.
        """
        network, plan = self.averaged().requires_grad_(False), self.plan
        groups = parameter_groups(network.light_head.requires_grad_(True), plan.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=plan.light_rate)

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            phases = iter([plan.light_phase] * plan.light_iterations)
            for step, (_, frames, labels) in enumerate(self._batches(phases, plan.iterations, Team()), plan.iterations):
                self._seed_step(step)
                yield frames, labels

        train_light_head(
            network, batches(), plan.light_iterations, optimizer, stride=plan.light_phase.loss_stride,
            bf16=bool(self.bf16), report=report,
        )  # fmt: skip
        return network.requires_grad_(True).eval()

    def save(self) -> None:
        """Writes the training state; the file on disk is always whole."""
        state = {
            "step": self.step,
            "iterations": self.plan.iterations,
            "seed": self.plan.seed,
            "bf16": self.bf16,
            "history": self.history,
            "network": self.network.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }
        partial = self.state_path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.state_path)

    def resume(self) -> None:
        """Continues from the saved training state; a larger ``plan.iterations`` stretches the schedule.

        Raises:
            UserError: If there is none, it is damaged, or it belongs to another network, seed or a longer run.
        """
        if not self.state_path.is_file():
            raise UserError(f"{self.state_path}: no training state to resume; start without --resume")
        try:
            state = torch.load(self.state_path, map_location=self.device, weights_only=True)
            if state["seed"] != self.plan.seed:
                raise UserError(f"{self.state_path}: was trained with --seed {state['seed']}, not {self.plan.seed}")
            if state["step"] > self.plan.iterations:
                raise UserError(
                    f"{self.state_path}: has done {state['step']} steps already; "
                    f"give at least --iterations {state['step']}"
                )
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average, self.step, self.bf16 = state["average"], state["step"], state["bf16"]
            self.history = [(int(step), str(command)) for step, command in state["history"]]
        except UserError:
            raise
        except (RuntimeError, KeyError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{self.state_path}: does not fit this training run ({reason})") from None
