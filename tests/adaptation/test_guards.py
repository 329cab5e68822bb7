"""Guards around a recipe: silent while nothing is wrong; bad frames, steps and weights never reach a prediction."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from recipe_kit import (
    HAMLET,
    METHODS,
    REPLAY,
    SIZE,
    STATISTICS,
    TENT,
    Scripted,
    changed,
    copy_of,
    make_recipe,
    play,
    ruin,
    settings_of,
    stream,
    trained,
)
from torch import Tensor

from online_uda.adaptation.guards.canary import Judgement
from online_uda.adaptation.pieces import Pieces
from online_uda.adaptation.recipe import Recipe
from online_uda.adaptation.trigger.base import Decision
from online_uda.networks.segmenter import Segmentation

BLACK = torch.zeros(1, 3, *SIZE)
DEPLOYED = {**REPLAY, "teacher": {"half_life_frames": 2}, "deploy": "teacher"}
LEARNING = {name: METHODS[name] for name in ("tent", "replay", "statistics")} | {"deployed": DEPLOYED}


def guarded(data: dict[str, Any], *, kind: str = "layernorm", **changes: Any) -> Recipe:
    loose = {"every": 2, "canary": 3, "canary_most": 3, "margin": 100.0, "disagreement": 1.0, "collapse": 1.0}
    guards = {**loose, **changes.pop("guards", {})}
    return make_recipe(settings_of(data, guards=guards, **changes), trained(kind))


def actions(recipe: Recipe) -> list[tuple[str, str]]:
    return [(event.action, event.cause) for event in recipe.take_events()]


@pytest.mark.parametrize("name", LEARNING)
def test_nothing_wrong_nothing_changed(name: str) -> None:
    """Bit for bit the run without guards: they draw from no shared generator and leave no statistics behind."""
    plain = make_recipe(settings_of(LEARNING[name]), trained("batchnorm"))
    safe = guarded(LEARNING[name], kind="batchnorm")
    for frame in stream(6):
        answers = [recipe.predict(frame) for recipe in (plain, safe)]
        assert torch.equal(answers[0].logits, answers[1].logits)
        assert plain.observe(frame, answers[0]) == safe.observe(frame, answers[1])
    assert not changed(copy_of(plain.student), copy_of(safe.student))
    assert not actions(safe)
    assert plain.take_events() == []


@pytest.mark.parametrize("frame", [BLACK, torch.ones_like(BLACK), torch.full_like(BLACK, math.nan)])
@pytest.mark.parametrize("name", LEARNING)
def test_a_frame_that_shows_nothing_leaves_no_trace(name: str, frame: Tensor) -> None:
    recipe, good = guarded(LEARNING[name]), list(stream(2))
    play(recipe, iter(good[:1]))
    before = recipe.state_dict()
    for _ in range(3):
        report = recipe.observe(frame, recipe.predict(frame))
        assert not report.updated
    after = recipe.state_dict()
    assert not changed(before["student"], after["student"])
    assert before["trigger"] == after["trigger"]
    assert actions(recipe) == [("skip", "blank")]  # a spell is told once
    assert play(recipe, iter(good[1:]))[0].updated
    recipe.observe(frame, recipe.predict(frame))
    assert actions(recipe) == [("skip", "blank")]


@pytest.mark.parametrize("name", LEARNING)
def test_a_frame_that_shows_nothing_is_answered_by_the_source_network(name: str) -> None:
    recipe = guarded(LEARNING[name])
    play(recipe, stream(2))
    source, frame = trained("layernorm"), next(stream(1))
    assert not torch.equal(recipe.predict(frame).logits, source(frame).logits)
    assert torch.equal(recipe.predict(BLACK).logits, source(BLACK).logits)
    unguarded = make_recipe(settings_of(LEARNING[name]), trained("layernorm"))
    play(unguarded, stream(2))
    assert not torch.equal(unguarded.predict(BLACK).logits, source(BLACK).logits)


@pytest.mark.parametrize("name", LEARNING)
def test_weights_that_are_not_finite_are_replaced_before_they_predict(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, frames = guarded(LEARNING[name], kind="batchnorm"), list(stream(4))
    play(recipe, iter(frames[:2]))
    good = copy_of(recipe.deployed)
    pull = recipe._anchor.pull

    def breaks(share: float) -> bool:
        next(iter(recipe.student.head.buffers())).fill_(math.inf)
        next(iter(recipe.student.head.parameters())).data.fill_(math.nan)
        return pull(share)

    with monkeypatch.context() as patch:
        patch.setattr(recipe._anchor, "pull", breaks)
        play(recipe, iter(frames[2:3]))
    assert actions(recipe) == [("rollback", "non-finite")]
    if name != "deployed":  # its average took the student of the frame before
        assert not changed(good, copy_of(recipe.deployed))
    assert recipe.predict(frames[3]).logits.isfinite().all()
    report = play(recipe, iter(frames[3:]))[0]
    assert report.updated
    if report.learning_rate is not None:
        assert report.learning_rate == pytest.approx(recipe.settings.optimizer.learning_rate / 2)


@pytest.mark.parametrize("name", ["replay", "deployed"])
def test_a_candidate_that_the_canary_does_not_survive(name: str) -> None:
    gentle = {"learning_rate": 1e-6}
    recipe, frames = guarded(LEARNING[name], optimizer=gentle, guards={"margin": 1.0}), list(stream(4))
    play(recipe, iter(frames[:2]))
    assert not actions(recipe)
    good = copy_of(recipe.deployed)
    play(recipe, iter(frames[2:3]))
    ruin(recipe)
    play(recipe, iter(frames[3:]))
    assert actions(recipe) == [("rollback", "canary")]
    assert not changed(good, copy_of(recipe.deployed))
    assert recipe.state_dict()["optimizer"]["state"] == {}


def test_kept_weights_that_fail_too_give_way_to_the_source() -> None:
    """What passed in one look of the stream may fail in the next: then the source is all there is to go back to."""
    recipe, frames = guarded(REPLAY, guards={"margin": 1.0}), list(stream(2))
    play(recipe, iter(frames[:1]))
    ruin(recipe)
    assert recipe._guard is not None
    recipe._guard._weights.keep()
    play(recipe, iter(frames[1:]))
    events = recipe.take_events()
    assert [event.action for event in events] == ["rollback"]
    assert "back to the source weights" in events[0].detail
    assert not changed(copy_of(trained("layernorm")), copy_of(recipe.student))


def test_weights_that_act_on_the_stream_alone_are_found() -> None:
    """Disagreement with the source network on the stream that the canary does not explain."""
    recipe, frames = guarded(TENT, guards={"disagreement": 0.2, "every": 1}), list(stream(1))
    guard = recipe._guard
    assert guard is not None
    answer = guard._deployed

    def odd(images: Tensor, piece: str) -> Pieces[Segmentation]:
        output = yield from answer(images, piece)
        wide = images.shape[-1] == SIZE[1] // 2 and torch.equal(images, frames[0][..., SIZE[1] // 4 : -SIZE[1] // 4])
        if wide:
            output.logits[:] = output.logits.flip(1)
        return output

    guard._deployed = odd
    play(recipe, iter(frames))
    assert actions(recipe) == [("rollback", "disagreement")]


def test_a_collapsed_prediction_is_blamed_on_the_weights_if_the_source_sees_more() -> None:
    recipe, frames = guarded(TENT, guards={"collapse": 1.3, "every": 100}), list(stream(3))
    play(recipe, iter(frames[:1]))
    bias = dict(recipe.student.head.named_parameters())["classifier.bias"]
    bias.data[4] += 1e3
    play(recipe, iter(frames[1:2]))
    assert actions(recipe) == [("rollback", "collapse")]
    assert recipe.predict(frames[2]).labels().unique().numel() > 1


def test_a_prediction_in_which_the_source_sees_no_more_is_learned_from() -> None:
    """A far domain may look like one class to both: learning is what helps there."""
    recipe = guarded(TENT, guards={"collapse": 11.0})
    assert play(recipe, stream(1))[0].updated
    assert not actions(recipe)


def test_after_patience_the_source_predicts_for_a_while() -> None:
    gentle = {"learning_rate": 1e-6}
    recipe = guarded(REPLAY, optimizer=gentle, guards={"margin": 1.0, "every": 1, "patience": 2, "rest": 3})
    frames = list(stream(8))
    told: list[tuple[str, str]] = []
    for frame in frames[:2]:
        ruin(recipe)
        play(recipe, iter([frame]))
        told += actions(recipe)
    assert told == [("rollback", "canary"), ("frozen", "canary")]
    source = trained("layernorm")
    for frame in frames[2:4]:
        prediction = recipe.predict(frame)
        assert torch.equal(prediction.logits, source(frame).logits)
        assert not recipe.observe(frame, prediction).updated
    assert not actions(recipe)
    report = play(recipe, iter(frames[4:5]))[0]
    assert actions(recipe) == [("resume", "rest over")]
    assert report.updated
    assert report.learning_rate == pytest.approx(recipe.settings.optimizer.learning_rate / 4)


def test_a_rest_goes_on_watching_the_stream() -> None:
    trigger = Scripted(Decision(True, relax=True, signal=0.5))
    settings = settings_of(TENT, guards={"every": 1, "patience": 1, "rest": 5, "margin": 1.0, "collapse": 1.0})
    recipe = make_recipe(settings, trained("layernorm"), trigger=trigger)
    frames = list(stream(3))
    ruin(recipe)
    play(recipe, iter(frames[:1]))
    assert actions(recipe) == [("frozen", "canary")]
    reports = play(recipe, iter(frames[1:]))
    assert trigger.count == 3
    assert [report.signal for report in reports] == [0.5, 0.5]
    assert not any(report.updated for report in reports)


@pytest.mark.parametrize("data", [TENT, HAMLET, DEPLOYED, STATISTICS])
def test_a_guarded_run_continues_bit_for_bit(data: dict[str, Any]) -> None:
    """Also in the middle of a window between two canaries, and with a rollback behind it."""
    tight = {"margin": 2.0, "every": 2, "collapse": 1.0}
    whole, frames = guarded(data, guards=tight), list(stream(9))
    for count, frame in enumerate(frames[:5]):
        if count == 3:
            ruin(whole)
        play(whole, iter([frame]))
    told = len(whole.take_events())
    saved = copy.deepcopy(whole.state_dict())
    parts = guarded(data, guards=tight)
    parts.load_state_dict(saved)
    for frame in frames[5:]:
        answers = [recipe.predict(frame) for recipe in (whole, parts)]
        assert torch.equal(answers[0].logits, answers[1].logits)
        assert whole.observe(frame, answers[0]) == parts.observe(frame, answers[1])
        assert whole.take_events() == parts.take_events()
    assert not changed(copy_of(whole.student), copy_of(parts.student))
    assert told > 0


@pytest.mark.parametrize(("every", "looks"), [(1, 4), (2, 2), (5, 0)])
def test_every_says_how_often_the_canary_is_asked(every: int, looks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = guarded(TENT, guards={"every": every})
    assert recipe._guard is not None
    asked: list[int] = []
    answer = recipe._guard._source
    monkeypatch.setattr(recipe._guard, "_source", lambda *what: (asked.append(1), answer(*what))[1])
    play(recipe, stream(4))
    assert len(asked) == looks * 4  # three images and the frame


@pytest.mark.parametrize(("first", "most", "ruined", "looks"), [(2, 5, True, 5), (2, 5, False, 2), (3, 1, True, 3)])
def test_a_candidate_that_looks_worse_is_compared_on_more_images(
    first: int, most: int, ruined: bool, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    guards = {"every": 1, "canary": first, "canary_most": most, "margin": 1.0}
    recipe = guarded(REPLAY, optimizer={"learning_rate": 1e-9}, guards=guards)
    guard = recipe._guard
    assert guard is not None
    asked: list[str] = []
    answer = guard._source
    monkeypatch.setattr(guard, "_source", lambda images, piece: (asked.append(piece), answer(images, piece))[1])
    if ruined:
        ruin(recipe)
    play(recipe, stream(1))
    judgements = [looks, first] if ruined else [looks]  # what the bad candidate is replaced by is judged as well
    assert asked == [
        piece for count in judgements for piece in (*("guard.canary.source",) * count, "guard.frame.source")
    ]


def test_after_a_failure_the_canary_is_asked_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = guarded(TENT, guards={"every": 4, "margin": 8.0, "patience": 100})
    guard = recipe._guard
    assert guard is not None
    rates: list[float] = []
    lost = iter([6.0, 9.0, 6.0, 3.0, 9.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    looks: list[int] = []

    def judge(*_: Any) -> Any:
        looks.append(len(rates) + 1)
        yield from ()
        return Judgement(50.0 - next(lost), 50.0, 1.0, 1.0)

    assert guard._canary is not None
    monkeypatch.setattr(guard._canary, "judge", judge)
    monkeypatch.setattr(guard._weights, "restore", lambda: None)
    for frame in stream(15):
        play(recipe, iter([frame]))
        rates.append(guard.rate)
    # 6 of 8 is forgiven at frame 4; 9 at frame 8 is not, and what was kept loses 6.
    # From there on every frame is looked at: 3 is forgiven, 9 is not; four that lose nothing undo one failure.
    assert looks == [4, 8, 8, 9, 10, 10, 11, 12, 13, 14, 15]
    assert [rates[frame - 1] for frame in (4, 8, 9, 10, 13, 14, 15)] == [1.0, 0.5, 0.5, 0.25, 0.25, 0.5, 0.5]
    assert [action for action, _ in actions(recipe)] == ["rollback", "rollback"]


def test_without_a_canary_the_other_guards_stand() -> None:
    recipe = guarded(TENT, guards={"canary": 0, "every": 1})
    frames = list(stream(2))
    play(recipe, iter(frames[:1]))
    recipe.predict(frames[1])
    next(recipe.student.parameters()).data.fill_(math.nan)
    play(recipe, iter(frames[1:]))
    assert ("rollback", "non-finite") in actions(recipe)
    assert recipe.predict(frames[1]).logits.isfinite().all()
