"""What a frame costs: prediction by every backend, watching, a step, publishing; beside what a user would take instead.

    OMP_NUM_THREADS=1 python -m benchmarks.latency

Writes docs/benchmarks/latency.json, latency.md and latency.png. Everything is timed in one process and in turns, one
lap of each candidate a round, so that other work on the machine slows all of them alike; ratios are taken inside a
round and their median is given. The reference is transformers' SegFormer of the same size, eager and in float32, its
logits resized with `interpolate` and `argmax`; and a plain step of it, with all of its parameters.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from benchmarks._latency_report import markdown, plot
from benchmarks._timing import in_turns, resident_mb, times_faster
from online_uda.adaptation.recipe import Recipe
from online_uda.adaptation.replay.buffer import ReplayBuffer
from online_uda.adaptation.settings import MethodSettings
from online_uda.adaptation.trigger.base import EveryFrames
from online_uda.adaptation.trigger.drift import calibrate_from_buffer, stage_statistics
from online_uda.adaptation.trigger.source_statistics import shrunk
from online_uda.config import parse_size
from online_uda.export.first_stage import OnnxFirstStage
from online_uda.export.graph import weights_of
from online_uda.export.onnx_predictor import OnnxPredictor
from online_uda.networks.full_labels import upsampled_argmax
from online_uda.networks.mit import MIT_VARIANTS
from online_uda.networks.predictor import Predictor, TorchPredictor, Wishes
from online_uda.networks.segmenter import Segmenter
from online_uda.networks.spec import NetworkOptions
from online_uda.networks.zoo import load_network
from online_uda.reports.environment import describe_environment
from online_uda.runtime.compiled import CompiledPredictor
from online_uda.runtime.scoring import to_tensor
from streams.city import TownImages
from streams.classes import CITYSCAPES_19

Result = dict[str, Any]
EAGER = "transformers eager"
Image = NDArray[np.uint8]


def eager_segformer(name: str, classes: int, device: torch.device) -> torch.nn.Module | None:
    """transformers' SegFormer of the size that ``name`` says, with random weights; None for another architecture."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    variant = next((part for part in name.split("_") if part in MIT_VARIANTS), None)
    if variant is None or not name.startswith("segformer"):
        return None
    sizes = MIT_VARIANTS[variant]
    config = SegformerConfig(
        hidden_sizes=list(sizes.widths), depths=list(sizes.depths), num_labels=classes,
        decoder_hidden_size=256 if variant in ("b0", "b1") else 768,
    )  # fmt: skip
    return SegformerForSemanticSegmentation(config).eval().to(device)


class Bench:
    """One network at one size with one number of threads.

    Args:
        name: Network, as ``--network`` says it.
        size: Height and width of frames.
        threads: CPU threads of torch and ONNX Runtime.
        arguments: The command line.
    """

    def __init__(self, name: str, size: tuple[int, int], threads: int, arguments: argparse.Namespace) -> None:
        torch.set_num_threads(threads)
        self.name, self.size, self.threads, self.arguments = name, size, threads, arguments
        self.device = torch.device(arguments.device)
        options = NetworkOptions() if name.endswith("_town") or "/" in name else NetworkOptions("random", "random")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # random weights are meant
            loaded = load_network(name, CITYSCAPES_19, options)
        self.network: Segmenter = loaded.network.to(self.device).requires_grad_(False)
        self.image: Image = TownImages("val", seed=1, length=1, size=size)[0].image
        self.frames = to_tensor(self.image, self.device)
        self.eager = eager_segformer(name, len(CITYSCAPES_19), self.device)
        mean, std = self.network.get_buffer("mean"), self.network.get_buffer("std")
        self.normalised = ((self.frames - mean) / std).contiguous()
        self.memory_mb: dict[str, float] = {}

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _time(self, candidates: dict[str, Callable[[], object]]) -> Result:
        return in_turns(candidates, self.arguments.rounds, self._synchronise)

    def predictor(self, backend: str, wishes: Wishes = Wishes()) -> Predictor:  # noqa: B008 - immutable
        """A backend around the network; notes the resident memory that it and its first prediction add."""
        before = resident_mb()
        bf16 = lambda: torch.autocast(self.device.type, torch.bfloat16)  # noqa: E731
        made: Predictor
        if backend == "onnxruntime":
            made = OnnxPredictor(self.network, wishes, self.size, self.threads)
        elif backend.startswith("compile"):
            made = CompiledPredictor(self.network, wishes, self.size, bf16 if "bf16" in backend else nullcontext)
        else:
            made = TorchPredictor(self.network, bf16 if "bf16" in backend else nullcontext)
        made.predict(self.frames)
        self.memory_mb.setdefault(backend, resident_mb() - before)
        return made

    def run(self) -> Result:
        """All figures of this network, size and number of threads."""
        predictors = {name: self.predictor(name) for name in self.arguments.backends}
        forward: dict[str, Callable[[], object]] = {
            name: lambda one=one: one.predict(self.frames)
            for name, one in predictors.items()  # type: ignore[misc]
        }
        to_mask: dict[str, Callable[[], object]] = {
            name: lambda one=one: self._mask(one)
            for name, one in predictors.items()  # type: ignore[misc]
        }
        if self.eager is not None:
            forward[EAGER], to_mask[EAGER] = self._eager_logits, self._eager_mask
        result: Result = {
            "network": self.name, "size": list(self.size), "threads": self.threads, "device": str(self.device),
            "load_before": os.getloadavg(),
            "predict": self._time(forward), "image_to_mask": self._time(to_mask),
            "labels": self._labels(), "detect": self._detect(predictors), "step": self._steps(),
            "publish": {scope: self._publish(scope) for scope in self.arguments.scopes},
            "memory_mb": self.memory_mb,
        }  # fmt: skip
        result["load_after"] = os.getloadavg()
        for what in ("predict", "image_to_mask", "step"):
            reference = result[what].get(EAGER)
            for row in result[what].values():
                row["times_faster"] = None if reference is None else times_faster(reference, row)
        return result

    def _mask(self, predictor: Predictor) -> Image:
        labels: Image = predictor.predict(to_tensor(self.image, self.device))[0].labels().cpu().numpy()[0]
        return labels

    @torch.inference_mode()
    def _eager_logits(self) -> Tensor:
        assert self.eager is not None
        logits: Tensor = self.eager(self.normalised).logits
        return logits

    @torch.inference_mode()
    def _eager_mask(self) -> Image:
        assert self.eager is not None
        frames = to_tensor(self.image, self.device)
        x = (frames - self.network.get_buffer("mean")) / self.network.get_buffer("std")
        full = F.interpolate(self.eager(x).logits, size=self.size, mode="bilinear", align_corners=False)
        labels: Image = full.argmax(1).to(torch.uint8).cpu().numpy()[0]
        return labels

    def _labels(self) -> Result | None:
        """Resize and argmax alone; on a GPU both are torch's."""
        if self.device.type != "cpu":
            return None
        with torch.inference_mode():
            logits = self.network(self.frames).logits

        def plain() -> Tensor:
            return F.interpolate(logits, size=self.size, mode="bilinear", align_corners=False).argmax(1)

        timed = self._time({"ours": lambda: upsampled_argmax(logits, self.size), "interpolate, argmax": plain})
        timed["ours"]["times_faster"] = times_faster(timed["interpolate, argmax"], timed["ours"])
        timed["ours"]["pixels_that_differ"] = int((upsampled_argmax(logits, self.size) != plain()).sum())
        return timed

    def _detect(self, predictors: dict[str, Predictor]) -> Result:
        """The drift detector on a frame, as a share of each backend's way from the image to the mask.

        On a CPU it looks with ONNX Runtime wherever something faster than torch in fp32 predicts, as runs do.
        """
        source = TownImages("train", seed=0, length=8, size=self.size)
        detector = calibrate_from_buffer(self.network, ReplayBuffer(source, range(8)))
        watch = lambda: detector.update(stage_statistics(self.network, self.frames))  # noqa: E731
        work: dict[str, Callable[[], object]] = {"detect": watch}
        if self.device.type == "cpu":
            stage = OnnxFirstStage(self.network, self.threads)
            work["detect quickly"] = lambda: detector.update(
                stage_statistics(self.network, self.frames, features=stage(shrunk(self.frames, 0.5)))
            )
        work.update({name: lambda one=one: self._mask(one) for name, one in predictors.items()})  # type: ignore[misc]
        timed = self._time(work)
        quick = {name for name in predictors if "detect quickly" in work and (name == "onnxruntime" or "bf16" in name)}
        looks = {name: timed["detect quickly" if name in quick else "detect"] for name in predictors}
        shares = {name: 1.0 / times_faster(timed[name], looks[name]) for name in predictors}
        return {**timed["detect"], "quickly": timed.get("detect quickly"), "share_of": shares}

    def _recipe(self, scope: str) -> Recipe:
        settings = MethodSettings.model_validate(
            {
                "description": "a step", "norm": {"statistics": "stream"}, "scope": {"parameters": scope},
                "optimizer": {"learning_rate": 1e-5}, "objectives": {"entropy": {}},
            }
        )  # fmt: skip
        return Recipe(
            settings, name=scope, source=self.network, classes=CITYSCAPES_19, replay=None, trigger=EveryFrames(1),
            seed=0, bf16=False,
        )  # fmt: skip

    def _steps(self) -> Result:
        """A learning step on the frame, by scope; beside a plain step with all parameters of the reference."""
        work: dict[str, Callable[[], object]] = {}
        for scope in self.arguments.scopes:
            recipe = self._recipe(scope)
            answer = recipe.predict(self.frames)
            work[scope] = lambda recipe=recipe, answer=answer: recipe.observe(self.frames, answer)  # type: ignore[misc]
        if self.eager is not None:
            optimizer = torch.optim.AdamW(self.eager.parameters(), 1e-6)
            target = torch.randint(0, len(CITYSCAPES_19), (1, *self.size), device=self.device)

            def plain() -> None:
                assert self.eager is not None
                full = F.interpolate(self.eager(self.normalised).logits, size=self.size, mode="bilinear")
                optimizer.zero_grad()
                F.cross_entropy(full, target).backward()
                optimizer.step()

            work[EAGER] = plain
        return self._time(work)

    def _publish(self, scope: str) -> Result:
        """Weights of a scope into a running ONNX Runtime session, and what the scope costs its predictions."""
        recipe = self._recipe(scope)
        made: list[OnnxPredictor] = []
        moving: list[Tensor] = []

        def factory(network: Segmenter, wishes: Wishes) -> Predictor:
            made.append(OnnxPredictor(network, wishes, self.size, self.threads))
            moving.extend(value for name, value in weights_of(network).items() if name in wishes.moving)
            return made[0]

        recipe.use_predictor(factory)

        def learn() -> None:
            torch._foreach_mul_(moving, 1.0001)

        def publish() -> None:
            made[0].publish(recipe.deployed)

        # A publication with nothing new would be let off, so that a change comes before each, out of the clock.
        timed = self._time({"change": learn, "publish": publish, "predict": lambda: made[0].predict(self.frames)})
        with torch.no_grad():
            expected = recipe.deployed(self.frames).logits
        difference = (made[0].predict(self.frames)[0].logits - expected).abs().max() / expected.abs().max()
        return {
            "by_input": made[0].by_input, "publish": timed["publish"], "predict": timed["predict"],
            "parity": float(difference),
        }  # fmt: skip


def main() -> None:
    """Runs what the arguments ask for and writes the three files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["segformer_b0_town", "segformer_b1"])
    parser.add_argument("--sizes", nargs="+", type=parse_size, default=[(256, 512), (512, 1024)])
    parser.add_argument("--backends", nargs="+", default=["torch", "torch bf16", "onnxruntime"],
                        choices=["torch", "torch bf16", "compile", "compile bf16", "onnxruntime"])  # fmt: skip
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--scopes", nargs="+", default=["norm", "head", "all"], choices=["norm", "head", "all"])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "benchmarks")
    arguments = parser.parse_args()
    cases = [(n, s, t) for n in arguments.networks for s in arguments.sizes for t in arguments.threads]
    results = [Bench(*case, arguments).run() for case in tqdm(cases, disable=None)]
    report = {"schema": "online_uda.latency/1", "environment": describe_environment(), "results": results}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "latency.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "latency.md").write_text(markdown(report), encoding="utf-8")
    plot(report, arguments.out / "latency.png")


if __name__ == "__main__":
    main()
