"""Target-styled replay: moments move as told, content stays, thin things travel and wide ones do not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from online_uda.adaptation.replay.style import Moments, TargetStyle, fine_detail, lab_moments, transfer_moments


def scene(seed: int, size: tuple[int, int] = (72, 96), low: int = 90, high: int = 170) -> NDArray[np.uint8]:
    """Smooth mid-grey colours: nothing clips under mild transforms."""
    coarse = np.random.default_rng(seed).integers(low, high, (6, 8, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_LINEAR), np.uint8)


def to_uint8(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.round(image * 255).astype(np.uint8)


def style_of(images: list[NDArray[np.uint8]], **options: float) -> TargetStyle:
    given: dict[str, float] = {"grid": 1, "half_life_frames": 4.0, "detail": 0.0, **options}
    return TargetStyle(np.stack(images), **given)  # type: ignore[arg-type]


def draw(style: TargetStyle, image: NDArray[np.uint8], frame: NDArray[np.uint8], seed: int = 0) -> NDArray[np.float32]:
    return style.dress(image, frame, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("grid", [1, 3])
@given(seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_equal_moments_are_the_identity(grid: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    moments = lab_moments(image, grid)
    same = transfer_moments(image, moments, moments)
    # OpenCV's own way to Lab and back is off by up to 1.3 / 255 at saturated colours.
    assert np.abs(to_uint8(same).astype(int) - image).max() <= 1
    assert np.abs(same - image / 255.0).mean() <= 0.3 / 255.0


@pytest.mark.parametrize("seed", range(4))
def test_transferred_image_has_the_targets_moments(seed: int) -> None:
    image, other = scene(seed), scene(seed + 100, low=110, high=160)
    target = lab_moments(other, 1)
    moved = transfer_moments(image, lab_moments(image, 1), target)
    found = lab_moments(to_uint8(moved), 1)
    np.testing.assert_allclose(found.mean, target.mean, atol=0.15)
    np.testing.assert_allclose(np.sqrt(found.variance), np.sqrt(target.variance), atol=0.3)


def test_moments_against_numpy() -> None:
    """Mean and mean square of each cell of a 2 x 2 partition, in OpenCV's Lab of the float image."""
    image = scene(1, (8, 12))
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    moments = lab_moments(image, 2)
    for row in range(2):
        for column in range(2):
            cell = lab[4 * row : 4 * row + 4, 6 * column : 6 * column + 6].reshape(-1, 3)
            np.testing.assert_allclose(moments.mean[row, column], cell.mean(0), atol=1e-3)
            np.testing.assert_allclose(moments.square[row, column], (cell**2).mean(0), rtol=1e-4, atol=1e-3)


def test_gain_is_bounded() -> None:
    """A flat source must not be blown up by the contrast of the stream."""
    flat = np.full((16, 16, 3), 120, np.uint8)
    flat[::4] = 121
    busy = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    moved = cv2.cvtColor(transfer_moments(flat, lab_moments(flat, 1), lab_moments(busy, 1)), cv2.COLOR_RGB2LAB)
    before = cv2.cvtColor(flat.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    assert np.ptp(moved[..., 0]) <= 3.05 * np.ptp(before[..., 0])


def test_a_grid_follows_what_a_global_transform_cannot() -> None:
    """Fog that lies on the upper half: a grid darkens and brightens where it should."""
    source = scene(2)
    target = source.astype(np.float32)
    target[:36] = 0.3 * target[:36] + 0.7 * 210
    frame = np.round(target).astype(np.uint8)
    errors = {}
    for grid in (1, 4):
        moved = transfer_moments(source, lab_moments(source, grid), lab_moments(frame, grid))
        errors[grid] = np.abs(moved * 255 - target).mean()
    assert errors[4] < 0.6 * errors[1]


def test_detail_of_a_constant_image_is_zero() -> None:
    assert not fine_detail(np.full((64, 64, 3), 93, np.uint8)).any()


def test_streaks_are_detail_and_a_wide_box_is_not() -> None:
    image = np.full((360, 320, 3), 100, np.uint8)
    image[40:200, 60:62] = 180
    image[220:320, 150:260] = 180
    detail = fine_detail(image)
    assert np.allclose(detail[60:180, 60:62], 80 / 255)
    inside_box = detail[230:310, 160:250]
    assert not inside_box.any()
    assert detail.min() > -80 / 255 - 1e-6


def test_detail_is_added_times_its_factor_shifted_and_flipped() -> None:
    """With source and stream alike in colour, what is added is the detail, rolled along the rows."""
    image = np.full((64, 48, 3), 120, np.uint8)
    frame = image.copy()
    frame[:, 10] = 160
    added = []
    for factor in (0.5, 1.0):
        style = style_of([image], detail=factor)
        style.target = style.source
        added.append(draw(style, image, frame, seed=3) - image / 255.0)
    assert np.abs(added[1]).max() == pytest.approx(40 / 255, abs=2e-3)
    np.testing.assert_allclose(added[0], 0.5 * added[1], atol=1e-3)
    columns = [int(np.abs(draw(style, image, frame, seed) - image / 255.0).max((0, 2)).argmax()) for seed in range(8)]
    assert len(set(columns)) > 3


def test_detail_of_a_frame_of_another_size_is_resized() -> None:
    image, frame = scene(0, (64, 96)), scene(1, (128, 160))
    frame[:, ::16] = 255
    plain, detailed = style_of([image]), style_of([image], detail=1.0)
    for style in (plain, detailed):
        style.observe(frame)
    assert draw(detailed, image, frame).shape == image.shape
    assert np.abs(draw(detailed, image, frame) - draw(plain, image, frame)).max() > 0.05


def test_the_source_look_is_the_mean_over_the_buffer() -> None:
    images = [scene(0), scene(1), scene(2)]
    style = style_of(images)
    each = [lab_moments(image, 1) for image in images]
    np.testing.assert_allclose(style.source.mean, np.mean([m.mean for m in each], axis=0), rtol=1e-6)
    np.testing.assert_allclose(style.source.square, np.mean([m.square for m in each], axis=0), rtol=1e-6)


def test_target_is_a_plain_mean_first_and_then_forgets_by_its_half_life() -> None:
    """``1 - 0.5 ** (1 / half_life)`` once more frames were seen than that rate averages over."""
    half_life = 2.0
    style = style_of([scene(0)], half_life_frames=half_life)
    expected = None
    for count in range(1, 8):
        frame = scene(10 + count)
        seen = lab_moments(frame, 1).mean
        share = max(1.0 / count, 1.0 - 0.5 ** (1.0 / half_life))
        expected = seen if expected is None else (1.0 - share) * expected + share * seen
        style.observe(frame)
        assert style.target is not None
        np.testing.assert_allclose(style.target.mean, expected, rtol=1e-5)


def test_forgetting_starts_from_the_next_frame() -> None:
    style = style_of([scene(0)], half_life_frames=100.0)
    for seed in range(5):
        style.observe(scene(seed, low=20, high=60))
    style.forget()
    bright = scene(9, low=180, high=240)
    style.observe(bright)
    assert style.target is not None
    np.testing.assert_allclose(style.target.mean, lab_moments(bright, 1).mean, rtol=1e-5)


def test_probability_is_the_share_that_is_dressed_and_draws_as_much_either_way() -> None:
    image, frame = scene(0), scene(1, low=180, high=240)
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    sometimes, always = style_of([image], probability=0.3), style_of([image])
    sometimes.observe(frame)
    always.observe(frame)
    dressed = 0
    for _ in range(200):
        dressed += not np.allclose(sometimes.dress(image, frame, generators[0]), image / 255.0)
        always.dress(image, frame, generators[1])
    assert 40 <= dressed <= 80
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


def test_before_any_frame_the_image_stays() -> None:
    image = scene(0)
    np.testing.assert_allclose(draw(style_of([image], detail=1.0), image, image), image / 255.0, atol=1e-6)


def test_state_continues_bit_for_bit() -> None:
    image = scene(0)
    first, second = style_of([image]), style_of([image])
    for seed in range(3):
        first.observe(scene(seed))
    second.load_state_dict(first.state_dict())
    for style in (first, second):
        style.observe(scene(7))
    assert first.target is not None
    assert second.target is not None
    assert np.array_equal(first.target.mean, second.target.mean)
    assert np.array_equal(first.target.square, second.target.square)
    empty = style_of([image])
    second.load_state_dict(empty.state_dict())
    assert second.target is None


def test_variance_is_never_negative() -> None:
    moments = Moments(np.full((1, 1, 3), 2.0, np.float32), np.full((1, 1, 3), 3.99, np.float32))
    assert (moments.variance > 0).all()
