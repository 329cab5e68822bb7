"""Watching with the first stage in ONNX Runtime: the map of torch, the same decisions, and torch where it cannot be."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from online_uda.adaptation.replay.buffer import ReplayBuffer
from online_uda.adaptation.trigger.drift import calibrate_from_buffer
from online_uda.adaptation.trigger.policies import DriftPolicy
from online_uda.errors import UserError
from online_uda.export import first_stage as module
from online_uda.export.first_stage import OnnxFirstStage
from online_uda.run import Runner
from tests.adaptation.recipe_kit import KINDS, REPLAY, TENT, SourceSet, make_recipe, settings_of, stream, trained
from tests.run_kit import write_kit


@pytest.mark.parametrize("kind", KINDS)
def test_the_map_is_that_of_torch_at_every_size(kind: str) -> None:
    network = trained(kind)
    stage = OnnxFirstStage(network, 1)
    for size in ((64, 128), (30, 50)):
        frames = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
        expected = network.encode(network.normalise(frames)[0], 1)[0]
        torch.testing.assert_close(stage(frames), expected, rtol=0, atol=1e-5)
        assert stage.is_exported(size)
    assert not stage.is_exported((8, 8))


@pytest.mark.parametrize("fails", ["export", "parity"])
def test_torch_answers_where_onnxruntime_cannot(monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    def refuse(*_: Any) -> Any:
        raise UserError("cannot be exported")

    if fails == "export":
        monkeypatch.setattr(module, "traced", refuse)
    else:
        monkeypatch.setattr(module, "PARITY", 0.0)
    network, frames = trained("layernorm"), next(stream(1))
    stage = OnnxFirstStage(network, 1)
    assert torch.equal(stage(frames), network.encode(network.normalise(frames)[0], 1)[0])
    assert not stage.is_exported((64, 128))


def test_a_trigger_decides_alike_and_torch_alone_stays_bit_for_bit() -> None:
    network, source = trained("layernorm"), SourceSet()
    detector = calibrate_from_buffer(network, ReplayBuffer(source, range(len(source))), scale=0.5)
    plain, quick = (DriftPolicy(network, copy.deepcopy(detector), 0.5) for _ in range(2))
    shapes = []
    stage = OnnxFirstStage(network, 1)
    quick.first_stage = lambda frames: (shapes.append(tuple(frames.shape)), stage(frames))[1]
    with torch.no_grad():
        for frames in [*stream(4, haze=0.0), *stream(6, haze=0.7)]:
            prediction = network(frames)
            mine, theirs = quick.decide(frames, prediction), plain.decide(frames, prediction)
            assert mine.signal == pytest.approx(theirs.signal, rel=1e-4)
            assert (mine.learn, mine.detected, mine.relax) == (theirs.learn, theirs.detected, theirs.relax)
    assert shapes == [(1, 3, 32, 64)] * 10


def test_a_recipe_hands_it_to_a_trigger_that_looks_at_the_first_stage() -> None:
    network = trained("layernorm")
    source = SourceSet()
    policy = DriftPolicy(network, calibrate_from_buffer(network, ReplayBuffer(source, range(len(source)))), 0.5)
    make_recipe(settings_of(REPLAY), network, trigger=policy).use_first_stage(torch.relu)
    assert policy.first_stage is torch.relu
    make_recipe(settings_of(TENT), network).use_first_stage(torch.relu)  # a trigger that looks at nothing


def test_only_the_faster_backends_use_it(tmp_path: Path, make_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kit, seen = write_kit(tmp_path, make_folder), []
    play = Runner.run
    monkeypatch.setattr(Runner, "run", lambda self: (seen.append(self.method._trigger), play(self))[1])
    for number, extra in enumerate(([], ["run.precision=bf16"])):
        kit.run("replay.frames=6", *extra, method="default", out=str(number), frames=1)
    plain, reduced = seen
    assert plain.first_stage is None
    assert isinstance(reduced.first_stage, OnnxFirstStage)
    assert reduced.first_stage.is_exported((24, 32))
