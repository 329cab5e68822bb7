"""DA-SAC's fused labels (F8, acceptance checks 1-5), strong views with replayed geometry, ProDA's consistency."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recipe_kit import KINDS, make_recipe, play, settings_of, stream, trained
from torch import Tensor

from online_uda.adaptation.affine import affine_view, random_view, warp
from online_uda.adaptation.cost import cost_of
from online_uda.adaptation.fused_step import fused_on_the_frame
from online_uda.adaptation.prototypes import divergence
from online_uda.adaptation.pseudo_labels.class_adaptive import (
    adaptive_labels,
    class_thresholds,
    focal_confidence_loss,
    prior_discount,
)
from online_uda.adaptation.settings.labels import StrongSettings
from online_uda.adaptation.strong_view import StrongViews
from online_uda.networks.segmenter import Segmentation

PRIOR = torch.tensor([0.4, 0.1, 0.01, 0.001, 0.0001])
RULE: dict[str, float] = {"upper": 0.75, "lower": 0.2, "beta": 1e-3}


def f8() -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(0)
    p = (2 * torch.randn(2, 5, 6, 8, generator=drawn)).softmax(1)
    assert p[0, :, 0, 0].tolist() == pytest.approx([0.0037344, 0.0092358, 0.9543260, 0.0211151, 0.0115885], abs=1e-6)
    return p, torch.randn(2, 5, 6, 8, generator=drawn)


def test_check_3_f8_thresholds_labels_and_loss() -> None:
    p, logits = f8()
    assert prior_discount(PRIOR, 1e-3).tolist() == pytest.approx([1.0, 1.0, 1.0, 0.6321, 0.0952], abs=5e-5)
    found = class_thresholds(p, PRIOR, **RULE)
    assert found[0].tolist() == pytest.approx([0.7091001, 0.7427773, 0.7170915, 0.4449810, 0.2], abs=1e-6)
    assert found[1].tolist() == pytest.approx([0.5914198, 0.7142262, 0.7437938, 0.4722212, 0.2], abs=1e-6)
    labels, confidence = adaptive_labels(p, PRIOR, **RULE)
    counts = [[int((labels[row] == c).sum()) for c in (0, 1, 2, 3, 4, 255)] for row in range(2)]
    assert counts == [[4, 5, 3, 6, 12, 18], [2, 3, 4, 11, 9, 19]]
    loss = focal_confidence_loss(logits, labels, confidence, PRIOR, 3.0)
    assert loss.item() == pytest.approx(0.7757344841957092, abs=1e-6)


def test_check_4_loss_of_a_batch_is_the_mean_of_its_images() -> None:
    p, logits = f8()
    labels, confidence = adaptive_labels(p, PRIOR, **RULE)
    parts = [
        focal_confidence_loss(logits[i : i + 1], labels[i : i + 1], confidence[i : i + 1], PRIOR, 3.0) for i in (0, 1)
    ]
    whole = focal_confidence_loss(logits, labels, confidence, PRIOR, 3.0)
    assert whole.item() == pytest.approx(float(sum(parts)) / 2, abs=1e-6)


def test_check_1_views_have_exact_inverses() -> None:
    drawn = torch.Generator().manual_seed(0)
    for _ in range(100):
        view = random_view((32, 64), (0.5, 1.0), 0.0, True, drawn)
        assert (view.matrix @ view.inverse - torch.eye(3)).abs().max() < 1e-6
    for dy, dx, zoom, flip in ((0, 0, 1.0, 1), (3, -5, 0.7, 1), (-2, 4, 0.5, -1)):
        view = affine_view((32, 64), dy=dy, dx=dx, zoom=zoom, flip=flip)
        assert (view.matrix @ view.inverse - torch.eye(3)).abs().max() < 1.2e-7
    turned = affine_view((32, 64), dy=1, angle=30.0, zoom=0.6)
    assert (turned.matrix @ turned.inverse - torch.eye(3)).abs().max() < 1e-12


def test_a_view_stays_inside_its_frame() -> None:
    drawn = torch.Generator().manual_seed(1)
    for _ in range(50):
        view = random_view((30, 50), (0.3, 1.0), 0.0, True, drawn)
        corners = torch.tensor([[0.0, 0, 1], [50, 0, 1], [0, 30, 1], [50, 30, 1]], dtype=torch.float64) @ view.matrix.T
        assert corners[:, 0].min() >= -1e-6
        assert corners[:, 0].max() <= 50 + 1e-6
        assert corners[:, 1].min() >= -1e-6
        assert corners[:, 1].max() <= 30 + 1e-6


def test_warp_by_hand_and_what_lies_outside() -> None:
    x = torch.arange(4.0 * 6).view(1, 1, 4, 6)
    mirrored, valid = warp(x, affine_view((4, 6), flip=-1).matrix, (4, 6), (4, 6))
    torch.testing.assert_close(mirrored, x.flip(-1))
    assert valid.all()
    moved, valid = warp(x, affine_view((4, 6), dx=2.0, dy=1.0).matrix, (4, 6), (4, 6))
    torch.testing.assert_close(moved[..., :3, :4], x[..., 1:, 2:])
    assert valid.tolist() == [[True] * 4 + [False] * 2] * 3 + [[False] * 6]
    coarse, _ = warp(F.avg_pool2d(x, 2), affine_view((4, 6), dx=2.0).matrix, (4, 6), (4, 6))
    torch.testing.assert_close(coarse[..., :2], F.avg_pool2d(x, 2)[..., 1:])


def test_check_2_an_equivariant_teacher_is_fused_to_the_reference() -> None:
    """Left/right two-class map of logit 6, three views (F8): the fused labels are the reference on all pixels."""
    size = (32, 64)
    frame = torch.zeros(1, 2, *size)
    frame[:, 0, :, :32], frame[:, 1, :, 32:] = 6.0, 6.0
    views = [affine_view(size, dy=dy, dx=dx, zoom=zoom, flip=flip)
             for dy, dx, zoom, flip in ((0, 0, 1.0, 1), (3, -5, 0.7, 1), (-2, 4, 0.5, -1))]  # fmt: skip
    answers = [Segmentation(warp(frame, view.matrix, size, size)[0], (), size, size) for view in views]
    fused = fused_on_the_frame(answers, views)
    assert torch.equal(fused.argmax(1), frame.argmax(1))
    torch.testing.assert_close(fused.sum(1), torch.ones(1, *size))
    outside = fused_on_the_frame(answers[1:2], views[1:2])
    reached = warp(frame, views[1].inverse, size, size)[1]
    assert (outside.sum(1)[0] == 0).equal(~reached)
    assert torch.equal(outside.argmax(1)[0][reached], frame.argmax(1)[0][reached])


FUSED: dict[str, Any] = {
    "scope": {"parameters": "all"},
    "optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.0},
    "teacher": {"cap": 0.9, "warm_up": False, "follows": "after"},
    "objectives": {"fused": {"views": 1, "upper": 0.5, "jitter_strength": 0.0, "blur_probability": 0.0, "rate": 0.3,
                             "beta": 0.05}},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_da_sac_by_hand(kind: str) -> None:
    """One view, nothing recoloured: two steps in float64; shares of classes are the first frame's, then mixed."""
    recipe = make_recipe(settings_of(FUSED), trained(kind).double())
    student, teacher = trained(kind).double().requires_grad_(True), trained(kind).double()
    student.light_head.requires_grad_(False)
    names = [name for name, parameter in student.named_parameters() if parameter.requires_grad]
    prior = None
    for seed in (50, 51):
        x = next(stream(1, seed=seed)).double()
        with torch.no_grad():
            p = teacher(x).logits.softmax(1)
            share = p.mean((0, 2, 3))
            prior = share if prior is None else 0.7 * prior + 0.3 * share
            confidence, label = p.max(1)
            limit = torch.maximum(torch.tensor(0.2), 0.5 * p.amax((2, 3))[0] * (1 - (-prior / 0.05).exp()))
            label = torch.where(confidence > limit[label], label, 255)
        each = F.cross_entropy(student(x).logits, label, weight=(1 - prior) ** 3, ignore_index=255, reduction="none")
        loss = (each * confidence).mean()
        gradients = torch.autograd.grad(5.0 * loss, [student.get_parameter(name) for name in names])
        report = recipe.observe(x, recipe.predict(x))
        assert report.losses["fused"] == pytest.approx(loss.item(), abs=1e-9)
        with torch.no_grad():
            for name, gradient in zip(names, gradients, strict=True):
                own = student.get_parameter(name)
                own -= 0.05 * gradient
                teacher.get_parameter(name).copy_(0.9 * teacher.get_parameter(name) + 0.1 * own)
    for name in names:
        torch.testing.assert_close(recipe.student.get_parameter(name), student.get_parameter(name), atol=1e-6, rtol=0.0)


def test_check_5_the_cost_is_counted() -> None:
    for views in (1, 2, 4):
        data = copy.deepcopy(FUSED)
        data["objectives"]["fused"]["views"] = views
        assert cost_of(settings_of(data)).forwards == views + 1


def test_a_slow_teacher_moves_at_every_third_step() -> None:
    recipe = make_recipe(settings_of(FUSED, teacher__every=3, teacher__cap=0.0), trained("batchnorm"))
    assert recipe.teacher is not None
    moved, before = [], recipe.teacher.module.state_dict()["stages.0.0.weight"].clone()
    for frame in stream(7):
        play(recipe, iter([frame]))
        now = recipe.teacher.module.state_dict()["stages.0.0.weight"].clone()
        moved.append(not torch.equal(now, before))
        before = now
    assert moved == [True, False, False, True, False, False, True]


@pytest.mark.parametrize("size", [(64, 128), (70, 101)])
def test_a_strong_view_and_its_labels_show_the_same_places(size: tuple[int, int]) -> None:
    """A map that says where a pixel stands: at each place of the view it is the place that the image comes from."""
    y, x = torch.meshgrid(torch.linspace(0, 1, size[0]), torch.linspace(0, 1, size[1]), indexing="ij")
    frame = torch.stack([y, x, torch.full_like(x, 0.5)])[None]
    slot = StrongSettings(jitter_strength=0.0, blur_probability=0.0, cutout=0.0, angle=20.0)
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        view = StrongViews(slot, torch.zeros(1, 3, 1, 1)).draw(frame, generator)
        places, valid = view.replay(frame[:, :2], size)
        assert valid.float().mean() > 0.5
        torch.testing.assert_close(places[..., valid], view.images[:, :2][..., valid], atol=1e-5, rtol=0.0)


def test_a_hole_is_cut() -> None:
    frame = torch.rand(1, 3, 60, 90)
    slot = StrongSettings(zoom=(1.0, 1.0), angle=0.0, flip=False, jitter_strength=0.0, blur_probability=0.0, cutout=0.5)
    view = StrongViews(slot, torch.full((1, 3, 1, 1), -1.0)).draw(frame, torch.Generator().manual_seed(0))
    hole = (view.images == -1.0).all(1)[0]
    assert hole.sum() == 30 * 45
    torch.testing.assert_close(view.images[0][:, ~hole], frame[0][:, ~hole], atol=1e-5, rtol=0.0)


def test_divergence_is_that_of_two_distributions() -> None:
    q, logits = torch.rand(1, 4, 2, 3).softmax(1).double(), torch.rand(1, 4, 2, 3).double()
    expected = F.kl_div(logits.log_softmax(1), q, reduction="none").sum(1).mean()
    torch.testing.assert_close(divergence(q, logits.log_softmax(1)), expected)
    q[:, 0], logits[:, 0] = 0.0, -torch.inf
    assert divergence(q, logits.log_softmax(1)).isfinite()


def test_consistency_is_added_and_reaches_the_encoder() -> None:
    data: dict[str, Any] = {**FUSED, "objectives": {"prototype": {
        "prior": "static", "cross_entropy": 0.0, "reverse": 0.0, "regular": 0.0, "consistency": 10.0, "frames": 4,
        "strong": {}}}}  # fmt: skip
    from test_domain_alignment import recipe_of

    recipe = recipe_of(data["objectives"], teacher=FUSED["teacher"], replay=None)
    before = recipe.student.state_dict()["stages.0.0.weight"].clone()
    report = play(recipe, stream(1))[0]
    assert report.losses["prototype"] > 0.0
    assert not torch.equal(before, recipe.student.state_dict()["stages.0.0.weight"])


def test_check_3_of_proda_denoising_finds_flipped_labels() -> None:
    """Gaussian features, 30 % of the labels flipped: prototype weights raise their accuracy by more than 15 points."""
    from online_uda.adaptation.prototypes import class_means, prototype_distances, prototype_weights

    drawn = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 4, (1, 40, 40), generator=drawn)
    centres = 3.0 * torch.randn(4, 8, generator=drawn)
    features = (centres[truth] + torch.randn(1, 40, 40, 8, generator=drawn)).movedim(-1, 1)
    flip = torch.rand(1, 40, 40, generator=drawn) < 0.3
    noisy = torch.where(flip, (truth + torch.randint(1, 4, truth.shape, generator=drawn)) % 4, truth)
    prior = F.one_hot(noisy, 4).movedim(-1, 1).float() * 0.6 + 0.1
    means, _ = class_means(features, noisy, 4)
    found = (prototype_weights(prototype_distances(features, means), 1.0) * prior).argmax(1)
    before, after = (noisy == truth).float().mean(), (found == truth).float().mean()
    assert after > before + 0.15
