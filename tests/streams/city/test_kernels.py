"""The compiled helpers against plain references: filtered patterns, noise, kerb line, shadows, barriers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.city import _env as E
from streams.city import _fill, _meshes, _shade
from streams.city import _ground as G
from streams.city import _math as M
from streams.city import _prims as P
from streams.city import _raster as R
from streams.city import _shapes as S
from streams.city import _shapes_figures as figures
from streams.city.layout import build_block, crossing
from streams.city.style import draw_style

floats = st.floats(-50, 50)


@settings(max_examples=60, deadline=None)
@given(floats, st.floats(0.01, 4.0), st.floats(0.0, 0.5), st.floats(0.05, 0.5))
def test_pulse_is_the_mean_of_the_pattern_over_the_footprint(x: float, w: float, a: float, size: float) -> None:
    samples = x + w * ((np.arange(40000) + 0.5) / 40000 - 0.5)
    inside = (samples - np.floor(samples) >= a) & (samples - np.floor(samples) < a + size)
    assert abs(M.pulse(x, w, a, a + size) - inside.mean()) < 1e-3


@settings(max_examples=60, deadline=None)
@given(floats, st.floats(0.01, 4.0), floats, st.floats(0.05, 5.0))
def test_band_is_the_share_of_the_footprint_inside(x: float, w: float, a: float, size: float) -> None:
    samples = x + w * ((np.arange(40000) + 0.5) / 40000 - 0.5)
    assert abs(M.band(x, w, a, a + size) - np.mean((samples >= a) & (samples <= a + size))) < 1e-3


def test_random_numbers_are_uniform_and_depend_on_both_integers() -> None:
    draws = np.array([M.rnd(seed, k) for seed in range(-60, 60) for k in range(60)])
    assert draws.min() >= 0
    assert draws.max() < 1
    assert abs(draws.mean() - 0.5) < 0.02
    assert abs(draws.std() - 1 / math.sqrt(12)) < 0.01
    assert len(np.unique(draws)) > 0.99 * len(draws)


def test_noise_tile_is_tileable_and_normalised() -> None:
    tile = M.noise_tile()
    assert abs(float(tile.mean())) < 0.05
    assert 0.9 < float(tile.std()) < 1.1
    assert M.noise(tile, 3.0, 5.0) == tile[5, 3]
    assert M.noise(tile, 3.25, 5.0) == np.float64(tile[5, 3]) * 0.75 + np.float64(tile[5, 4]) * 0.25
    assert abs(M.noise(tile, 17.3, 40.6) - M.noise(tile, 17.3 - M.TILE, 40.6 + M.TILE)) < 1e-9


def test_keys_and_mixes_do_not_collide() -> None:
    keys = {M.key_of("town", split, seed) for split in ("train", "val", "stream") for seed in range(3000)}
    assert len(keys) == 9000
    assert len({M.mix(12345, k) for k in range(-2000, 2000)}) > 3990


def _street() -> np.ndarray:
    env = draw_style(M.key_of("test", 1))
    env[E.BEND] = env[E.BEND + 3] = 0.0
    env[E.HALF_M], env[E.SIDEWALK_M], env[E.VERGE_M] = 5.0, 4.0, 1.5
    env[E.BLOCK_M], env[E.FIRST_BLOCK], env[E.TABLE_Z] = 80, 0, 0
    return env


def test_ground_cross_section_and_crossing() -> None:
    env = _street()
    lots = np.zeros((2, 160, G.LOT_COLUMNS))
    lots[0, :, G.LOT_SURFACE] = G.LAWN
    crossings = np.array([[4.0, 1.0], [0.0, 0.0]])
    tile = M.noise_tile()

    def label(x: float, s: float) -> int:
        return int(G.ground(env, lots, crossings, tile, x, s, 0.01, 0.01)[0])

    assert [label(x, 30.0) for x in (0.0, 4.9, 5.2, 6.0, 7.5, 9.5)] == [
        P.ROAD, P.ROAD, P.SIDEWALK, P.TERRAIN, P.SIDEWALK, P.SIDEWALK,
    ]  # fmt: skip
    assert label(-9.5, 30.0) == P.TERRAIN  # the lawn is on the left
    assert label(20.0, 1.0) == P.ROAD  # along the side street
    assert label(20.0, 5.0) == P.SIDEWALK
    assert label(20.0, 79.0) == P.SIDEWALK  # the second block begins without a crossing
    assert label(5.5, 4.5) == P.ROAD  # the corner is round
    assert label(8.5, 7.5) == P.SIDEWALK


def test_houses_on_the_sunny_side_cast_shadows_of_the_right_length() -> None:
    env = _street()
    env[E.SHADOW] = 1.0
    env[E.SUN : E.SUN + 3] = (math.cos(0.6), math.sin(0.6), 0.0)  # from the right
    lots = np.zeros((2, 160, G.LOT_COLUMNS))
    lots[1, :, G.LOT_HEIGHT] = 6.0
    reach = 6.0 / math.tan(0.6)  # of the shadow, from the front at x = 9
    assert _shade.sun_at(env, lots, 9.0 - reach + 1.0, 0.0, 50.0) == 0.0
    assert _shade.sun_at(env, lots, 9.0 - reach - 1.0, 0.0, 50.0) == 1.0
    assert _shade.sun_at(env, lots, 8.0, 7.0, 50.0) == 1.0  # above the roof
    env[E.SHADOW] = 0.0
    assert _shade.sun_at(env, lots, 8.0, 0.0, 50.0) == 1.0


def test_bend_table_follows_the_bend() -> None:
    env = draw_style(M.key_of("test", 3))
    blocks = [build_block(env, 99, k) for k in (2, 3)]
    lots = np.concatenate([block.lots for block in blocks], axis=1)
    env[E.TABLE_Z] = 2 * env[E.BLOCK_M]
    for z in np.linspace(env[E.TABLE_Z] - 5, env[E.TABLE_Z] + 2 * env[E.BLOCK_M] + 5, 200):
        assert abs(G.bend_at(env, lots, z) - E.bend(env, z)) < 1e-3


def test_blocks_are_reproducible_and_crossings_vary() -> None:
    env = draw_style(7)
    first, again, other = build_block(env, 7, 5), build_block(env, 7, 5), build_block(env, 7, 6)
    np.testing.assert_array_equal(first.instances, again.instances)
    assert not np.array_equal(first.instances, other.instances)
    widths = [crossing(7, k)[0] for k in range(100)]
    assert 5 < widths.count(0.0) < 40


def test_one_box_covers_the_pixels_that_projection_says() -> None:
    """A wall of 4 m by 2 m, 10 m ahead, drawn by the rasteriser against the pinhole formula."""
    height, width, focal = 60, 120, 100.0
    prims = np.zeros((1, P.COLUMNS))
    P.put(prims, 0, -2.0, 0.0, 10.0, 1.0, 0.0, 0.0, 1.0, 0.0, 4.0, 2.0, P.M_PLAIN, P.WALL, 1)
    camera = np.array([0.0, 1.0, 0.0, 1, 0, 0, 0, -1, 0, 0, 0, 1, focal, width / 2, height / 2])
    visible = np.empty((1, R.VISIBLE_COLUMNS))
    assert R.prepare(prims, camera, np.array([0.0, 1.0, 0.0]), width, height, np.empty((16, 3)), visible) == 1
    zinv = np.zeros((2 * height, 2 * width), np.float32)
    ids = np.full(zinv.shape, -1, np.int32)
    work = np.empty((_fill.ROWS_OF_SCRATCH, zinv.shape[1]))
    _fill.draw(visible, np.array([0]), prims, M.noise_tile(), zinv, ids, work)
    drawn = ids >= 0
    rows, columns = np.nonzero(drawn)
    assert (columns.min(), columns.max()) == (2 * (60 - 20), 2 * (60 + 20) - 1)
    assert (rows.min(), rows.max()) == (2 * (30 - 10), 2 * (30 + 10) - 1)
    assert drawn.sum() == 80 * 40
    np.testing.assert_allclose(zinv[drawn], 0.1, rtol=1e-6)
    # Behind the camera nothing is left.
    prims[0, 2] = -10.0
    assert R.prepare(prims, camera, np.array([0.0, 1.0, 0.0]), width, height, np.empty((16, 3)), visible) == 0


@pytest.mark.parametrize("kind", [P.K_TREE, P.K_PERSON, P.K_BIKE])
def test_cut_outs_are_their_shape_at_every_sample(kind: int) -> None:
    """Against one sample after the other: rows are filled in ways of their own that leave samples out."""
    height, width = 40, 80
    env, tile = draw_style(11), M.noise_tile()
    for option in range(4):
        thing = np.array([[kind, 0.5, 0, 9, 0.7 * option, 4.0, 3.0, 4.0, 1234 + option, option, 1.0, 1.0]])
        prims = np.empty((_meshes.POLYGONS_EACH, P.COLUMNS))
        n, _ = _meshes.expand(thing, env, prims, np.empty((_meshes.DECALS_EACH, _meshes.DECAL_COLUMNS)))
        prims = prims[:n][prims[:n, P.MATERIAL] >= P.FIRST_CUTOUT]
        camera = np.array([0.0, 1.5, 0.0, 1, 0, 0, 0, -1, 0, 0, 0, 1, 150.0, width / 2, height / 2])
        visible = np.empty((len(prims), R.VISIBLE_COLUMNS))
        n = R.prepare(prims, camera, np.array([0.0, 1.0, 0.0]), width, height, np.empty((16, 3)), visible)
        zinv = np.zeros((2 * height, 2 * width), np.float32)
        ids = np.full(zinv.shape, -1, np.int32)
        work = np.empty((_fill.ROWS_OF_SCRATCH, zinv.shape[1]))
        _fill.draw(visible, np.arange(n), prims, tile, zinv, ids, work)
        expected, expected_z = np.full_like(ids, -1), np.zeros_like(zinv)
        for k, w in enumerate(visible[:n]):
            p = prims[int(w[R.SOURCE])]
            left, low, right, high = p[[P.POLY, P.POLY + 1, P.POLY + 4, P.POLY + 5]]
            for row, col in np.ndindex(ids.shape):
                at = ((col + 0.5) / 2, (row + 0.5) / 2, 1.0)
                near = np.float32(w[:3] @ at)
                u, v = (w[m : m + 3] @ at / near + w[m + 3] for m in (R.UMAP, R.VMAP))
                if near <= expected_z[row, col] or not (left <= u <= right and low <= v <= high):
                    continue
                if part := S.part_at(tile, p, u, v, w[R.SIDENESS], w[R.TOWARDS]):
                    expected[row, col], expected_z[row, col] = k * R.PARTS + part, near
        assert (expected >= 0).sum() > 100
        np.testing.assert_array_equal(ids, expected)
        np.testing.assert_allclose(zinv, expected_z, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(0, 6.3), st.integers(0, 31), st.booleans())
def test_figures_end_within_their_reach(q: float, towards: float, phase: float, flags: int, cycle: bool) -> None:
    p = np.zeros(P.COLUMNS)
    if cycle:
        p[P.MATERIAL] = P.M_BIKE
        p[P.PARAM : P.PARAM + 4] = flags >> 3, 0.16 * math.cos(phase), 0.16 * math.sin(phase), flags & 3
    else:
        p[P.MATERIAL] = P.M_PERSON
        p[P.PARAM : P.PARAM + 6] = 1.8, math.sin(phase), math.cos(phase), 1.21, 0.5, flags & 7
    tile, reach = M.noise_tile(), figures.reach(p, q)
    for u in np.linspace(reach, reach + 1.0, 25):
        for v in np.linspace(0.0, 1.9, 60):
            assert S.part_at(tile, p, u, v, q, towards) == S.part_at(tile, p, -u, v, q, towards) == 0


def test_every_kind_of_thing_becomes_polygons_within_its_budget() -> None:
    env = draw_style(11)
    tile_labels = set()
    for kind in range(P.K_POLE + 1):
        for option in range(4):
            thing = np.array([[kind, 0, 0, 10, 0.3, 12.0, 3.0, 4.0, 1234 + option, option, 1.0, 1.0]])
            prims = np.full((_meshes.POLYGONS_EACH, P.COLUMNS), np.nan)
            decals = np.empty((_meshes.DECALS_EACH, _meshes.DECAL_COLUMNS))
            n, m = _meshes.expand(thing, env, prims, decals)
            assert 1 <= n <= _meshes.POLYGONS_EACH
            assert m <= _meshes.DECALS_EACH
            assert np.isfinite(prims[:n]).all()
            u, v = prims[:n, P.U : P.U + 3], prims[:n, P.V : P.V + 3]
            np.testing.assert_allclose(np.linalg.norm(u, axis=1), 1, atol=1e-9)
            np.testing.assert_allclose(np.linalg.norm(v, axis=1), 1, atol=1e-9)
            np.testing.assert_allclose((u * v).sum(axis=1), 0, atol=1e-9)
            tile_labels |= set(prims[:n, P.LABEL].astype(int)) | set(prims[:n, P.LABEL2].astype(int))
    assert tile_labels == set(range(19)) - {P.ROAD, P.SIDEWALK, P.TERRAIN, P.SKY}
