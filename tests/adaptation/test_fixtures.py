"""Fixtures of specs/seed-systems.md 11, rebuilt from their seeds: F5, F6, F10, F12 (others have files of their own)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from online_uda.adaptation.discriminators import Discriminator, of_answers, self_information
from online_uda.adaptation.gradient_reversal import reversal_strength, reverse_gradient
from online_uda.adaptation.objectives.entropy import entropy_loss
from online_uda.adaptation.objectives.kernel_distance import drawn_cells, kernel_distance
from online_uda.adaptation.objectives.pixel_contrast import cell_labels, pixel_contrast
from online_uda.adaptation.objectives.whitening import (
    all_pairs,
    channel_covariance,
    sensitive_pairs,
    sensitivity,
    whitening_loss,
)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# F5: MMD


def test_f5_kernel_distance_and_its_gradient() -> None:
    drawn = generator(1)
    x, y = torch.randn(6, 8, generator=drawn), torch.randn(6, 8, generator=drawn) + 0.7
    assert x[0, :3].tolist() == pytest.approx([-1.525596, -0.750232, -0.653981], abs=1e-6)
    x.requires_grad_(True)
    found = kernel_distance(x, y)
    found.backward()
    assert found.item() == pytest.approx(1.3224220275878906, abs=1e-6)
    assert x.grad is not None
    assert x.grad.norm().item() == pytest.approx(0.29388800263404846, abs=1e-6)
    assert kernel_distance(y, y).item() == 0.0
    with pytest.raises(ValueError, match="same number"):
        kernel_distance(x, y[:4])


def test_drawn_cells_are_cells() -> None:
    features = torch.arange(2 * 3 * 4 * 5).float().view(2, 3, 4, 5)
    every = drawn_cells(features, 99, generator(0))
    assert torch.equal(every[7], features[0, :, 1, 2])
    some = drawn_cells(features, 6, generator(0))
    assert len(some) == 6
    assert all((every == row).all(1).any() for row in some)


# F6: instance whitening


def whitened() -> tuple[Tensor, torch.Generator]:
    drawn = generator(0)
    x = torch.randn(2, 8, 16, 16, generator=drawn)
    assert x.flatten()[:2].tolist() == pytest.approx([-1.1258398, -1.1523602], abs=1e-6)
    x[:, 1] = 0.9 * x[:, 0] + 0.1 * x[:, 1]
    return 3 * x + 5, drawn


def test_f6_covariance_mask_and_losses() -> None:
    x, drawn = whitened()
    covariance = channel_covariance(x)
    assert covariance[0, 0, 1].item() == pytest.approx(0.9956413507461548, abs=1e-6)
    assert covariance[0, 0, 0].item() == pytest.approx(1.0039303302764893, abs=1e-6)
    pairs = []
    for trial in range(10):
        one = torch.randn(1, 8, 16, 16, generator=drawn)
        two = one.clone()
        if trial % 2:
            two[:, 2] = two[:, 3]
        pairs.append((one, two))
    variance = sensitivity(pairs)
    assert variance[2, 3].item() == pytest.approx(0.2442144, abs=1e-6)
    assert variance.flatten().sort().values[-2].item() == pytest.approx(0.0051991, abs=1e-6)
    mask = sensitive_pairs([variance], 3)
    assert mask.nonzero().tolist() == [[0, 2], [1, 2], [2, 3], [2, 6], [2, 7]]
    assert mask.sum() / all_pairs(8).sum() < 0.25
    assert whitening_loss(x, mask).item() == pytest.approx(0.02522701397538185, abs=1e-6)
    assert whitening_loss(x, all_pairs(8)).item() == pytest.approx(0.08373482525348663, abs=1e-6)


def test_a_mask_is_what_all_trials_share_and_a_margin_is_free() -> None:
    x, _ = whitened()
    one, two = torch.zeros(4, 4), torch.zeros(4, 4)
    one[0, 1], one[0, 2], two[0, 1], two[1, 3] = 1.0, 1.1, 1.0, 1.1
    assert sensitive_pairs([one, two], 2).nonzero().tolist() == [[0, 1]]
    full = whitening_loss(x, all_pairs(8))
    each = (channel_covariance(x).abs() * all_pairs(8)).sum((1, 2)) / 28
    expected = (each - 0.08).clamp(min=0.0).mean()
    torch.testing.assert_close(whitening_loss(x, all_pairs(8), 0.08), expected)
    assert 0.0 < expected < full
    assert whitening_loss(x, torch.zeros(8, 8, dtype=torch.bool)).item() == 0.0


def test_check_3_masked_covariances_go_and_the_others_stay() -> None:
    """200 steps on a linear adapter: masked |covariance| -80 %, that of the other pairs +-10 %."""
    cells = torch.randn(256, 8, generator=generator(3)).double()
    x = torch.linalg.qr(cells - cells.mean(0))[0].T.reshape(1, 8, 16, 16)  # exactly uncorrelated channels
    x[:, 1::2] = 0.6 * x[:, ::2] + 0.8 * x[:, 1::2]
    adapter = torch.eye(8, dtype=torch.float64, requires_grad=True)
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[0, 1] = True

    def sizes() -> tuple[float, float]:
        found = channel_covariance(torch.einsum("dc,bchw->bdhw", adapter, x)).abs()
        return (found * mask).sum().item(), (found * (all_pairs(8) & ~mask)).sum().item()

    before = sizes()
    optimizer = torch.optim.SGD([adapter], 0.01)
    for _ in range(200):
        optimizer.zero_grad()
        whitening_loss(torch.einsum("dc,bchw->bdhw", adapter, x), mask).backward()
        optimizer.step()
    after = sizes()
    assert after[0] < 0.2 * before[0]
    assert abs(after[1] / before[1] - 1.0) < 0.1


# F10: pixel contrast


def test_f10_pixel_contrast() -> None:
    drawn = generator(0)
    f, labels = torch.randn(1, 8, 5, 5, generator=drawn), torch.randint(0, 4, (1, 5, 5), generator=drawn)
    assert labels.flatten().tolist()[:8] == [0, 3, 0, 1, 2, 0, 0, 3]
    assert pixel_contrast(f, labels).item() == pytest.approx(2.914356, abs=1e-6)
    f, labels = torch.randn(2, 8, 5, 5, generator=drawn), torch.randint(0, 4, (2, 5, 5), generator=drawn)
    assert f.flatten()[:3].tolist() == pytest.approx([-1.7556711, 0.0761661, -1.0786034], abs=1e-6)
    assert labels[1].flatten().tolist()[:8] == [3, 3, 3, 0, 1, 3, 3, 2]
    whole = pixel_contrast(f, labels).item()
    assert whole == pytest.approx(3.662396, abs=1e-6)
    assert pixel_contrast(f.flip(0), labels.flip(0)).item() == pytest.approx(whole, abs=1e-6)
    assert abs(pixel_contrast(f, labels, exclude=(2, 3)).item() - whole) > 0.1
    assert abs(pixel_contrast(f, labels, 0.5).item() - whole) > 0.1


def test_contrast_by_hand_with_weights() -> None:
    f, labels = torch.randn(1, 4, 2, 3, generator=generator(5)).double(), torch.tensor([[[0, 0, 1], [1, 255, 0]]])
    w = torch.rand(1, 2, 3, generator=generator(6)).double()
    cells = [
        (f[0, :, i, j] / f[0, :, i, j].norm(), int(labels[0, i, j]), w[0, i, j]) for i in range(2) for j in range(3)
    ]
    cells = [cell for cell in cells if cell[1] != 255]
    anchors = []
    for a, (za, ya, wa) in enumerate(cells):
        negatives = sum((za @ zb / 0.7).exp() for zb, yb, _ in cells if yb != ya)
        terms = [
            -wa * wb * (za @ zb / 0.7 - ((za @ zb / 0.7).exp() + negatives).log())
            for b, (zb, yb, wb) in enumerate(cells)
            if yb == ya and b != a
        ]
        anchors.append(sum(terms) / len(terms))
    assert pixel_contrast(f, labels, 0.7, w).item() == pytest.approx(float(sum(anchors) / len(anchors)), abs=1e-9)
    assert pixel_contrast(f, torch.full_like(labels, 255)).item() == 0.0


def test_a_cell_has_the_class_that_fills_it() -> None:
    labels = torch.full((1, 8, 8), 255)
    labels[0, :4, :4], labels[0, :4, 4:6], labels[0, 4:, :3] = 1, 2, 3
    assert cell_labels(labels, (2, 2), 4).tolist() == [[[1, 255], [3, 255]]]
    assert cell_labels(labels, (2, 2), 4, 0.8).tolist() == [[[1, 255], [255, 255]]]


# F9: entropies; F12: gradient reversal; F10: discriminators


def test_f9_entropy_and_self_information() -> None:
    drawn = generator(0)
    torch.rand(1, 3, 24, 32, generator=drawn)
    logits = torch.randn(2, 7, 5, 6, generator=drawn)
    assert entropy_loss(logits, normalised=True).item() == pytest.approx(0.8237211108207703, abs=1e-6)
    assert self_information(logits.softmax(1)).sum(1).mean().item() == pytest.approx(0.8237211108207703, abs=1e-6)


def test_f12_reversal_and_its_schedule() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    upstream = torch.randn(4, 3)
    y = reverse_gradient(x, 0.3)
    assert torch.equal(y, x)
    y.backward(upstream)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, -0.3 * upstream, atol=1e-7, rtol=0.0)
    assert not reverse_gradient(x, 0.0).requires_grad
    found = [reversal_strength(p, 1.0) for p in (0.0, 0.1, 0.25, 0.5, 1.0)]
    assert found == pytest.approx([0.0, 0.4621, 0.8483, 0.9866, 0.9999], abs=5e-5)
    assert reversal_strength(0.5, -0.2) == pytest.approx(-0.2 * math.tanh(2.5), abs=1e-12)


ENCODER = [
    [-0.376936, -0.440989, 0.241314, -0.184030, 0.393677],
    [0.321511, -0.397907, -0.384761, -0.309461, -0.324640],
    [0.377434, -0.047647, 0.316928, 0.001739, 0.161735],
]
CODE = [
    [-0.429703, -0.044160, -0.414710, 1.766883, -1.041026],
    [0.815211, -0.950603, -1.788808, 0.015782, -3.181050],
    [0.204156, -1.390534, 0.320701, -0.992322, 1.260257],
    [1.318399, -0.676839, -0.778287, 1.105634, 0.882676],
    [-0.804156, -0.727740, 0.395248, 0.570903, 0.111232],
    [-0.463981, -2.107298, 0.728994, -0.305758, -0.069877],
]


@pytest.mark.parametrize(
    ("weight", "strength", "of_encoder", "of_discriminator"),
    [(0.1, 1.0, 0.042105, 0.065587), (1.0, 0.1, 0.042105, 0.655868), (1.0, 1.0, 0.421053, 0.655868)],
)
def test_f12_weight_and_reversal_are_two_things(
    weight: float, strength: float, of_encoder: float, of_discriminator: float
) -> None:
    encoder = torch.tensor(ENCODER, requires_grad=True)
    judge = torch.tensor([[0.531020, -0.530903, -0.326289], [0.112152, -0.105070, 0.058706]], requires_grad=True)
    codes = torch.tensor(CODE) @ encoder.T + torch.tensor([-0.335309, -0.409929, 0.419059])
    verdicts = reverse_gradient(codes, strength) @ judge.T + torch.tensor([-0.387204, -0.421972])
    loss = torch.nn.functional.cross_entropy(verdicts, torch.tensor([0, 0, 0, 1, 1, 1]))
    assert loss.item() == pytest.approx(0.871043, abs=1e-5)
    (weight * loss).backward()
    assert encoder.grad is not None
    assert judge.grad is not None
    assert encoder.grad.norm().item() == pytest.approx(of_encoder, rel=1e-4)
    assert judge.grad.norm().item() == pytest.approx(of_discriminator, rel=1e-4)


def test_f10_discriminator_of_answers() -> None:
    judge = of_answers(19, 64)
    assert sum(parameter.numel() for parameter in judge.parameters()) == 2_781_121
    assert judge(torch.zeros(1, 19, 512, 512)).shape == (1, 1, 16, 16)
    assert isinstance(Discriminator("output", [8], 19, 64).parts[0], torch.nn.Sequential)
