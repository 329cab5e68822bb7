"""The built-in town: frames are pure functions of (split, seed, t), labels and depth fit the geometry."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from streams.city import SPLITS, Drive, Pose, TownImages
from streams.classes import CITYSCAPES_19
from streams.errors import StreamError
from streams.frame import Intrinsics, Scene

SIZE = (64, 128)
ROAD, SIDEWALK, BUILDING, WALL, FENCE, TERRAIN, SKY = 0, 1, 2, 3, 4, 9, 10


def _rays(intrinsics: Intrinsics, size: tuple[int, int]) -> NDArray[np.float64]:
    """Camera rays with forward component 1 through the centres of all pixels, ``(H, W, 3)``."""
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
    x = (columns - intrinsics.cx) / intrinsics.fx
    y = (rows - intrinsics.cy) / intrinsics.fy
    return np.stack([x, y, np.ones_like(x)], axis=-1)


def _label(scene: Scene) -> NDArray[np.uint8]:
    assert scene.label is not None
    return scene.label


def _depth(scene: Scene) -> NDArray[np.float32]:
    assert scene.depth_m is not None
    return scene.depth_m


def test_frame_alone_equals_frame_of_a_run() -> None:
    run = Drive("val", 4, SIZE)
    for t in range(0, 300, 12):  # far enough that blocks are made and forgotten
        run.render(t)
    for t in (300, 7):  # on, and back
        there, alone = run.render(t), Drive("val", 4, SIZE).render(t)
        np.testing.assert_array_equal(there.image, alone.image)
        np.testing.assert_array_equal(_label(there), _label(alone))
        np.testing.assert_array_equal(_depth(there), _depth(alone))


def test_memory_stays_bounded_on_a_long_drive() -> None:
    drive = Drive("stream", 1, (16, 32))
    for t in range(0, 6000, 60):
        drive.render(t)
    assert 0 < len(drive._blocks) <= 16


def test_splits_and_seeds_share_no_street() -> None:
    images = [Drive(split, seed, SIZE).render(0).image for split in SPLITS for seed in (0, 1)]
    for i, first in enumerate(images):
        for second in images[i + 1 :]:
            assert np.mean(np.abs(first.astype(int) - second)) > 5


def test_frames_change_over_time_and_noise_is_not_frozen() -> None:
    drive = Drive("train", 2, SIZE)
    a, b = drive.render(10), drive.render(11)
    assert np.mean(a.image != b.image) > 0.2
    assert np.mean(_label(a) == _label(b)) > 0.75


@pytest.mark.parametrize("size", [(33, 71), (64, 64), (97, 40), (8, 8)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    scene = Drive("train", 0, size).render(3)
    assert scene.image.shape == (*size, 3)
    assert scene.image.dtype == np.uint8
    assert _label(scene).shape == size
    assert _label(scene).dtype == np.uint8
    assert _depth(scene).shape == size
    assert _depth(scene).dtype == np.float32


@pytest.mark.slow
def test_full_size_shows_the_same_scene_as_a_small_one() -> None:
    large = Drive("val", 1, (1024, 2048)).render(5)
    small = Drive("val", 1, (128, 256)).render(5)
    assert large.image.shape == (1024, 2048, 3)
    blocks = _label(large).reshape(128, 8, 256, 8).transpose(0, 2, 1, 3).reshape(128, 256, 64)
    holds = (blocks == _label(small)[:, :, None]).any(axis=-1)
    assert holds.mean() > 0.97


def test_focal_length_is_that_of_cityscapes_and_scales_with_width() -> None:
    for width in (128, 512):
        scene = Drive("val", 0, (width // 2, width)).render(0)
        assert scene.intrinsics is not None
        assert scene.intrinsics.fx == pytest.approx(2262 / 2048 * width, rel=0.01)
        assert scene.intrinsics.fx == scene.intrinsics.fy
        assert scene.intrinsics.cx == (width - 1) / 2


def test_classes_occur_and_labels_are_in_range() -> None:
    images = TownImages("val", 0, 60, (128, 256))
    frames = np.zeros(len(CITYSCAPES_19))
    for index in range(len(images)):
        item = images[index]
        assert item.label.max() < len(CITYSCAPES_19)
        assert item.image.std() > 15
        frames += np.bincount(item.label.ravel(), minlength=len(frames)) > 4
    assert (frames >= 0.1 * len(images)).sum() >= 18
    assert (frames >= 0.4 * len(images)).sum() >= 16


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ground_depth_is_that_of_the_plane_and_sky_is_infinite(seed: int) -> None:
    drive = Drive("val", seed, SIZE)
    scene, pose = drive.render(6), drive.pose(6)
    label, depth = _label(scene), _depth(scene)
    down = _rays(drive.intrinsics, SIZE) @ pose.rotation[:, 1]  # world y of each ray
    ground = np.isin(label, (ROAD, SIDEWALK, TERRAIN))
    assert ground.mean() > 0.2
    np.testing.assert_allclose(depth[ground], (-pose.position[1] / down)[ground], rtol=1e-5)
    assert np.all(np.isinf(depth[label == SKY]))
    others = depth[label != SKY]
    assert np.all(np.isfinite(others))
    assert np.all(others > 0.2)
    above = down > 0.001
    assert not np.any(ground & above)
    # Whatever stands on the ground hides it: nothing lies below the plane, but for half a pixel at a foot.
    height = pose.position[1] + down * np.where(np.isfinite(depth), depth, 0.0)
    assert np.quantile(height[label != SKY], 0.002) > -0.25


def _follow(pose: Pose, target: Pose, camera: Intrinsics, depth: NDArray[np.float32]) -> NDArray[np.float64]:
    """Where the surface points of one frame lie in the camera axes of another, ``(H, W, 3)``."""
    points = _rays(camera, (depth.shape[0], depth.shape[1])) * depth[..., None]
    world = points @ pose.rotation + pose.position
    return (world - target.position) @ target.rotation.T


def _agreement(drive: Drive, gap: int, classes: tuple[int, ...], moving: bool) -> tuple[float, float, float]:
    """How well frame ``20 + gap`` shows the surface points of frame 20 where the camera motion puts them.

    Without ``moving`` the camera is taken to stand still: the control.

    Returns:
        Share of points that land on their own label; of those, the share that have the depth foretold, and the
        mean difference in brightness (8-bit steps).
    """
    height, width = drive.size
    now, then = drive.render(20), drive.render(20 + gap)
    label, depth = _label(now), _depth(now)
    chosen = np.isin(label, classes) & (depth < 45)
    target = drive.pose(20 + gap if moving else 20)
    with np.errstate(invalid="ignore"):
        moved = _follow(drive.pose(20), target, drive.intrinsics, depth)[chosen]
    column = np.rint(moved[:, 0] / moved[:, 2] * drive.intrinsics.fx + drive.intrinsics.cx).astype(int)
    row = np.rint(moved[:, 1] / moved[:, 2] * drive.intrinsics.fy + drive.intrinsics.cy).astype(int)
    seen = (moved[:, 2] > 1) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    row, column, z = row[seen], column[seen], moved[seen, 2]
    lands = _label(then)[row, column] == label[chosen][seen]
    assert lands.sum() > 200
    right = np.abs(_depth(then)[row, column] / z - 1) < 0.04
    change = np.abs(then.image[row, column].mean(axis=-1) - now.image[chosen][seen].mean(axis=-1))
    return float(lands.mean()), float(right[lands].mean()), float(change[lands].mean())


@pytest.mark.parametrize("seed", [0, 4, 5])
def test_standing_things_move_by_the_camera_motion(seed: int) -> None:
    drive = Drive("val", seed, (128, 256))
    lands, right, _ = _agreement(drive, 1, (ROAD, SIDEWALK, BUILDING, WALL, FENCE, TERRAIN), True)
    assert lands > 0.85  # the rest is hidden by what moves, or lies within a pixel of an edge
    assert right > 0.97
    _, right, change = _agreement(drive, 4, (BUILDING, WALL, FENCE), True)
    _, _, control = _agreement(drive, 4, (BUILDING, WALL, FENCE), False)
    assert right > 0.97
    assert change < 0.6 * control  # windows and bricks move with the walls


def test_camera_moves_forward_at_driving_speed_and_pose_is_orthonormal() -> None:
    drive = Drive("train", 9, SIZE, fps=10.0)
    poses = [drive.pose(t) for t in range(0, 200, 5)]
    speeds = np.diff([pose.position[2] for pose in poses]) / 0.5
    assert np.all(speeds > 1)
    assert np.all(speeds < 25)
    for pose in poses:
        np.testing.assert_allclose(pose.rotation @ pose.rotation.T, np.eye(3), atol=1e-12)
        assert 1.2 < pose.position[1] < 1.6


def test_fps_sets_the_time_between_frames() -> None:
    slow, fast = Drive("train", 3, SIZE, fps=5.0), Drive("train", 3, SIZE, fps=20.0)
    np.testing.assert_array_equal(slow.pose(10).position, fast.pose(40).position)
    assert not np.array_equal(slow.pose(10).position, fast.pose(10).position)


def test_light_differs_between_drives() -> None:
    means = [Drive("train", seed, (32, 64)).render(0).image.mean(axis=(0, 1)) for seed in range(12)]
    assert np.ptp([mean.mean() for mean in means]) > 20
    assert np.ptp([mean[0] - mean[2] for mean in means]) > 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("test", 0), "unknown split 'test'"),
        (("val", -1), "negative"),
        (("val", 0, (4, 4)), "out of range"),
        (("val", 0, (64, 128), 0.0), "not positive"),
    ],
)
def test_bad_arguments_say_what_to_give(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(StreamError, match=message):
        Drive(*arguments)  # type: ignore[arg-type]


def test_negative_frame_is_an_error() -> None:
    with pytest.raises(StreamError, match="before the start"):
        Drive("val", 0, SIZE).render(-1)
