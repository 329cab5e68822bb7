"""ClassMix (specs/hamlet.md 2.6, 4.2; section 9, check 11)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from online_uda.adaptation.mixing import classmix_mask, mix, num_pasted_classes
from online_uda.adaptation.pseudo_labels.confident_share import confident_share_labels


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pasted(labels: torch.Tensor, mask: torch.Tensor) -> list[set[int]]:
    """Classes under the mask of each image; fails if a class is pasted in part."""
    result = []
    for label, inside in zip(labels, mask, strict=True):
        shown, hidden = set(label[inside].tolist()), set(label[~inside].tolist())
        assert not shown & hidden
        result.append(shown)
    return result


def seven_classes(batch: int = 1) -> torch.Tensor:
    return torch.randint(0, 7, (batch, 12, 16), generator=rng(5))


@pytest.mark.parametrize(("mix_ratio", "count"), [(0.5, 4), (0.75, 2), (0.0, 7), (1.0, 0), (0.571429, 3)])
def test_check_11_number_of_pasted_classes(mix_ratio: float, count: int) -> None:
    labels = seven_classes()
    for seed in range(10):
        assert len(pasted(labels, classmix_mask(labels, mix_ratio, rng(seed)))[0]) == count
    assert num_pasted_classes(7, mix_ratio) == count


def test_rounding_survives_floating_point() -> None:
    """1 - 0.9 is a little less than 0.1, and a tenth of ten classes is one class all the same."""
    assert num_pasted_classes(10, 0.9) == 1
    assert num_pasted_classes(1, 0.5) == 1
    assert num_pasted_classes(0, 0.5) == 0


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 20), st.floats(0.0, 1.0))
def test_number_of_pasted_classes_is_possible_and_monotone(present: int, mix_ratio: float) -> None:
    count = num_pasted_classes(present, mix_ratio)
    assert 0 <= count <= present
    assert num_pasted_classes(present, min(1.0, mix_ratio + 0.1)) <= count
    assert num_pasted_classes(present + 2, mix_ratio) >= count


def test_check_11_image_label_and_weight_agree_with_the_mask() -> None:
    labels = seven_classes(2)
    mask = classmix_mask(labels, 0.5, rng())
    source, target = torch.rand(2, 3, 12, 16), torch.rand(2, 3, 12, 16)
    pseudo = torch.randint(0, 7, (2, 12, 16))
    weights = torch.rand(2, 12, 16) * 0.5
    mixed = mix(mask, source, labels, target, pseudo, weights)
    assert mask.any()
    assert not mask.all()
    for b in range(2):
        for y in range(12):
            for x in range(16):
                inside = bool(mask[b, y, x])
                assert torch.equal(mixed.images[b, :, y, x], (source if inside else target)[b, :, y, x])
                assert mixed.labels[b, y, x] == (labels if inside else pseudo)[b, y, x]
                assert mixed.weights[b, y, x] == (1.0 if inside else weights[b, y, x])


def test_check_11_class_list_per_image() -> None:
    """Two images without a common class: half of each one's own classes is pasted, not half of the union."""
    labels = torch.stack([torch.arange(4).repeat(3, 1), torch.arange(10, 14).repeat(3, 1)])
    for seed in range(10):
        one, two = pasted(labels, classmix_mask(labels, 0.5, rng(seed)))
        assert len(one) == len(two) == 2
        assert one <= {0, 1, 2, 3}
        assert two <= {10, 11, 12, 13}


def test_check_11_policy_of_255() -> None:
    labels = torch.tensor([[[0, 1, 2, 255]]])
    counted = [pasted(labels, classmix_mask(labels, 0.5, rng(seed)))[0] for seed in range(40)]
    assert all(len(classes) == 2 for classes in counted)
    assert any(255 in classes for classes in counted)
    left_out = [pasted(labels, classmix_mask(labels, 0.5, rng(seed), paste_ignored=False))[0] for seed in range(40)]
    assert all(len(classes) == 2 and 255 not in classes for classes in left_out)
    assert len({frozenset(classes) for classes in left_out}) == 3
    nothing = torch.full((1, 2, 2), 255)
    assert not classmix_mask(nothing, 0.5, rng(), paste_ignored=False).any()


def test_every_class_is_drawn_equally_often() -> None:
    labels = torch.arange(6).view(1, 1, 6)
    generator = rng()
    total = torch.zeros(6)
    for _ in range(1000):
        total += classmix_mask(labels, 0.5, generator)[0, 0]
    assert total.sum() == 3000
    assert (total - 500).abs().max() < 4 * (1000 * 0.25) ** 0.5


def test_one_generator_an_image() -> None:
    labels = seven_classes(2)
    both = classmix_mask(labels, 0.5, [rng(1), rng(2)])
    assert torch.equal(both[0], classmix_mask(labels[:1], 0.5, rng(1))[0])
    assert torch.equal(both[1], classmix_mask(labels[1:], 0.5, rng(2))[0])
    with pytest.raises(ValueError, match="expected 2 generators"):
        classmix_mask(labels, 0.5, [rng(1)])


def test_check_12_weights_after_mixing() -> None:
    """Ignored rows have weight 0 on target pixels and 1 where the source is pasted over them."""
    labels = seven_classes()
    logits = torch.randn(1, 7, 12, 16) * 9
    pseudo = confident_share_labels(logits, ignore_top=0.25, ignore_bottom=0.25)
    mask = classmix_mask(labels, 0.5, rng())
    frames = torch.rand(1, 3, 12, 16)
    weights = mix(mask, frames, labels, frames, pseudo.labels, pseudo.weights).weights
    edge = torch.zeros(1, 12, 16, dtype=torch.bool)
    edge[:, :3] = edge[:, 9:] = True
    assert 0.0 < pseudo.confident_share < 1.0
    assert (weights[mask] == 1.0).all()
    assert (weights[~mask & edge] == 0.0).all()
    assert (weights[~mask & ~edge] == pseudo.confident_share).all()


def test_sizes_must_agree() -> None:
    small, large = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 8, 8)
    label = torch.zeros(1, 4, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="one size"):
        mix(label.bool(), small, label, large, label, label.float())
