"""Target-styled replay: moments move as told, content stays, thin things travel and wide ones do not."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from online_uda.adaptation.replay.style import Moments, TargetStyle, fine_detail, lab_moments, transfer_moments

WHOLE = (1, 1)
"""The grid of one cell."""


def scene(seed: int, size: tuple[int, int] = (72, 96), low: int = 90, high: int = 170) -> NDArray[np.uint8]:
    """Smooth mid-grey colours: nothing clips under mild transforms."""
    coarse = np.random.default_rng(seed).integers(low, high, (6, 8, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_LINEAR), np.uint8)


def to_uint8(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.round(image * 255).astype(np.uint8)


def style_of(images: list[NDArray[np.uint8]], **options: Any) -> TargetStyle:
    """At full strength and without detail, where not told otherwise."""
    given: dict[str, Any] = {"grid": WHOLE, "half_life_frames": 4.0, "detail": 0.0, "strength": (1.0, 1.0), **options}
    return TargetStyle(np.stack(images), **given)


def draw(style: TargetStyle, image: NDArray[np.uint8], frame: NDArray[np.uint8], seed: int = 0) -> NDArray[np.float32]:
    return style.dress(image, frame, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("grid", [WHOLE, (3, 3), (6, 1), (1, 4)])
@given(seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_equal_moments_are_the_identity(grid: tuple[int, int], seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    moments = lab_moments(image, grid)
    same = transfer_moments(image, moments, moments)
    # OpenCV's own way to Lab and back is off by up to 1.3 / 255 at saturated colours.
    assert np.abs(to_uint8(same).astype(int) - image).max() <= 1
    assert np.abs(same - image / 255.0).mean() <= 0.3 / 255.0


@pytest.mark.parametrize("seed", range(4))
def test_transferred_image_has_the_targets_moments(seed: int) -> None:
    image, other = scene(seed), scene(seed + 100, low=110, high=160)
    target = lab_moments(other, WHOLE)
    moved = transfer_moments(image, lab_moments(image, WHOLE), target)
    found = lab_moments(to_uint8(moved), WHOLE)
    np.testing.assert_allclose(found.mean, target.mean, atol=0.15)
    np.testing.assert_allclose(np.sqrt(found.variance), np.sqrt(target.variance), atol=0.3)


def test_moments_against_numpy() -> None:
    """Mean and mean square of each cell of 2 rows and 3 columns, in OpenCV's Lab of the float image."""
    image = scene(1, (8, 12))
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    moments = lab_moments(image, (2, 3))
    for row in range(2):
        for column in range(3):
            cell = lab[4 * row : 4 * row + 4, 4 * column : 4 * column + 4].reshape(-1, 3)
            np.testing.assert_allclose(moments.mean[row, column], cell.mean(0), atol=1e-3)
            np.testing.assert_allclose(moments.square[row, column], (cell**2).mean(0), rtol=1e-4, atol=1e-3)


def test_gain_is_bounded() -> None:
    """A flat source must not be blown up by the contrast of the stream."""
    flat = np.full((16, 16, 3), 120, np.uint8)
    flat[::4] = 121
    busy = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    moved = cv2.cvtColor(transfer_moments(flat, lab_moments(flat, WHOLE), lab_moments(busy, WHOLE)), cv2.COLOR_RGB2LAB)
    before = cv2.cvtColor(flat.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    assert np.ptp(moved[..., 0]) <= 3.05 * np.ptp(before[..., 0])


def test_a_grid_follows_what_a_global_transform_cannot() -> None:
    """Fog that lies on the upper half: a grid darkens and brightens where it should."""
    source = scene(2)
    target = source.astype(np.float32)
    target[:36] = 0.3 * target[:36] + 0.7 * 210
    frame = np.round(target).astype(np.uint8)
    errors = {}
    for grid in (WHOLE, (4, 1)):
        moved = transfer_moments(source, lab_moments(source, grid), lab_moments(frame, grid))
        errors[grid] = np.abs(moved * 255 - target).mean()
    assert errors[(4, 1)] < 0.6 * errors[WHOLE]


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
    each = [lab_moments(image, WHOLE) for image in images]
    np.testing.assert_allclose(style.source.mean, np.mean([m.mean for m in each], axis=0), rtol=1e-6)
    np.testing.assert_allclose(style.source.square, np.mean([m.square for m in each], axis=0), rtol=1e-6)


def test_target_is_a_plain_mean_first_and_then_forgets_by_its_half_life() -> None:
    """``1 - 0.5 ** (1 / half_life)`` once more frames were seen than that rate averages over."""
    half_life = 2.0
    style = style_of([scene(0)], half_life_frames=half_life)
    expected = None
    for count in range(1, 8):
        frame = scene(10 + count)
        seen = lab_moments(frame, WHOLE).mean
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
    np.testing.assert_allclose(style.target.mean, lab_moments(bright, WHOLE).mean, rtol=1e-5)


def striped(seed: int) -> NDArray[np.uint8]:
    """A brighter frame with thin lines that a median takes away."""
    frame = scene(seed, low=170, high=215)
    frame[:, ::12] = 245
    return frame


@pytest.mark.parametrize("grid", [WHOLE, (4, 1)])
def test_no_strength_is_the_plain_image_and_full_strength_the_whole_transfer(grid: tuple[int, int]) -> None:
    image, frame = scene(0), striped(1)
    whole = transfer_moments(image, lab_moments(image, grid), lab_moments(frame, grid))
    for strength, expected in (((0.0, 0.0), image / 255.0), ((1.0, 1.0), whole)):
        style = style_of([image], grid=grid, strength=strength)
        style.observe(frame)
        np.testing.assert_allclose(draw(style, image, frame), expected, atol=1.5 / 255)
        detailed = style_of([image], grid=grid, strength=strength, detail=1.0)
        detailed.observe(frame)
        added = np.abs(draw(detailed, image, frame) - draw(style, image, frame)).max()
        assert (added > 0.02) == (strength == (1.0, 1.0)), "detail has the same range"


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_strength_in_between_is_that_share_of_the_way(share: float) -> None:
    """For the mean colour in CIE Lab, and for what the detail adds."""
    image, frame = scene(0), striped(1)
    style = style_of([image], strength=(share, share))
    style.observe(frame)
    start, end = lab_moments(image, WHOLE).mean, lab_moments(frame, WHOLE).mean
    found = lab_moments(to_uint8(draw(style, image, frame)), WHOLE).mean
    np.testing.assert_allclose(found, start + share * (end - start), atol=0.6)
    flat = np.full((64, 48, 3), 120, np.uint8)
    lined = flat.copy()
    lined[:, 10] = 160
    lines = style_of([flat], detail=1.0, strength=(share, share))
    lines.target = lines.source
    assert np.abs(draw(lines, flat, lined) - flat / 255.0).max() == pytest.approx(share * 40 / 255, abs=2e-3)


def test_strength_is_drawn_evenly_from_its_range_for_colour_and_detail_apart() -> None:
    """Each is read back from what it did to a grey image: the rise of the ground, and of the line above it."""
    image = np.full((32, 24, 3), 100, np.uint8)
    frame = np.full((32, 24, 3), 150, np.uint8)
    frame[:, 5] = 200
    styles = [style_of([image], detail=0.5, strength=strength) for strength in ((0.0, 0.0), (1.0, 1.0), (0.2, 0.6))]
    for style in styles:
        style.target = lab_moments(np.full_like(frame, 150), WHOLE)
    generator = torch.Generator().manual_seed(0)

    def marks(style: TargetStyle) -> tuple[float, float]:
        dressed = style.dress(image, frame, generator)[16].mean(-1)
        ground = float(np.median(dressed))
        return ground, float(dressed.max()) - ground

    (low, _), (high, line) = marks(styles[0]), marks(styles[1])
    drawn = np.array([marks(styles[2]) for _ in range(300)])
    colour, fine = (drawn[:, 0] - low) / (high - low), drawn[:, 1] / line
    for share in (colour, fine):
        assert 0.19 < share.min() < 0.22
        assert 0.58 < share.max() < 0.62
        assert share.mean() == pytest.approx(0.4, abs=0.03)
    assert abs(np.corrcoef(colour, fine)[0, 1]) < 0.15


def test_draws_are_repeatable_and_as_many_whatever_the_range() -> None:
    """A resumed run, or one that compares two ranges, sees the same crops."""
    image, frame = scene(0), striped(1)
    after, images = [], []
    for strength in ((0.0, 1.0), (0.0, 1.0), (0.0, 0.0), (0.3, 0.9)):
        style = style_of([image], detail=1.0, strength=strength)
        style.observe(frame)
        generator = torch.Generator().manual_seed(1)
        images.append([style.dress(image, frame, generator) for _ in range(3)])
        after.append(generator.get_state())
    assert all(torch.equal(state, after[0]) for state in after)
    assert all(np.array_equal(one, two) for one, two in zip(images[0], images[1], strict=True))
    assert not np.array_equal(images[0][0], images[0][1])
    assert not np.array_equal(images[0][0], images[3][0])


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
