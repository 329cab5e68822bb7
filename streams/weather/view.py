"""What an effect sees: sRGB in [0, 1], complete depth, a camera, the moment, and the statistics of the segment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streams.errors import StreamError
from streams.frame import Intrinsics, Scene
from streams.weather.colour import from_uint8, srgb_to_linear
from streams.weather.ground import LEVEL_GROUND, Plane, fit_ground
from streams.weather.ground_plane import DEPTH_CAP_M, default_intrinsics, ground_plane_depth

LUMA = np.array([0.299, 0.587, 0.114])
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
_FEWEST_SKY_SHARE = 1e-3


@dataclass(frozen=True, slots=True)
class SceneStatistics:
    """Properties of the scene that are estimated once a stream segment so that brightness does not pump.

    Attributes:
        airlight: Colour of the light scattered in by haze, linear RGB in [0, 1].
        drop_radiance: Colour a falling drop refracts into the camera, linear RGB in [0, 1].
        fill_depth_m: Depth given to pixels without a measurement: 95th percentile of the measured ones, capped.
        ground: Plane of the ground; level and 1.5 m below the camera where it cannot be fitted.
        bright: 98th percentile over surfaces of their largest channel, sRGB in [0, 1]; a lamp is brighter.
        grey: Mean luma (Rec. 601) of the frame, sRGB in [0, 1].
        light: Linear RGB share of daylight; below 1 once night has fallen on the frame.
    """

    airlight: tuple[float, float, float]
    drop_radiance: tuple[float, float, float]
    fill_depth_m: float
    ground: Plane = LEVEL_GROUND
    bright: float = 1.0
    grey: float = 0.5
    light: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Moment:
    """When and for whom a frame is rendered.

    Attributes:
        frame_index: Index in the stream; only effects that must change every frame (sensor noise) may use it.
        t_seconds: Time in the segment; all motion is analytic in it.
        seed: Seed of the stream's weather.
        ego_speed_mps: Forward speed of the camera, constant over the segment.
        progress: How far the segment has come, 0 at its first frame and 1 at its last, for weather that changes.
    """

    frame_index: int
    t_seconds: float
    seed: int
    ego_speed_mps: float = 0.0
    progress: float = 0.0


@dataclass(frozen=True, slots=True)
class View:
    """One frame as effects see it.

    Attributes:
        rgb: ``(H, W, 3)`` float32 sRGB in [0, 1]. Never written by an effect.
        depth_m: ``(H, W)`` float32 metres in (0, 255], without holes.
        camera: Intrinsics in pixels of ``rgb``.
        moment: Time, seed and ego speed.
        statistics: Segment statistics.
        depth_measured: Whether depth came with the scene; otherwise it is the street canyon of `ground_plane_depth`.
    """

    rgb: NDArray[np.float32]
    depth_m: NDArray[np.float32]
    camera: Intrinsics
    moment: Moment
    statistics: SceneStatistics
    depth_measured: bool = True


@njit(cache=True)
def _fill(depth: NDArray[np.float32], cap: np.float32, fill: np.float32) -> NDArray[np.float32]:
    out = np.empty_like(depth)
    source, target = depth.ravel(), out.ravel()
    for i in range(source.size):
        z = source[i]
        target[i] = min(z, cap) if z > 0 else fill  # NaN compares false and is filled
    return out


def complete_depth(scene: Scene, fill_depth_m: float, sky_id: int | None = None) -> NDArray[np.float32]:
    """Depth without holes: capped at 255 m, sky at the cap, unknown pixels at ``fill_depth_m`` (spec section 1).

    Args:
        scene: Depth may hold 0, negative or NaN (unknown) and inf (no surface). Without depth the street canyon of
            `ground_plane_depth` is taken and no label is read.
        fill_depth_m: Depth for unknown pixels that are not sky.
        sky_id: Id of sky in ``scene.label``; None never reads the label.

    Returns:
        ``(H, W)`` float32 metres in (0, 255].
    """
    if scene.depth_m is None:
        # A copy, because compiled kernels would be built a second time for the read-only array of the cache.
        return ground_plane_depth(*scene.image.shape[:2], scene.intrinsics).copy()
    depth = _fill(np.ascontiguousarray(scene.depth_m, np.float32), np.float32(DEPTH_CAP_M), np.float32(fill_depth_m))
    if sky_id is not None and scene.label is not None:
        depth[(scene.label == sky_id) & ~(scene.depth_m > 0)] = DEPTH_CAP_M
    return depth


def estimate_statistics(scene: Scene, sky_id: int | None = None) -> SceneStatistics:
    """Statistics of a segment from its first clear frame (spec sections 1 and 2).

    Airlight is the median colour of sky pixels (depth at the cap, or the label where ``sky_id`` is given); without
    depth, or with next to no sky in view, the mean of the brightest 1 % of the upper half. A drop gathers 94 % of its
    light from a cone of about 165 degrees, taken as equal parts of sky and of the upper half of the frame, and 6 % from
    the whole frame.

    Args:
        scene: First frame of the segment, before any weather.
        sky_id: Id of sky in ``scene.label``; None never reads the label.
    """
    check_scene(scene)
    linear = srgb_to_linear(np.arange(256) / 255)[scene.image]
    upper = linear[: max(1, linear.shape[0] // 2)]
    fill_depth_m, sky = DEPTH_CAP_M, None
    if scene.depth_m is not None:
        measured = scene.depth_m[np.isfinite(scene.depth_m) & (scene.depth_m > 0)]
        if measured.size:
            fill_depth_m = float(np.percentile(np.minimum(measured, DEPTH_CAP_M), 95))
        sky = scene.depth_m >= DEPTH_CAP_M
        if sky_id is not None and scene.label is not None:
            sky = sky | (scene.label == sky_id)
    if sky is not None and sky.mean() >= _FEWEST_SKY_SHARE:
        airlight = np.median(linear[sky], axis=0)
    else:
        pixels = upper.reshape(-1, 3)
        count = max(1, round(len(pixels) * 0.01))
        airlight = pixels[np.argpartition(pixels @ _LUMINANCE, -count)[-count:]].mean(axis=0)
    cone = (airlight + upper.mean(axis=(0, 1))) / 2
    gathered = 0.94 * cone + 0.06 * linear.mean(axis=(0, 1))
    camera = scene.intrinsics or default_intrinsics(*scene.image.shape[:2])
    ground = LEVEL_GROUND if scene.depth_m is None else fit_ground(scene.depth_m, camera)
    surfaces = scene.image.max(axis=2)
    surfaces = surfaces[~sky] if sky is not None and not sky.all() else surfaces[surfaces.shape[0] // 2 :]
    bright = float(np.percentile(surfaces, 98)) / 255
    grey = float((scene.image.mean(axis=(0, 1)) / 255) @ LUMA)
    return SceneStatistics(triple(airlight), triple(gathered), fill_depth_m, ground, bright, grey)


def make_view(scene: Scene, moment: Moment, statistics: SceneStatistics, sky_id: int | None = None) -> View:
    """The view of a scene: float sRGB, complete depth, and intrinsics (assumed Cityscapes-like where unknown)."""
    check_scene(scene)
    return View(
        rgb=from_uint8(np.ascontiguousarray(scene.image)),
        depth_m=complete_depth(scene, statistics.fill_depth_m, sky_id),
        camera=scene.intrinsics or default_intrinsics(*scene.image.shape[:2]),
        moment=moment,
        statistics=statistics,
        depth_measured=scene.depth_m is not None,
    )


def check_scene(scene: Scene) -> None:
    """Raise `StreamError` unless the image is (H, W, 3) uint8 and depth and label have its size."""
    image = scene.image
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise StreamError(f"weather: image must be (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
    for name, plane in (("depth", scene.depth_m), ("label", scene.label)):
        if plane is not None and plane.shape != image.shape[:2]:
            raise StreamError(f"weather: {name} is {plane.shape}, the image {image.shape[:2]}; give both at one size")


def triple(colour: NDArray[np.float64]) -> tuple[float, float, float]:
    """A colour ``(3,)`` as plain numbers."""
    return float(colour[0]), float(colour[1]), float(colour[2])
