"""A drive through the town: frame t of (split, seed, size), each one on its own."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.city import _env as E
from streams.city import _fill, _shade
from streams.city import _meshes as meshes
from streams.city import _prims as P
from streams.city import _raster as R
from streams.city._math import TILE, key_of, mix, noise_tile
from streams.city.camera import Pose, camera_pose, draw_motion, intrinsics
from streams.city.layout import build_block, crossing
from streams.city.style import draw_style
from streams.city.traffic import movers, plan_lanes
from streams.errors import StreamError
from streams.frame import Scene

SPLITS = ("train", "val", "stream")
AHEAD_M = 260.0
BEHIND_M = 24.0
MAX_BLOCKS = 16

_TILE = noise_tile()
_GRAIN = np.random.default_rng(7).standard_normal((TILE, TILE)).astype(np.float32)


@dataclass(frozen=True)
class _Built:
    """A block as polygons, ground shadows and lot rows."""

    prims: NDArray[np.float64]
    decals: NDArray[np.float64]
    lots: NDArray[np.float64]


class Drive:
    """An endless drive along one street of the town.

    A frame is a pure function of (split, seed, size, fps, t). Blocks of the street are made when they come into view
    and forgotten later, so memory stays bounded. One thread at a time: frames share scratch memory.

    Args:
        split: "train", "val" or "stream"; drives of different splits never share a street.
        seed: Which drive of the split, >= 0.
        size: Image height and width in pixels, each 8 to 4096.
        fps: Frames a second.

    Raises:
        StreamError: For an unknown split, a negative seed or frame, or a size out of range.
    """

    def __init__(self, split: str, seed: int, size: tuple[int, int] = (256, 512), fps: float = 10.0) -> None:
        if split not in SPLITS:
            raise StreamError(f"town: unknown split {split!r}; choose one of {', '.join(SPLITS)}")
        if seed < 0:
            raise StreamError(f"town: seed {seed} is negative; give 0 or more")
        if len(size) != 2 or not all(8 <= side <= 4096 for side in size):
            raise StreamError(f"town: size {size} out of range; give (height, width), each 8 to 4096")
        if not fps > 0:
            raise StreamError(f"town: fps {fps} is not positive; give frames a second, such as 10")
        self.split, self.seed, self.size, self.fps = split, seed, (int(size[0]), int(size[1])), fps
        self.intrinsics = intrinsics(self.size)
        self._key = key_of("town", split, seed)
        self._env = draw_style(self._key)
        self._ego = draw_motion(self._env, self._key)
        self._lanes = plan_lanes(self._env, self._key, self._ego)
        self._blocks: OrderedDict[int, _Built] = OrderedDict()
        self._buffers: tuple[NDArray[np.float32], NDArray[np.int32]] | None = None

    def pose(self, t: int) -> Pose:
        """Camera pose of frame ``t``."""
        return camera_pose(self._env, self._key, self._ego, self._time(t))

    def render(self, t: int) -> Scene:
        """Frame ``t``: image, Cityscapes train-id label, depth in metres (sky inf) and intrinsics."""
        time_s = self._time(t)
        height, width = self.size
        pose = self.pose(t)
        z = float(pose.position[2])
        env = self._env.copy()
        blocks = self._window(z, env)
        env[E.TIME_S] = time_s
        moving, moving_shadows = self._expand(
            movers(self._lanes, env, self._key, self._ego, time_s, AHEAD_M * 0.7, BEHIND_M), env
        )
        prims = np.concatenate([moving, *(block.prims for block in blocks)])
        decals = np.concatenate([moving_shadows, *(block.decals for block in blocks)])
        lots = np.concatenate([block.lots for block in blocks], axis=1)
        first = int(env[E.FIRST_BLOCK])
        crossings = np.array([crossing(self._key, first + k) for k in range(len(blocks))])

        camera = np.empty(R.CAMERA_SIZE)
        camera[R.POS : R.POS + 3] = pose.position
        camera[R.ROT : R.ROT + 9] = pose.rotation.ravel()
        # The rasteriser counts from the corner of the image, intrinsics from the middle of the first pixel.
        camera[R.FOCAL :] = self.intrinsics.fx, self.intrinsics.cx + 0.5, self.intrinsics.cy + 0.5
        visible = np.empty((len(prims), R.VISIBLE_COLUMNS))
        visible = visible[: R.prepare(prims, camera, env[E.SUN : E.SUN + 3], width, height, np.empty((16, 3)), visible)]
        zinv, ids = self._samples()
        nearest_first = np.argsort(visible[:, R.NEAREST], kind="stable")
        _fill.draw(visible, nearest_first, prims, _TILE, zinv, ids, np.empty((_fill.ROWS_OF_SCRATCH, zinv.shape[1])))
        light = np.ones((height, width), np.float32)
        R.draw_shadows(decals, camera, light, 70.0)
        image = np.empty((height, width, 3), np.uint8)
        label = np.empty((height, width), np.uint8)
        depth = np.empty((height, width), np.float32)
        spot = mix(self._key & 0x7FFFFFFF, t)
        _shade.resolve(
            env, lots, crossings, _TILE, prims, visible, camera, zinv, ids, light, _GRAIN, spot & 255, spot >> 8 & 255,
            np.empty((5, 4)), np.empty((4, width)), image, label, depth,
        )  # fmt: skip
        return Scene(image, label, depth, self.intrinsics)

    def _samples(self) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Empty sample buffers, kept from frame to frame: new memory of their size costs as much as some drawing."""
        if self._buffers is None:
            shape = (R.GRID * self.size[0], R.GRID * self.size[1])
            self._buffers = np.empty(shape, np.float32), np.empty(shape, np.int32)
        zinv, ids = self._buffers
        zinv.fill(0.0)
        ids.fill(-1)
        return zinv, ids

    def _time(self, t: int) -> float:
        if t < 0:
            raise StreamError(f"town: frame {t} is before the start of the drive; give 0 or more")
        return t / self.fps

    def _expand(
        self, instances: NDArray[np.float64], env: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        prims = np.empty((len(instances) * meshes.POLYGONS_EACH, P.COLUMNS))
        decals = np.empty((len(instances) * meshes.DECALS_EACH, meshes.DECAL_COLUMNS))
        n, m = meshes.expand(instances, env, prims, decals)
        return prims[:n], decals[:m]

    def _window(self, z: float, env: NDArray[np.float64]) -> list[_Built]:
        """Blocks in view; writes the place of the lot and crossing tables into ``env``."""
        length = env[E.BLOCK_M]
        first = int((z - BEHIND_M) // length)
        last = int((z + AHEAD_M) // length)
        env[E.FIRST_BLOCK] = first
        env[E.TABLE_Z] = first * length
        return [self._block(index) for index in range(first, last + 1)]

    def _block(self, index: int) -> _Built:
        built = self._blocks.get(index)
        if built is None:
            block = build_block(self._env, self._key, index)
            prims, decals = self._expand(block.instances, self._env)
            built = _Built(prims.copy(), decals.copy(), block.lots)
            self._blocks[index] = built
            while len(self._blocks) > MAX_BLOCKS:
                self._blocks.popitem(last=False)
        else:
            self._blocks.move_to_end(index)
        return built
