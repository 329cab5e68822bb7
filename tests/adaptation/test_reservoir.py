"""ReservoirTTA's bank: which model is at work, what a new one starts from, and that each keeps what it has learned."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from recipe_kit import changed, copy_of, play, settings_of, stream, trained
from test_domain_alignment import recipe_of

from online_uda.adaptation.recipe import Recipe
from online_uda.adaptation.reservoir import Reservoir, mutual_information, style_of
from online_uda.adaptation.settings.reservoir import ReservoirSettings


def bank(**slot: Any) -> tuple[Reservoir, torch.nn.Linear]:
    """A bank over a layer, whose frames are their own first map; styles of source frames reach 1 or so."""
    net = torch.nn.Linear(2, 2)
    images = [torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(8)]

    class Said:
        logits = torch.zeros(1, 4, 2, 2)

    made = Reservoir(
        [net], ReservoirSettings(frames=8, window=1, **slot), first_map=lambda x: x, answer=lambda _: Said(),  # type: ignore
        images=images,
    )  # fmt: skip
    return made, net


def frame(scale: float, seed: int = 9) -> torch.Tensor:
    return scale * torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_style_and_information_by_hand() -> None:
    x = frame(2.0)
    torch.testing.assert_close(style_of(x), x[0].flatten(1).var(1, correction=0).log())
    logits = torch.randn(1, 5, 3, 4)
    p = logits.softmax(1)
    mean = p.mean((0, 2, 3))
    expected = -(mean * mean.log()).sum() + (p * p.log()).sum(1).mean()
    torch.testing.assert_close(mutual_information(logits), expected)


def test_every_look_has_a_model_that_keeps_what_it_learned() -> None:
    made, net = bank()
    with torch.no_grad():
        made.watch(frame(1.0))
        assert made.settle(frame(1.0)) is None
        net.weight += 1.0
        first = net.weight.clone()
        made.watch(frame(20.0))
        assert made.settle(frame(20.0)) == "a new model, 2 of at most 16"
        assert torch.equal(net.weight, first)  # both have the same information: it starts as the first of them
        net.weight += 5.0
        second = net.weight.clone()
        made.watch(frame(1.0, 3))
        assert made.settle(frame(1.0)) == "model 1 of 2"
        torch.testing.assert_close(net.weight, first)
        made.watch(frame(20.0, 4))
        assert made.settle(frame(20.0)) == "model 2 of 2"
        torch.testing.assert_close(net.weight, second)


def test_every_option_counts() -> None:
    one, _ = bank(models=1)
    one.watch(frame(20.0))
    assert one.settle(frame(20.0)) is None
    assert bank(quantile=0.1)[0].reach < bank()[0].reach
    assert bank(slack=9.0)[0].reach == pytest.approx(9.0 * bank()[0].reach)
    still, moving = bank(rate=0.0)[0], bank(rate=1.0)[0]
    for made in (still, moving):
        made.watch(frame(1.05, 2))
    torch.testing.assert_close(moving.centres[0], style_of(frame(1.05, 2)))
    assert not torch.equal(still.centres[0], moving.centres[0])
    slow = bank()[0]
    slow._settings = ReservoirSettings(window=100)
    for scale in (1.0, 20.0):
        slow.watch(frame(scale))
    assert slow.settle(frame(20.0)) is None
    few, many = (recipe(frames=count)._reservoir for count in (2, 8))
    assert few is not None
    assert many is not None
    assert few.reach != many.reach


def recipe(**slot: Any) -> Recipe:
    return recipe_of({"entropy": {}}, replay=None, reservoir={"frames": 8, "slack": 0.5, "window": 1, **slot})


def test_in_a_recipe_a_new_look_is_an_event_and_the_source_model_comes_back() -> None:
    method = recipe()
    play(method, stream(2, haze=0.0))
    clear = copy_of(method.student)
    play(method, stream(3, haze=0.9))
    assert method._reservoir is not None
    assert len(method._reservoir.centres) >= 2
    assert any(event.cause == "reservoir" for event in method.take_events())
    assert changed(clear, copy_of(method.student))
    again = recipe()
    again.load_state_dict(copy.deepcopy(method.state_dict()))
    for x in stream(3, haze=0.0, seed=7):
        one, two = method.predict(x), again.predict(x)
        assert torch.equal(one.logits, two.logits)
        assert method.observe(x, one) == again.observe(x, two)
    assert trained("batchnorm") is not None


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"scope": {"parameters": "none"}, "objectives": {}}, "nothing to keep"),
     ({"memory": {}, "trigger": {"kind": "drift"}, "replay": {"frames": 4}}, "both choose the weights")],
)  # fmt: skip
def test_what_cannot_work_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        settings_of({"scope": {"parameters": "norm"}, "objectives": {"entropy": {}}, "reservoir": {}, **changes})
