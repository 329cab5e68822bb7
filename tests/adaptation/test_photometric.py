"""Colour jitter and blur against torchvision with the same parameters (specs/hamlet.md 2.6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision.transforms.v2.functional as reference
from torch import Tensor

from online_uda.adaptation import photometric
from online_uda.adaptation.photometric import PhotometricAugmentation, PhotometricDraw, apply_draw
from online_uda.errors import UserError


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(height: int = 40, width: int = 56) -> Tensor:
    image = torch.rand(3, height, width, generator=rng())
    image[:, :4] = image[:1, :4]  # grey: no hue
    image[:, 4] = 0.0
    image[:, 5] = 1.0
    image[0, 6], image[1:, 6] = 1.0, 0.0  # pure colours: two channels tie
    image[:2, 7], image[2, 7] = 1.0, 0.0
    return image


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (photometric.adjust_brightness, reference.adjust_brightness),
        (photometric.adjust_contrast, reference.adjust_contrast),
        (photometric.adjust_saturation, reference.adjust_saturation),
    ],
)
@pytest.mark.parametrize("factor", [0.0, 0.8, 1.0, 1.2, 1.7])
def test_factors_match_torchvision(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], factor: float) -> None:
    image = picture()
    torch.testing.assert_close(ours(image, factor), theirs(image, factor), atol=2e-6, rtol=0)


@pytest.mark.parametrize("turn", [-0.5, -0.2, -0.03, 0.0, 0.11, 0.2, 0.5])
def test_hue_matches_torchvision(turn: float) -> None:
    image = picture()
    torch.testing.assert_close(
        photometric.adjust_hue(image, turn), reference.adjust_hue(image, turn), atol=5e-6, rtol=0
    )


@pytest.mark.parametrize("sigma", [0.15, 0.5, 1.15, 3.0])
@pytest.mark.parametrize("size", [(40, 56), (128, 90)])
def test_blur_matches_torchvision_with_the_full_kernel(sigma: float, size: tuple[int, int]) -> None:
    image = picture(*size)
    kernel = [photometric.blur_kernel_size(size[1]), photometric.blur_kernel_size(size[0])]
    expected = reference.gaussian_blur(image, kernel_size=kernel, sigma=[sigma, sigma])
    torch.testing.assert_close(photometric.gaussian_blur(image, sigma), expected, atol=2e-6, rtol=0)


def test_kernel_is_a_tenth_of_the_side_and_odd() -> None:
    assert [photometric.blur_kernel_size(side) for side in (512, 256, 1024, 360, 30, 8)] == [51, 25, 103, 35, 3, 1]
    image = picture(8, 8)
    assert torch.equal(photometric.gaussian_blur(image, 1.0), image)


def test_draw_is_applied_in_its_order() -> None:
    image = picture()
    draw = PhotometricDraw(adjustments=((1, 1.2), (3, 0.1), (0, 0.8), (2, 1.1)), blur_sigma=0.9)
    expected = reference.adjust_contrast(image, 1.2)
    expected = reference.adjust_saturation(reference.adjust_brightness(reference.adjust_hue(expected, 0.1), 0.8), 1.1)
    expected = reference.gaussian_blur(expected, kernel_size=[5, 3], sigma=[0.9, 0.9])
    before = image.clone()
    torch.testing.assert_close(apply_draw(image, draw), expected, atol=2e-5, rtol=0)
    assert torch.equal(image, before)


def test_frequencies_and_ranges_of_the_draws() -> None:
    generator = rng()
    augmentation = PhotometricAugmentation()
    draws = [augmentation.draw(generator) for _ in range(4000)]
    jittered = [dict(draw.adjustments) for draw in draws if draw.adjustments]
    sigmas = [draw.blur_sigma for draw in draws if draw.blur_sigma is not None]
    assert len(jittered) == pytest.approx(3200, abs=4 * (4000 * 0.16) ** 0.5)
    assert len(sigmas) == pytest.approx(2000, abs=4 * (4000 * 0.25) ** 0.5)
    assert all(0.15 <= sigma <= 1.15 for sigma in sigmas)
    assert max(sigmas) > 1.14
    assert min(sigmas) < 0.16
    for which, low, high in [(0, 0.8, 1.2), (1, 0.8, 1.2), (2, 0.8, 1.2), (3, -0.2, 0.2)]:
        amounts = [draw[which] for draw in jittered]
        assert low <= min(amounts) < low + 0.01
        assert high - 0.01 < max(amounts) <= high
    assert len({tuple(which for which, _ in draw.adjustments) for draw in draws if draw.adjustments}) == 24


def test_settings_reach_the_draw() -> None:
    off = PhotometricAugmentation(jitter_probability=0.0, blur_probability=0.0)
    assert all(off.draw(rng(seed)) == PhotometricDraw((), None) for seed in range(20))
    on = PhotometricAugmentation(
        brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, jitter_probability=1.0, blur_probability=1.0,
        blur_sigma=(0.7, 0.7),
    )  # fmt: skip
    for seed in range(20):
        draw = on.draw(rng(seed))
        assert dict(draw.adjustments) == {0: 1.0, 1: 1.0, 2: 1.0, 3: 0.0}
        assert draw.blur_sigma == pytest.approx(0.7)
    wide = PhotometricAugmentation(brightness=1.0, contrast=0.9, saturation=0.8, hue=0.5, jitter_probability=1.0)
    amounts = [dict(wide.draw(rng(seed)).adjustments) for seed in range(300)]
    for which, spread, centre in [(0, 1.0, 1.0), (1, 0.9, 1.0), (2, 0.8, 1.0), (3, 0.5, 0.0)]:
        assert max(abs(amount[which] - centre) for amount in amounts) == pytest.approx(spread, rel=0.05)


def test_every_image_has_its_own_draw_and_the_run_repeats() -> None:
    frames = picture().expand(3, -1, -1, -1)
    augmentation = PhotometricAugmentation(jitter_probability=1.0)
    batch = augmentation(frames, rng(3))
    assert not torch.equal(batch[0], batch[1])
    assert not torch.equal(batch[1], batch[2])
    assert batch.min() >= 0.0
    assert batch.max() <= 1.0
    generator = rng(3)
    one_by_one = torch.cat([augmentation(frame.unsqueeze(0), generator) for frame in frames])
    assert torch.equal(batch, one_by_one)
    own = augmentation(frames, [rng(3), rng(3), rng(4)])
    assert torch.equal(own[0], own[1])
    assert not torch.equal(own[0], own[2])


def test_draws_stay_aligned_whether_or_not_an_effect_is_applied() -> None:
    states = []
    for probability in (0.0, 1.0):
        generator = rng(1)
        PhotometricAugmentation(jitter_probability=probability, blur_probability=probability).draw(generator)
        states.append(generator.get_state())
    assert torch.equal(*states)


@pytest.mark.parametrize(
    "bad", [{"brightness": 1.5}, {"hue": 0.6}, {"blur_probability": -0.1}, {"blur_sigma": (0.0, 1.0)}]
)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(bad))):
        PhotometricAugmentation(**bad)
