"""Domain memory: what it files, what it recalls, its bounds, and its state."""

from __future__ import annotations

import io
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe_kit import copy_of, make_recipe, settings_of, stream, trained
from torch import Tensor, nn

from online_uda.adaptation.memory import DomainMemory
from online_uda.adaptation.settings import MemorySettings
from online_uda.adaptation.trigger.base import Decision
from online_uda.runtime.buffered import BufferedPredictor


class Town:
    """A network of one weight, and a memory of it: walks through domains at places on a line."""

    def __init__(self, **slot: Any) -> None:
        self.network = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.network.weight)
        self.memory = DomainMemory([self.network], MemorySettings(window=3, **slot))

    @property
    def weight(self) -> float:
        """What is learned."""
        return float(self.network.weight.detach())

    def visit(self, place: float, learn: float | None = None, frames: int = 12, *, nearer: bool = False) -> str | None:
        """Frames at ``place``, the change found on the third; in the end the weight is learned to be ``learn``."""
        word = None
        for frame in range(frames):
            changed = frame == 2
            self.memory.watch(
                Decision(
                    place > 1.0, confirmed=changed, nearer=nearer, far=place > 1.0, signature=torch.tensor([place, 0.0])
                )
            )
            if changed:
                word = self.memory.settle()
        if learn is not None:
            with torch.no_grad():
                self.network.weight.fill_(learn)
        return word


def test_the_way_back_recalls_what_the_way_there_has_learned() -> None:
    town = Town()
    assert town.visit(0.3) is None
    assert town.visit(2.0, learn=1.0) is None
    assert town.visit(3.0, learn=2.0) is None  # nearer to the last domain than to the source or to anything filed
    assert "looked like this one" in str(town.visit(2.1))
    assert town.weight == 1.0
    assert "looked like this one" in str(town.visit(3.1))
    assert town.weight == 2.0


def test_a_change_towards_the_source_starts_from_the_source() -> None:
    town = Town()
    town.visit(0.3)
    town.visit(6.0, learn=3.0)
    assert "source weights" in str(town.visit(1.5))
    assert town.weight == 0.0


def test_weights_at_hand_go_on_outwards_but_not_towards_the_source() -> None:
    for nearer, weight in ((False, 3.0), (True, 0.0)):
        town = Town()
        town.visit(0.3)
        town.visit(6.0, learn=3.0)
        word = town.visit(4.0, nearer=nearer)
        assert town.weight == weight
        assert (word is None) is not nearer


def test_home_again_nothing_is_put_in_place_but_the_state_is_filed() -> None:
    town = Town()
    town.visit(0.3)
    town.visit(2.0, learn=1.0)
    assert town.visit(0.3, learn=0.0) is None
    assert len(town.memory) == 1
    town.visit(2.0)
    assert town.weight == 1.0


@pytest.mark.parametrize("learned", [1.0, 1e9])
def test_what_half_precision_cannot_hold_is_filed_as_it_is(learned: float) -> None:
    town = Town()
    town.visit(0.3)
    town.visit(2.0, learn=learned)
    town.visit(0.3, learn=0.0)
    town.visit(2.0)
    assert town.weight == learned


def test_recalled_weights_predict_only_after_the_guards_have_seen_them() -> None:
    """A predictor with weights of its own is published to once a learned frame, after the review."""
    slots: dict[str, Any] = {
        "scope": {"parameters": "norm"}, "objectives": {"entropy": {}}, "anchor": {"relax": 1.0}, "replay": {},
        "optimizer": {"learning_rate": 0.01}, "trigger": {"kind": "drift"}, "memory": {"window": 1},
        "guards": {"canary": 0, "collapse": 1.0, "disagreement": 1.0},
    }  # fmt: skip
    recipe = make_recipe(settings_of(slots), trained("batchnorm"), trigger=Script())
    calls: list[str] = []
    assert recipe._guard is not None
    review, settle, publish = recipe._guard.review, recipe._settle, recipe.publish

    def reviewing(*args: Any, **kwargs: Any) -> Any:
        calls.append("review")
        return review(*args, **kwargs)

    def settling(*args: Any) -> bool:
        recalled = settle(*args)
        calls.extend(["recall"] if recalled else [])
        return recalled

    recipe._guard.review, recipe._settle = reviewing, settling  # type: ignore[method-assign]
    recipe.publish = lambda: (calls.append("publish"), publish())[1]  # type: ignore[method-assign,func-returns-value]
    recipe.use_predictor(lambda network, wishes: BufferedPredictor(network, wishes, nullcontext))
    for frame in stream(26, haze=0.5):
        recipe.observe(frame, recipe.predict(frame))
    at = calls.index("recall")
    assert calls[at : at + 3] == ["recall", "review", "publish"]


def test_the_bank_is_bounded_and_the_state_unused_longest_goes() -> None:
    town = Town(states=2)
    town.visit(0.3)
    for place in (2.0, 4.0, 8.0, 16.0):
        town.visit(place, learn=place)
    town.visit(32.0, learn=32.0)
    assert len(town.memory) == 2
    town.visit(16.2)
    assert town.weight == 16.0
    town.visit(2.0)
    assert town.weight != 2.0


def test_a_full_bank_drops_a_state_in_its_midst() -> None:
    """The first one filed was recalled since, in a domain that is filed beside it."""
    town = Town(states=2)
    town.visit(0.3)
    for place in (2.0, 8.0):
        town.visit(place, learn=place)
    assert "looked like this one" in str(town.visit(2.9, learn=2.9))
    town.visit(20.0, learn=20.0)
    assert len(town.memory) == 2
    town.visit(8.0)
    assert town.weight != 8.0
    town.visit(2.9)
    assert town.weight == pytest.approx(2.9, abs=1e-3)


def test_a_domain_that_was_filed_is_filed_anew() -> None:
    town = Town()
    town.visit(0.3)
    for learned in (1.0, 1.5):
        town.visit(2.0, learn=learned)
        town.visit(0.3, learn=0.0)
    assert len(town.memory) == 1
    town.visit(2.0)
    assert town.weight == 1.5


def test_the_window_says_which_frames_are_of_the_new_domain() -> None:
    """A window longer than the new domain's frames takes some of the old one's for it."""
    words = []
    for window in (1, 12):
        town = Town()
        town.memory = DomainMemory([town.network], MemorySettings(window=window))
        town.visit(0.3)
        town.visit(8.0, learn=1.0, frames=30)
        words.append(town.visit(2.0))
    assert "source weights" in str(words[0])
    assert words[1] is None


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.3, 2.0, 4.0, 7.0]), st.floats(-2, 2)), min_size=1, max_size=10))
def test_state_goes_through_a_file(visits: list[tuple[float, float]]) -> None:
    one, other = Town(), Town()
    for place, learned in visits:
        one.visit(place, learn=learned)
    file = io.BytesIO()
    torch.save({"memory": one.memory.state_dict(), "net": one.network.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other.memory.load_state_dict(state["memory"])
    other.network.load_state_dict(state["net"])
    for place in (2.0, 0.3, 7.0):
        assert one.visit(place, learn=0.5) == other.visit(place, learn=0.5)
        assert one.weight == other.weight
    assert len(one.memory) == len(other.memory)


class Script:
    """Near, far at one place, near, far at the same place; every far frame is learned from."""

    def __init__(self) -> None:
        self.frame = 0

    def decide(self, frames: Tensor, prediction: Any) -> Decision:
        """The next word."""
        part, within = divmod(self.frame, 8)
        self.frame += 1
        far = part % 2 == 1
        place = torch.tensor([2.0 if far else 0.2])
        return Decision(far, relax=not far, confirmed=within == 0 and part > 0, far=far, signature=place)

    def state_dict(self) -> dict[str, Any]:
        """Unused."""
        return {"frame": self.frame}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Unused."""
        self.frame = int(state["frame"])


@pytest.mark.parametrize("remembers", [True, False])
def test_a_recipe_recalls_and_says_so(remembers: bool) -> None:
    slots: dict[str, Any] = {
        "scope": {"parameters": "norm"}, "objectives": {"entropy": {}}, "anchor": {"relax": 1.0},
        "optimizer": {"learning_rate": 0.01}, "trigger": {"kind": "drift"}, "replay": {},
        "memory": {"window": 1} if remembers else None,
    }  # fmt: skip
    recipe = make_recipe(settings_of(slots), trained("batchnorm"), trigger=Script())
    source = copy_of(recipe.student)
    after = []
    for frame in stream(32, haze=0.5):
        recipe.observe(frame, recipe.predict(frame))
        after.append(copy_of(recipe.student))
    recalls = [event for event in recipe.take_events() if event.action == "recall"]
    assert len(recalls) == (1 if remembers else 0)
    name = "stages.0.1.weight"
    assert torch.equal(after[20][name], source[name])  # near: relaxed
    first, second = ((after[at][name] - source[name]).abs().mean() for at in (8, 24))
    # The second visit starts where the first one ended.
    assert bool(second > 3 * first) is remembers


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"trigger": {"kind": "always"}, "objectives__replay": {}}, "needs trigger.kind drift"),
        ({"anchor__restart": 1.0}, "knows where to start again"),
    ],
)
def test_what_memory_does_not_go_with(change: dict[str, Any], text: str) -> None:
    base: dict[str, Any] = {
        "scope": {"parameters": "norm"}, "objectives": {"entropy": {}}, "replay": {}, "memory": {},
        "trigger": {"kind": "drift"},
    }  # fmt: skip
    settings_of(base)
    with pytest.raises(ValueError, match=text):
        settings_of(base, **change)
