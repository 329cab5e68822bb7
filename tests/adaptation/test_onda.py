"""OnDA: prototypes against fixture F7 (specs/seed-systems.md 11), the switch by hand, one update in float64."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recipe_kit import CAMVID_11, SourceSet, changed, copy_of, settings_of, stream, trained

from online_uda.adaptation.objectives.soft import confidence_regulariser, reverse_cross_entropy
from online_uda.adaptation.prior_switch import PriorSwitch
from online_uda.adaptation.prototypes import class_means, prototype_distances, prototype_weights
from online_uda.adaptation.recipe import Recipe
from online_uda.adaptation.trigger.base import EveryFrames

ONDA: dict[str, Any] = {
    "scope": {"parameters": "all"},
    "optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.0},
    "teacher": {"cap": 0.9, "warm_up": False, "follows": "after"},
    "objectives": {"prototype": {"prior": "static", "min_cells": 1, "rate": 0.1, "temperature": 4.0}},
}


def f7() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((4, 6), (1, 6, 8, 12), (1, 4, 8, 12))
    prototypes, features, logits = (torch.randn(*shape, generator=generator) for shape in shapes)
    assert prototypes[0, :3].tolist() == pytest.approx([-1.1258398, -1.1523602, -0.2505786], abs=1e-6)
    return prototypes, features, logits


def test_check_1_distances_weights_and_labels_of_f7() -> None:
    prototypes, features, logits = f7()
    distances = prototype_distances(features, prototypes)
    weights, p = prototype_weights(distances, 1.0), logits.softmax(1)
    assert distances[0, :, 0, 0].tolist() == pytest.approx([3.7163048, 4.0722513, 3.1255276, 4.0430717], abs=1e-6)
    assert weights[0, :, 0, 0].tolist() == pytest.approx([0.2365658, 0.1657168, 0.4270938, 0.1706235], abs=1e-6)
    before, after = p.argmax(1), (weights * p).argmax(1)
    assert before.flatten().bincount().tolist() == [19, 33, 21, 23]
    assert after.flatten().bincount().tolist() == [27, 21, 34, 14]
    assert int((before != after).sum()) == 34


def test_check_1_and_2_losses_of_f7() -> None:
    prototypes, features, logits = f7()
    labels = (prototype_weights(prototype_distances(features, prototypes), 1.0) * logits.softmax(1)).argmax(1)
    labels[0, 0, :4] = 255
    assert reverse_cross_entropy(logits, labels).item() == pytest.approx(5.101166248321533, abs=1e-6)
    assert confidence_regulariser(logits).item() == pytest.approx(1.760176658630371, abs=1e-6)
    p = logits.softmax(1).gather(1, labels.clamp(max=3).unsqueeze(1))[:, 0][labels != 255]
    assert reverse_cross_entropy(logits, labels).item() == pytest.approx(9.2103404 * (1 - p.mean().item()), abs=1e-5)
    assert reverse_cross_entropy(logits, torch.full_like(labels, 255)).item() == 0.0


def test_check_1_centroids_of_f7() -> None:
    _, features, logits = f7()
    means, counts = class_means(features, logits.argmax(1), 4)
    assert counts.tolist() == [19, 33, 21, 23]
    expected = [
        [-0.2984749, -0.0204424, -0.3743503, -0.0706699, 0.1241016, 0.5433137],
        [0.0939738, -0.1134086, -0.0210699, -0.1618007, 0.0150882, 0.2448245],
        [-0.1051202, -0.0119852, -0.0951226, -0.0236395, -0.0705283, 0.0797657],
        [0.2477160, 0.2056200, 0.0475165, -0.1337747, -0.0620838, 0.0286100],
    ]
    torch.testing.assert_close(means, torch.tensor(expected), atol=1e-6, rtol=0.0)


def make(kind: str, *, double: bool = False, **changes: Any) -> Recipe:
    source = SourceSet()
    images = [torch.from_numpy(source[i].image).permute(2, 0, 1)[None].float() / 255.0 for i in range(4)]
    network = trained(kind).double() if double else trained(kind)
    return Recipe(
        settings_of(ONDA, **changes), name="onda", source=network, classes=CAMVID_11, replay=None,
        trigger=EveryFrames(1), seed=0, bf16=False,
        source_images=[image.double() if double else image for image in images],
    )  # fmt: skip


def prototypes_of(recipe: Recipe) -> Any:
    step: Any = recipe._gradients._of_the_frame["prototype"]
    return step.prototypes


@pytest.mark.parametrize("kind", ["layernorm", "batchnorm"])
def test_one_update(kind: str) -> None:
    recipe, x = make(kind, double=True), next(stream(1)).double()
    held = prototypes_of(recipe)
    mean, spread, known = held.mean.clone(), held.spread.clone(), held.known.clone()
    assert 1 < known.sum() < 11, "some classes are in no source image"
    network = trained(kind).double().requires_grad_(True)
    with torch.no_grad():
        output = network(x)
        p, features = output.logits.softmax(1), output.features[-1]
        cells = torch.zeros(1, 11, *features.shape[-2:], dtype=torch.float64)
        for c in range(11):
            away = (features[0] - mean[c].view(-1, 1, 1)) / spread[c].view(-1, 1, 1)
            cells[0, c] = (-away.square().sum(0).sqrt() / 4.0).exp() if known[c] else 0.0
        w = F.interpolate(cells / cells.sum(1, keepdim=True), p.shape[-2:], mode="bilinear")
        q = w * p
        q = q / q.sum(1, keepdim=True)
        sure, labels = q.max(1)
        kept = sure > 0.3
    logits = network(x).logits
    log_p = logits.log_softmax(1)
    of_label = log_p.gather(1, labels.unsqueeze(1))[:, 0][kept]
    loss = 0.1 * -of_label.mean() + math.log(1e4) * (1 - of_label.exp()).mean() - 0.1 * log_p.mean()
    names = [name for name, _ in recipe.learning]
    gradients = torch.autograd.grad(loss, [network.get_parameter(name) for name in names])
    report = recipe.observe(x, recipe.predict(x))
    assert report.losses["prototype"] == pytest.approx(loss.item(), abs=1e-8)
    for name, gradient in zip(names, gradients, strict=True):
        expected = network.get_parameter(name).detach() - 0.05 * gradient
        torch.testing.assert_close(recipe.student.get_parameter(name), expected, atol=1e-6, rtol=0.0)
    small = F.interpolate(q, features.shape[-2:], mode="bilinear", antialias=True).argmax(1)[0]
    for c in range(11):
        inside = features[0][:, small == c]
        wanted = mean[c] if not inside.numel() else mean[c] + 0.1 * (inside.mean(1) - mean[c])
        torch.testing.assert_close(held.mean[c], wanted, atol=1e-9, rtol=1e-9)


def test_check_4_a_class_with_few_cells_keeps_its_prototype_bit_for_bit() -> None:
    recipe, x = make("batchnorm", objectives__prototype__min_cells=10_000), next(stream(1))
    before = prototypes_of(recipe).mean.clone()
    recipe.observe(x, recipe.predict(x))
    assert torch.equal(prototypes_of(recipe).mean, before)


def test_switch_by_hand() -> None:
    """Outside the band the median decides; inside it a steep slope; else nothing changes."""
    switch = PriorSwitch(3, (0.6, 0.8), 0.005)
    values = [0.9, 0.9, 0.78, 0.74, 0.72, 0.70, 0.70, 0.70, 0.70, 0.70, 0.55, 0.55, 0.55, 0.7, 0.75, 0.85, 0.9]
    medians: list[float] = []
    found, expected, dynamic = [], [], False
    for index, value in enumerate(values):
        medians.append(statistics.median(values[max(0, index - 2) : index + 1]))
        changes = [b - a for a, b in zip(medians[-3:], medians[-2:], strict=False)]
        slope = statistics.fmean(changes) if changes else 0.0  # two changes weigh alike
        if medians[-1] < 0.6 or medians[-1] > 0.8:
            dynamic = medians[-1] < 0.6
        elif abs(slope) > 0.005:
            dynamic = slope < 0.0
        found.append(switch.update(value))
        expected.append(dynamic)
    assert found == expected
    assert {True, False} == set(found)
    assert found[0] is False
    assert found[12] is True
    assert found[-1] is False
    again = PriorSwitch(3, (0.6, 0.8), 0.005)
    again.load_state_dict(switch.state_dict())
    assert again.update(0.7) == switch.update(0.7)
    assert again.state_dict() == switch.state_dict()


def test_slope_counts_the_middle_of_the_window_most() -> None:
    early, late = PriorSwitch(50, (0.0, 1.0), 0.0), PriorSwitch(50, (0.0, 1.0), 0.0)
    for index in range(41):
        early._medians.append(0.5 if index < 20 else 0.6)
        late._medians.append(0.5 if index < 40 else 0.6)
    assert early.slope() > 5 * late.slope() > 0.0


OPTIONS: list[tuple[str, Any]] = [
    ("weight", 0.1), ("temperature", 0.5), ("rate", 0.9), ("min_cells", 12), ("frames", 1), ("confidence", 0.8),
    ("cross_entropy", 1.0), ("reverse", 0.1), ("regular", 1.0), ("prior", "dynamic"), ("prior", "switch"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), OPTIONS, ids=[f"{key}={value}" for key, value in OPTIONS])
def test_every_option_moves_the_step(key: str, value: Any) -> None:
    students = []
    gray = {"objectives__prototype__gray": [1.0, 1.0]} if value == "switch" else {}
    base = {"objectives__prototype__rate": 1.0} if key == "min_cells" else {}
    for changes in (base, {**base, f"objectives__prototype__{key}": value, **gray}):
        recipe = make("batchnorm", **changes)
        for x in stream(4):
            recipe.observe(x, recipe.predict(x))
        students.append(copy_of(recipe.student))
    assert changed(*students)


@pytest.mark.parametrize(
    ("key", "value"), [("window", 1), ("gray", [0.0, 0.1]), ("slope", 0.0)], ids=["window", "gray", "slope"]
)
def test_every_option_of_the_switch_counts(key: str, value: Any) -> None:
    base: dict[str, Any] = {"window": 5, "gray": (0.6, 0.8), "slope": 0.05}
    values = [0.9, 0.9, 0.5, 0.5, 0.5, 0.7, 0.71, 0.72, 0.7, 0.69, 0.55, 0.79, 0.79]
    outcomes = []
    for slot in (base, {**base, key: value}):
        switch = PriorSwitch(**slot)
        outcomes.append([switch.update(confidence) for confidence in values])
    assert outcomes[0] != outcomes[1]


def test_grey_band_backwards_is_refused() -> None:
    with pytest.raises(ValueError, match="smaller confidence first"):
        settings_of(ONDA, objectives__prototype__gray=[0.9, 0.8])
