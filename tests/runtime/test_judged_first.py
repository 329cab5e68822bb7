"""What the guards have not judged yet never predicts, however the pieces of a step fall between frames."""

from __future__ import annotations

import time
from contextlib import nullcontext
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch

from online_uda.adaptation.recipe import Recipe
from online_uda.cli import main
from online_uda.export.graph import weights_of
from online_uda.networks.predictor import TorchPredictor
from online_uda.run import Runner
from online_uda.runtime.async_learning import AsyncLearning
from online_uda.runtime.backends import choose_backend
from online_uda.runtime.buffered import BufferedPredictor, StagedPredictor
from online_uda.runtime.clock import SimulatedClock
from online_uda.runtime.compiled import CompiledPredictor
from online_uda.runtime.cost_model import CostModel, Stopwatch
from online_uda.runtime.costs import StageCosts
from online_uda.runtime.learning_modes import InterleavedLearning
from online_uda.runtime.replaceable import Replaceable
from tests.adaptation.recipe_kit import REPLAY, SIZE, TENT, Scripted, make_recipe, ruin, settings_of, stream, trained
from tests.run_kit import FRAMES, assert_same, frames_of, method_state, summary_of, write_kit
from tests.runtime.test_backends import LEARN, answers, clock

CPU = torch.device("cpu")
STRICT = {
    "every": 1,
    "canary": 3,
    "canary_most": 3,
    "margin": 1.0,
    "disagreement": 1.0,
    "collapse": 1.0,
    "patience": 100,
}


def spoilt(**guards: Any) -> Recipe:
    """A recipe whose every step ends in weights that predict noise."""
    method = make_recipe(settings_of(REPLAY, guards={**STRICT, **guards}), trained("layernorm"))
    pull = method._anchor.pull

    def ruining(share: float) -> bool:
        ruin(method)
        return pull(share)

    method._anchor.pull = ruining  # type: ignore[method-assign]
    return method


def apart(method: Any) -> None:
    method.use_predictor(lambda network, wishes: BufferedPredictor(network, wishes, nullcontext))


@pytest.mark.parametrize("held_apart", [True, False])
def test_a_bad_candidate_is_seen_between_two_pieces_only_where_weights_are_not_held_apart(held_apart: bool) -> None:
    method, frozen = spoilt(), trained("layernorm")
    if held_apart:
        apart(method)
    time_ = SimulatedClock(StageCosts({"predict": 1, "detect": 1, "step": 2.5, "step.guard": 0.5}))
    mode = InterleavedLearning(method, Stopwatch(time_, CostModel()), time_, 0.012)
    wrong = 0
    for index, frames in enumerate(list(stream(4)) * 5):
        time_.wait_until(0.012 * index)
        prediction = mode.predict(frames)
        with torch.no_grad():
            wrong += not torch.equal(prediction.logits, frozen(frames).logits)
        mode.show(index, frames, prediction)
        mode.use_slack(0.012 * (index + 1))
    assert mode.collect()
    assert {event.cause for event in method.take_events()} == {"canary"}
    assert (wrong == 0) is held_apart


def test_a_bad_candidate_of_a_worker_never_predicts() -> None:
    method, frozen, wall = Replaceable(spoilt()), trained("layernorm"), clock()
    apart(method)
    mode = AsyncLearning(method, Stopwatch(wall, CostModel()), wall, 0.1, threads=1, device=CPU)
    frames = list(stream(2))
    expected = [frozen(frame).logits for frame in frames]
    thrown_away = 0
    for index in range(60_000):  # most of them where other work leaves the worker little time
        frame = frames[index % 2]
        prediction = mode.predict(frame)
        assert torch.equal(prediction.logits, expected[index % 2])
        mode.show(index, frame, prediction)
        thrown_away += sum(event.action == "rollback" for event in method.take_events())
        if thrown_away >= 3:
            break
        time.sleep(0.01)
    mode.close()
    assert thrown_away >= 3


@pytest.mark.parametrize(
    ("learn", "backend", "name"), [("interleaved", "torch", "buffered"), ("async", "onnxruntime", "onnxruntime")]
)
def test_a_run_holds_weights_apart_and_they_are_the_learners(
    tmp_path: Path, make_folder: Any, monkeypatch: pytest.MonkeyPatch, learn: str, backend: str, name: str
) -> None:
    """After the last publication both answer alike: in torch bit for bit, in ONNX Runtime with the same weights."""
    kit, seen = write_kit(tmp_path, make_folder), []
    play = Runner.run
    monkeypatch.setattr(Runner, "run", lambda self: (seen.append(self), play(self))[1])
    extra = (
        "trigger.kind=always",
        "memory=null",
        "anchor.ensemble=null",
        "alignment=null",
        "fusion=null",
        "replay.frames=6",
        "guards.every=2",
        "guards.margin=100",
    )
    kit.run(*extra, method="default", fps=2, learn=learn, backend=backend, frames=1)
    method: Any = seen[0].method
    recipe: Recipe = method.current if learn == "async" else method
    predictor: Any = recipe._answering.predictor
    assert predictor.name == name
    inner = predictor._inner if learn == "async" else predictor
    recipe.publish()
    frames = torch.rand(1, 3, 48, 64)
    with torch.no_grad():
        mine, theirs = recipe.predict(frames).logits, recipe.deployed(frames).logits
    if backend == "torch":
        assert torch.equal(mine, theirs)
        return
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-3)
    graph = inner._sizes[(48, 64)]
    deployed = graph._packed.room()
    graph._packed.fill(deployed, weights_of(recipe.deployed))
    assert len(deployed) > 20
    assert all(torch.equal(value, deployed[key]) for key, value in graph._now.weights.items())


def test_a_predictor_on_memory_of_its_own_follows_publications_only() -> None:
    frames = list(stream(4))
    method, plain = (make_recipe(settings_of(TENT), trained("batchnorm"), trigger=Scripted(LEARN)) for _ in range(2))
    method.use_predictor(lambda network, _: StagedPredictor(network, lambda held: TorchPredictor(held, nullcontext)))
    for mine, other in zip(answers(method, frames), answers(plain, frames), strict=True):
        assert torch.equal(mine, other)
    before = method.predict(frames[0]).logits.clone()
    for parameter in method.student.head.parameters():
        parameter.data.mul_(1.5)
    assert torch.equal(method.predict(frames[0]).logits, before), "not published yet"
    predictor: Any = method._answering.predictor
    with predictor._copying:  # a publication is under way: the old weights go on answering, without a wait
        predictor._fresh = True
        assert torch.equal(method.predict(frames[0]).logits, before)
    method.publish()
    assert not torch.equal(method.predict(frames[0]).logits, before)


def test_apart_gives_a_compiled_network_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CompiledPredictor, "__init__", partialmethod(CompiledPredictor.__init__, compiler="eager"))
    for held_apart, kind in ((True, StagedPredictor), (False, CompiledPredictor)):
        method = make_recipe(settings_of(TENT), trained("batchnorm"))
        name = choose_backend(
            method, "compile", size=SIZE, threads=1, autocast=nullcontext, clock=clock(), apart=held_apart
        )
        assert name == "compile"
        assert isinstance(method._answering.predictor, kind)


@pytest.mark.parametrize("statistics", ["batch", "alpha", "iabn"])
def test_statistics_of_the_frame_at_hand_are_the_copys_too(statistics: str) -> None:
    frames = list(stream(3))
    plain, held = (
        make_recipe(settings_of(TENT, norm__statistics=statistics), trained("batchnorm"), trigger=Scripted(LEARN))
        for _ in range(2)
    )
    apart(held)
    assert isinstance(plain._answering.predictor, TorchPredictor)
    for mine, theirs in zip(answers(held, frames), answers(plain, frames), strict=True):
        assert torch.equal(mine, theirs)
    with torch.no_grad():
        assert not torch.equal(held.predict(frames[0]).logits, trained("batchnorm")(frames[0]).logits)


def test_holding_weights_apart_changes_no_number(tmp_path: Path, make_folder: Any) -> None:
    """With all the time in the world, interleaved learning is learning at once."""
    kit = write_kit(tmp_path, make_folder)
    costs = tmp_path / "costs.json"
    costs.write_text('{"stages_ms": {"predict": 1, "detect": 1, "step": 1}}')
    words = (
        "trigger.kind=always",
        "memory=null",
        "anchor.ensemble=null",
        "alignment=null",
        "replay.frames=6",
        "guards.every=2",
    )
    runs = [
        kit.run(*words, method="default", out=learn, fps=1, learn=learn, clock=costs, frames=2)
        for learn in ("sync", "interleaved", "async")
    ]
    keys = ("miou", "agreement", "losses", "guard")
    rows = [[{key: row[key] for key in keys} for row in frames_of(folder)] for folder in runs]
    assert rows[0] == rows[1]
    assert [row["miou"] for row in rows[0]] == [row["miou"] for row in rows[2]]
    assert_same(method_state(runs[1]), method_state(runs[0]))
    assert_same(method_state(runs[2]), method_state(runs[0]))


def test_guards_that_find_nothing_wrong_change_no_number_of_a_run(tmp_path: Path, make_folder: Any) -> None:
    kit = write_kit(tmp_path, make_folder)
    loose = ("guards.every=2", "guards.margin=100", "guards.disagreement=1", "guards.collapse=1")
    runs = [
        kit.run(
            "trigger.kind=always",
            "memory=null",
            "anchor.ensemble=null",
            "alignment=null",
            "fusion=null",
            "replay.frames=6",
            *guards,
            method="default",
            out=name,
            frames=3,
        )
        for name, guards in (("on", loose), ("off", ("guards=null",)))
    ]
    assert frames_of(runs[0]) == frames_of(runs[1])
    one, other = (method_state(folder) for folder in runs)
    assert one.pop("guard") is not None
    assert other.pop("guard") is None
    assert_same(one, other)


def test_a_worker_that_fails_in_a_run_is_an_event_and_every_frame_is_predicted(
    tmp_path: Path, make_folder: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kit, steps, calls = write_kit(tmp_path, make_folder), Recipe._steps, []

    def failing(self: Recipe, *given: Any) -> Any:
        calls.append(1)
        if len(calls) == 8:  # the first six measure costs
            raise ZeroDivisionError("a bug")
        return (yield from steps(self, *given))

    monkeypatch.setattr(Recipe, "_steps", failing)
    words = (
        "trigger.kind=always",
        "memory=null",
        "anchor.ensemble=null",
        "alignment=null",
        "fusion=null",
        "replay.frames=6",
        "run.snapshot_every=5",
        "schedule.fps=3",
    )
    assert main([*kit.arguments(method="default", fps=3, learn="async"), *words]) == 0
    rows = frames_of(kit.root / "run")
    assert [row["frame"] for row in rows] == list(range(FRAMES))
    told = [event for row in rows for event in row["guard"]]
    assert [(event["action"], event["cause"]) for event in told] == [("restart", "worker died")]
    assert "ZeroDivisionError: a bug (test_judged_first.py" in told[0]["detail"]
    assert "guard: restart (worker died): ZeroDivisionError: a bug" in capsys.readouterr().err
    summary = summary_of(kit.root / "run")
    assert summary["guards"]["actions"] == {"restart": 1}
    assert (summary["on_time"]["workers_died"], summary["on_time"]["workers_hung"]) == (1, 0)
