"""Where candidates play: a network, its replayed images, and the streams; what a method scores on them."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from online_uda.adaptation.build import build_method
from online_uda.adaptation.settings import MethodSettings
from online_uda.evaluation.prequential import PrequentialEvaluator
from online_uda.networks.checkpoints import LoadedNetwork
from online_uda.runtime.rng import seed_everything
from online_uda.runtime.scoring import to_tensor
from online_uda.tuning.objective import Score, VisitGain
from online_uda.tuning.rehearsal import Rehearsal
from streams.frame import ClassSet, LabelledSet


@dataclass(frozen=True)
class Stage:
    """Everything that candidates share.

    Attributes:
        network: The source network, on its device; never changed but for a light head that HAMLET's trigger needs.
        classes: Label space.
        source: Images that a method may replay.
        seed: Of the methods.
        harm: Weight of harm in a score.
    """

    network: LoadedNetwork
    classes: ClassSet
    source: LabelledSet
    seed: int
    harm: float

    def play(self, name: str, settings: MethodSettings, streams: Sequence[Rehearsal]) -> Iterator[VisitGain]:
        """Plays streams one after the other, each with a method that starts anew, and scores as a run does.

        Args:
            name: Of the method.
            settings: The candidate.
            streams: To play.

        Yields:
            Each visit when it is over.
        """
        for stream in streams:
            try:
                yield from self._play(name, settings, stream)
            finally:
                # Parts of a method know each other; left to itself the collector lets gigabytes of them gather.
                gc.collect()

    def _play(self, name: str, settings: MethodSettings, stream: Rehearsal) -> Iterator[VisitGain]:
        device = next(self.network.network.parameters()).device
        seed_everything(self.seed)
        method = build_method(
            settings, name=name, network=self.network, classes=self.classes, source=self.source, size=None,
            seed=self.seed, device=device, bf16=False,
        )  # fmt: skip
        evaluator = PrequentialEvaluator(self.classes)
        for frame, truth, frozen in stream.items():
            frames = to_tensor(frame.image, device)
            prediction = method.predict(frames)
            evaluator.update(frame.index, truth, prediction.labels(frozen.shape).cpu().numpy()[0], frozen)
            with torch.enable_grad():
                method.observe(frames, prediction)
            if (frame.index + 1) % stream.length == 0:
                visit = evaluator.visits[-1]
                yield VisitGain(stream.name, visit.domain, visit.miou or 0.0, visit.miou_frozen or 0.0)

    def score(self, name: str, settings: MethodSettings, streams: Sequence[Rehearsal]) -> Score:
        """What a candidate is worth on whole streams."""
        return Score.of(list(self.play(name, settings, streams)), self.harm)
