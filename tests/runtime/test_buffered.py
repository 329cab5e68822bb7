"""Two sets of weights that change places: between frames, whole, and without a wait."""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext

import torch
from torch import Tensor

from online_uda.networks.predictor import TorchPredictor, Wishes
from online_uda.runtime.buffered import BufferedPredictor
from tests.adaptation.recipe_kit import stream, untrained


def test_buffers_change_places_between_frames_and_not_before() -> None:
    network = untrained("batchnorm").eval()
    frames = next(stream(1))
    predictor = BufferedPredictor(network, Wishes(watched=("head.norm",)), nullcontext)
    plain = TorchPredictor(network, nullcontext)
    before = plain.predict(frames)[0].logits
    said, moments = predictor.predict(frames)
    assert torch.equal(said.logits, before)
    assert (said.size, said.padded, len(moments)) == ((64, 128), (64, 128), 1)
    with torch.no_grad():
        network.head.classifier.bias.add_(1.0)
        network.head.norm.running_mean.add_(0.5)
    after = plain.predict(frames)[0].logits
    assert torch.equal(predictor.predict(frames)[0].logits, before), "not published yet"
    predictor.publish(network)
    assert torch.equal(predictor.predict(frames)[0].logits, after)
    assert not torch.equal(before, after)
    with predictor._copying:  # a publication is under way: the old weights go on answering, without a wait
        predictor._fresh = True
        assert torch.equal(predictor.predict(frames)[0].logits, after)


def test_no_frame_is_answered_with_weights_of_two_publications() -> None:
    """Every weight of a publication has one value; a mixture would show."""
    network = torch.nn.Sequential(*[torch.nn.Linear(1, 1) for _ in range(40)])
    network.divisor = 4  # type: ignore[assignment]
    network.register_buffer("mean", torch.zeros(1))
    # Before the copies are made: the worker may hold the lock at the first prediction, which then answers with these.
    for parameter in network.parameters():
        parameter.data.fill_(0.0)
    predictor = BufferedPredictor(network, Wishes(), nullcontext)  # type: ignore[arg-type]
    seen: list[set[float]] = []

    class Reader(torch.nn.Module):
        def __init__(self, held: torch.nn.Module) -> None:
            super().__init__()
            self.network = held

        def forward(self, frames: Tensor) -> tuple[Tensor]:
            values = set()
            for parameter in self.network.parameters():
                values.add(float(parameter.flatten()[0]))
                time.sleep(0)
            seen.append(values)
            return (frames,)

    for buffer in (predictor._front, predictor._back):
        buffer.network = Reader(buffer.network.network)  # type: ignore[assignment]
    stop = threading.Event()

    def publish() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            for parameter in network.parameters():
                parameter.data.fill_(number)
            predictor.publish(network)  # type: ignore[arg-type]

    worker = threading.Thread(target=publish)
    worker.start()
    for _ in range(100):
        predictor.predict(torch.zeros(1, 3, 4, 4))
    stop.set()
    worker.join()
    assert {len(values) for values in seen} == {1}
    assert len({next(iter(values)) for values in seen}) > 1
