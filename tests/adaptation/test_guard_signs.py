"""Signs of trouble against definitions and against the evaluator's own score."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from online_uda.adaptation.guards.canary import choose_images
from online_uda.adaptation.guards.ladder import Ladder
from online_uda.adaptation.guards.signs import (
    agreement,
    all_finite,
    blank_frame,
    effective_classes,
    hits_and_unions,
    mean_iou,
)
from online_uda.evaluation.confusion import confusion_matrix, intersection_union


def logits_of(labels: torch.Tensor, classes: int = 11) -> torch.Tensor:
    return torch.nn.functional.one_hot(labels, classes).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize(
    ("frame", "word"),
    [
        (torch.zeros(1, 3, 32, 48), "black"),
        (torch.ones(1, 3, 32, 48), "saturated"),
        (torch.full((1, 3, 32, 48), 0.4), "one colour"),
        (torch.full((1, 3, 32, 48), math.nan), "not finite"),
    ],
)
def test_frames_that_show_nothing(frame: torch.Tensor, word: str) -> None:
    reason = blank_frame(frame)
    assert reason is not None
    assert word in reason


@pytest.mark.parametrize("scale", [0.05, 1.0])
def test_dark_and_bright_frames_that_show_something(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    frame = scale * torch.rand(1, 3, 64, 64, generator=generator)
    assert blank_frame(frame) is None
    half = frame.clone()
    half[..., :32] = 0.0
    assert blank_frame(half) is None


def test_effective_classes_are_hill_numbers() -> None:
    labels = torch.arange(4).view(1, 1, 4).repeat_interleave(2, 2).expand(1, 8, 8)
    assert effective_classes(logits_of(labels)) == pytest.approx(4.0)
    assert effective_classes(logits_of(torch.full((1, 8, 8), 3))) == pytest.approx(1.0)
    uneven = torch.zeros(1, 20, 20, dtype=torch.int64)
    uneven[:, :2] = 1
    share = 0.1
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    assert effective_classes(logits_of(uneven)) == pytest.approx(math.exp(entropy))
    broken = logits_of(labels)
    broken[0, 0, 0, 0] = math.inf
    assert math.isnan(effective_classes(broken))


def test_agreement_is_the_share_of_equal_labels() -> None:
    one = torch.zeros(1, 4, 4, dtype=torch.int64)
    other = one.clone()
    other[0, 0] = 5
    assert agreement(logits_of(one), logits_of(other)) == pytest.approx(0.75)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_not_finite_is_found(value: float) -> None:
    tensors = [torch.ones(3), torch.tensor(4), torch.full((2, 2), 1e15)]
    assert all_finite(tensors)
    tensors[2][1, 0] = value
    assert not all_finite(tensors)
    assert all_finite([])


def test_canary_score_is_the_evaluators_over_classes_in_the_truth() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 6, (2, 8, 12)).repeat(4, 1).repeat(4, 2)
    truth[:, :4] = 255
    found = np.where(generator.random((2, 8, 12)) < 0.7, truth[:, 2::4, 2::4], 9)
    found = np.where(found == 255, 0, found)
    counts = hits_and_unions(logits_of(torch.from_numpy(found)), torch.from_numpy(truth))
    matrix = sum(
        confusion_matrix(t[2::4, 2::4].astype(np.uint8), f.astype(np.uint8), 11)
        for t, f in zip(truth, found, strict=True)
    )
    hits, unions, _ = intersection_union(matrix)
    assert counts[0].tolist() == hits.tolist()
    assert counts[1].tolist() == unions.tolist()
    present = matrix.sum(1) > 0
    assert mean_iou(counts) == pytest.approx(100 * (hits[present] / unions[present]).mean())


def test_canary_images_show_many_classes_between_them() -> None:
    counts = np.array([[90, 10, 0, 0], [100, 0, 0, 0], [80, 0, 20, 0], [0, 0, 0, 5], [95, 5, 0, 0]])
    chosen = choose_images(counts, 3)
    assert len(set(chosen)) == 3
    assert (counts[chosen].sum(0) > 0).sum() >= 3
    assert choose_images(counts, 9) != []
    assert sorted(choose_images(counts, 9)) == [0, 1, 2, 3, 4]


def test_the_ladder_goes_down_by_failures_and_up_by_passes() -> None:
    ladder = Ladder(0.5, patience=3, rest=10, passes=2)
    assert [ladder.fail(), ladder.fail()] == [False, False]
    assert ladder.rate == 0.25
    ladder.succeed()
    assert ladder.rate == 0.25, "once is not enough"
    ladder.succeed()
    assert ladder.rate == 0.5
    assert [ladder.fail(), ladder.fail()] == [False, True]
    assert ladder.resting == 10
    assert [ladder.tick() for _ in range(11)] == [False] * 9 + [True, False]
    rate = ladder.rate
    for _ in range(3):
        ladder.fail()
    assert ladder.resting == 20
    assert ladder.rate == rate / 8
    for _ in range(9 * 2):
        ladder.succeed()
    assert ladder.rate == 1.0
    for _ in range(3):
        ladder.fail()
    assert ladder.resting == 10


def test_a_rest_does_not_double_for_ever() -> None:
    ladder = Ladder(0.5, patience=1, rest=10, passes=2)
    for _ in range(100):
        ladder.fail()
    assert ladder.resting == 640
    assert ladder.rate == 0.5**6
