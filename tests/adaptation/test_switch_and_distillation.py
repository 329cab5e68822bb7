"""Hybrid-TTA's switch, adapters under a teacher, and distillation from a bigger network by JITNet's policy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recipe_kit import CAMVID_11, KINDS, changed, copy_of, make_recipe, play, settings_of, stream, trained, untrained
from torch import Tensor

from online_uda.adaptation.cost import cost_of
from online_uda.adaptation.distilled_step import mean_agreement
from online_uda.adaptation.recipe import Recipe
from online_uda.adaptation.scope_switch import HybridSwitch
from online_uda.adaptation.trigger.base import EveryFrames
from online_uda.adaptation.trigger.stride import StridePolicy
from online_uda.networks.adapters import MARK
from online_uda.networks.segmenter import Segmenter

HYBRID: dict[str, Any] = {
    "scope": {"parameters": "hybrid", "window": 1, "rise": 0.0},
    "adapters": {"kind": "two_rank", "rank": 1, "high_rank": 4},
    "optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.0},
    "teacher": {"cap": 0.9, "warm_up": False, "follows": "after"},
    "objectives": {"taught": {"labels": "soft", "mask": {"share": 0.5, "patch": 16}}},
}
DISTIL: dict[str, Any] = {
    "scope": {"parameters": "all"},
    "optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.0},
    "objectives": {"distilled": {"network": "given", "target": 1.0}},
}


def test_switch_by_hand() -> None:
    """Mean of the last two losses against a threshold that starts at the first and keeps 0.8 of itself."""
    switch, found, threshold, losses = HybridSwitch(2, 0.1, 0.8), [], 1.0, [1.0, 1.0, 1.3, 1.5, 1.0, 0.9]
    expected = []
    for index, loss in enumerate(losses):
        mean = sum(losses[max(0, index - 1) : index + 1]) / min(2, index + 1)
        expected.append(index > 0 and mean >= 1.1 * threshold)
        threshold = 0.8 * threshold + 0.2 * loss
        switch.update(loss)
        found.append(switch.everything)
    assert found == expected
    assert found == [False, False, True, True, False, False]
    again = HybridSwitch(2, 0.1, 0.8)
    again.load_state_dict(switch.state_dict())
    for one in (switch, again):
        one.update(2.0)
    assert again.state_dict() == switch.state_dict()


@pytest.mark.parametrize(("key", "value"), [("window", 3), ("rise", 0.5), ("memory", 0.0)])
def test_every_option_of_the_switch_counts(key: str, value: float) -> None:
    losses, outcomes = [1.0, 1.2, 1.3, 1.1, 1.4, 1.2, 1.6], []
    for changes in ({}, {key: value}):
        slot: dict[str, Any] = {"window": 1, "rise": 0.05, "memory": 0.9, **changes}
        switch, found = HybridSwitch(**slot), []
        for loss in losses:
            switch.update(loss)
            found.append(switch.everything)
        outcomes.append(found)
    assert outcomes[0] != outcomes[1]


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_learn_until_the_loss_rises(kind: str) -> None:
    recipe = make_recipe(settings_of(HYBRID, scope__rise=1e6), trained(kind))
    before = copy_of(recipe.student)
    reports = play(recipe, stream(2))
    moved = changed(before, copy_of(recipe.student))
    assert moved
    assert all(MARK in name for name in moved)
    assert {report.scope for report in reports} == {"adapters"}
    whole = make_recipe(settings_of(HYBRID, scope__memory=0.0), trained(kind))
    recipe_scopes = []
    for frames in [*stream(3, haze=0.0), *stream(3, haze=0.9)]:
        recipe_scopes.append(whole.observe(frames, whole.predict(frames)).scope)
    assert "all" in recipe_scopes
    assert any(MARK not in name for name in changed(before, copy_of(whole.student)))


def test_a_teacher_of_adapters_is_a_plain_network() -> None:
    recipe = make_recipe(settings_of(HYBRID, deploy="teacher"), trained("layernorm"))
    play(recipe, stream(2))
    assert recipe.teacher is not None
    plain = copy_of(trained("layernorm"))
    assert plain.keys() == copy_of(recipe.teacher.module).keys()
    assert changed(plain, copy_of(recipe.teacher.module))


def distilling(student: Segmenter, bigger: Segmenter, trigger: Any = None, **changes: Any) -> Recipe:
    return Recipe(
        settings_of(DISTIL, **changes), name="distil", source=student, classes=CAMVID_11, replay=None,
        trigger=trigger or EveryFrames(1), seed=0, bf16=False, bigger=bigger,
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_towards_the_bigger_network(kind: str) -> None:
    """Against cross-entropy on the bigger network's labels, in float64 (<= 1e-6)."""
    bigger, x = untrained("batchnorm").double().eval(), next(stream(1)).double()
    student = trained(kind).double().requires_grad_(True)
    recipe = distilling(trained(kind).double(), bigger)
    with torch.no_grad():
        labels = bigger(x).logits.argmax(1)
    loss = F.cross_entropy(student(x).logits, labels)
    names = [name for name, _ in recipe.learning]
    gradients = torch.autograd.grad(loss, [student.get_parameter(name) for name in names])
    report = recipe.observe(x, recipe.predict(x))
    assert report.losses["distilled"] == pytest.approx(loss.item(), abs=1e-8)
    for name, gradient in zip(names, gradients, strict=True):
        expected = student.get_parameter(name).detach() - 0.05 * gradient
        torch.testing.assert_close(recipe.student.get_parameter(name), expected, atol=1e-6, rtol=0.0)


def test_agreement_is_mean_iou() -> None:
    one = torch.tensor([[0, 0, 1, 1, 2, 2]])
    two = torch.tensor([[0, 0, 1, 2, 2, 2]])
    assert mean_agreement(one, two, 5) == pytest.approx((1 + 1 / 2 + 2 / 3) / 3)
    assert mean_agreement(one, one, 5) == 1.0


def test_steps_end_where_the_two_agree_and_the_bigger_is_asked_once() -> None:
    asked = []
    bigger = trained("batchnorm")
    bigger.register_forward_hook(lambda *_: asked.append(1))
    agrees = distilling(trained("batchnorm"), bigger, StridePolicy(1, 8), steps=5, objectives__distilled__target=0.9)
    before = copy_of(agrees.student)
    reports = play(agrees, stream(3))
    assert not any(report.updated for report in reports)
    assert not changed(before, copy_of(agrees.student))
    assert [report.signal for report in reports] == [1.0, 2.0, 2.0]
    assert len(asked) == 2
    asked.clear()
    apart = distilling(untrained("layernorm"), bigger, StridePolicy(1, 8), steps=3)
    assert all(report.updated for report in play(apart, stream(2)))
    assert len(asked) == 2, "once a frame, however many steps"


def test_a_higher_target_takes_more_steps() -> None:
    students = []
    for target in (0.02, 1.0):
        recipe = distilling(untrained("batchnorm"), trained("batchnorm"), objectives__distilled__target=target, steps=4)
        play(recipe, stream(1))
        students.append(copy_of(recipe.student))
    assert changed(*students)


def test_stride_doubles_and_halves() -> None:
    policy = StridePolicy(2, 8)
    frames, prediction = torch.zeros(1, 3, 8, 8), None
    learned = []
    for index in range(30):
        if policy.decide(frames, prediction).learn:  # type: ignore[arg-type]
            learned.append(index)
            policy.note(kept_up=len(learned) < 4)
    assert learned == [0, 4, 12, 20, 24, 26, 28]
    again = StridePolicy(2, 8)
    again.load_state_dict(policy.state_dict())
    assert [policy.decide(frames, prediction).learn for _ in range(4)] == [  # type: ignore[arg-type]
        again.decide(frames, prediction).learn
        for _ in range(4)  # type: ignore[arg-type]
    ]


@pytest.mark.parametrize(
    ("data", "changes", "text"),
    [
        (HYBRID, {"adapters": None}, "needs the slot adapters"),
        (DISTIL, {"objectives__distilled": None, "objectives__entropy": {}, "trigger__kind": "stride"}, "how well"),
        (DISTIL, {"trigger": {"kind": "stride", "smallest": 9, "largest": 3}}, "must not exceed"),
    ],
)
def test_what_cannot_work_is_refused(data: dict[str, Any], changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        settings_of(data, **changes)


def passes(data: dict[str, Any], kind: str = "layernorm") -> tuple[int, int]:
    """Forwards of any network and backwards of the student on one learned frame, counted."""
    counts = [0, 0]
    network = trained(kind)
    bigger = trained("batchnorm")
    settings = settings_of(data)
    recipe = make_recipe(settings, network) if settings.objectives.distilled is None else distilling(network, bigger)
    first = recipe.student.stages[0]

    def forward(module: Any, inputs: Any, output: Any) -> None:
        counts[0] += 1
        tensor = output[0] if isinstance(output, tuple) else output
        if tensor.requires_grad:
            tensor.register_hook(lambda grad: counts.__setitem__(1, counts[1] + 1))

    teacher = [] if recipe.teacher is None else [recipe.teacher.module.stages[0]]
    for stage in [first, network.stages[0], bigger.stages[0], *teacher]:
        stage.register_forward_hook(forward)
    frames: Tensor = next(stream(1))
    prediction = recipe.predict(frames)
    counts[0] = 0
    recipe.observe(frames, prediction)
    return counts[0], counts[1]


@pytest.mark.parametrize(
    "data",
    [
        {"objectives": {"entropy": {}}},
        {"objectives": {"entropy": {"shuffle": {}, "max_entropy": 1.0}}, "optimizer": {"sharpness": 0.1}},
        {"objectives": {"likelihood": {}}},
        {"objectives": {"taught": {"views": {"flip": True}, "trust": "anchor"}}, "teacher": {}},
        {"objectives": {"entropy": {}, "replay": {}, "feature_distance": {}}, "replay": {}},
        DISTIL,
    ],
    ids=["tent", "deyo uphill", "roid", "cotta", "replay", "distil"],
)  # fmt: skip
def test_the_cost_in_the_list_is_that_of_the_step(data: dict[str, Any]) -> None:
    base = {"scope": {"parameters": "all"}, **data}
    cost = cost_of(settings_of(base))
    bigger = 1 if data is DISTIL else 0
    assert passes(base) == (cost.forwards + bigger, cost.backwards)
