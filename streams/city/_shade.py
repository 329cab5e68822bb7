"""Colour, label and depth of every pixel from the sample buffers: light, haze, sky, anti-aliasing and the camera."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streams.city import _env as E
from streams.city import _ground as G
from streams.city import _movers as M
from streams.city import _prims as P
from streams.city import _raster as R
from streams.city import _surfaces as F
from streams.city._develop import develop
from streams.city._math import clamp, inlined, kernel, noise, ramp

SKYLINE_M = 420.0


@inlined
def sun_at(env: NDArray[np.float64], lots: NDArray[np.float64], x: float, y: float, z: float) -> float:
    """Share of the sun that reaches a point of the street past the houses on the sunny side, 0-1.

    Args:
        env: Numbers of the drive.
        lots: Lot table with the height and set-back of the houses.
        x: Distance to the right of the middle of the street.
        y: Height above the ground.
        z: Position along the street.
    """
    sx = env[E.SUN]
    if env[E.SHADOW] <= 0.0 or abs(sx) < 0.05:
        return 1.0
    side = 1 if sx > 0.0 else 0
    front = env[E.HALF_M] + env[E.SIDEWALK_M]
    for step in range(2):
        gap = (front if side == 1 else -front) - x
        if gap * sx <= 0.0:
            return 1.0
        t = gap / sx
        row = math.floor(z + env[E.SUN + 2] * t - env[E.TABLE_Z])
        if row < 0 or row >= lots.shape[1]:
            return 1.0
        if step == 0:
            front += lots[side, row, G.LOT_SETBACK]
            continue
        above = y + env[E.SUN + 1] * t - lots[side, row, G.LOT_HEIGHT]
        return 1.0 - env[E.SHADOW] * (1.0 - ramp(above, -0.35, 0.35))
    return 1.0


@kernel
def _sky(
    env: NDArray[np.float64], tile: NDArray[np.float32], dx: float, dy: float, dz: float
) -> tuple[int, float, float, float]:
    """Sky or the far silhouette of trees and roofs, along a unit direction."""
    if dy < 2.0 * env[E.SKYLINE]:
        azimuth = math.atan2(dx, dz)
        lump = noise(tile, azimuth * 90.0, env[E.CLOUD_SHIFT])
        house = noise(tile, math.floor(azimuth * 60.0) * 3.7, env[E.CLOUD_SHIFT + 1])
        trees = env[E.SKYLINE] * (1.0 + 0.25 * lump)
        roofs = env[E.SKYLINE] * (0.9 + 0.35 * house)
        if dy < max(trees, roofs):
            if trees > roofs:
                tone = 1.0 + 0.12 * noise(tile, azimuth * 900.0, dy * 900.0)
                return P.VEGETATION, 70.0 * tone, 88.0 * tone, 58.0 * tone
            tone = 130.0 + 30.0 * house
            return P.BUILDING, tone, tone * 0.97, tone * 0.93
    up = clamp(dy, 0.0, 1.0)
    t = min(1.5 * math.sqrt(up), 1.0)
    r = env[E.HAZE_RGB] + (env[E.ZENITH_RGB] - env[E.HAZE_RGB]) * t
    g = env[E.HAZE_RGB + 1] + (env[E.ZENITH_RGB + 1] - env[E.HAZE_RGB + 1]) * t
    b = env[E.HAZE_RGB + 2] + (env[E.ZENITH_RGB + 2] - env[E.HAZE_RGB + 2]) * t
    flat = 9.0 / (up + 0.12)
    cx = dx * flat + env[E.CLOUD_SHIFT] + 0.1 * env[E.TIME_S]
    cz = dz * flat + env[E.CLOUD_SHIFT + 1]
    density = noise(tile, cx, cz) + 0.5 * noise(tile, cx * 2.7, cz * 2.7 + 60.0)
    cover = ramp(density, 1.4 - 2.4 * env[E.CLOUD], 2.4 - 2.4 * env[E.CLOUD]) * 0.85
    white = 238.0 - 26.0 * clamp(density, -1.0, 1.5)
    if env[E.SHADOW] <= 0.0:
        white = env[E.HAZE_RGB + 1] * (1.0 - 0.07 * density)
    r += (white - r) * cover
    g += (white - g) * cover
    b += (white - b) * cover
    glow = dx * env[E.SUN] + dy * env[E.SUN + 1] + dz * env[E.SUN + 2]
    if glow > 0.0 and env[E.SHADOW] > 0.0:
        glow *= glow
        glow *= glow
        wide = glow * glow
        sharp = wide * wide
        sharp *= sharp * sharp * sharp  # glow to the power 128
        halo = 60.0 * wide + 200.0 * sharp
        r, g, b = r + halo, g + 0.95 * halo, b + 0.82 * halo
    return P.SKY, r, g, b


@kernel
def _unlit(
    env: NDArray[np.float64], tile: NDArray[np.float32], p: NDArray[np.float64], w: NDArray[np.float64], u: float,
    v: float, fu: float, fv: float, part: int,
) -> tuple[float, float, float]:  # fmt: skip
    """Dispatch on the material."""
    material = int(p[P.MATERIAL])
    if material == P.M_FACADE:
        return F.facade(env, tile, p, u, v, fu, fv, False)
    if material == P.M_SIDE_WALL:
        return F.facade(env, tile, p, u, v, fu, fv, True)
    if material == P.M_CROWN:
        return F.leaves(tile, p, u, v, max(fu, fv), clamp(v / p[P.PARAM + 1], -1.0, 1.0))
    if material == P.M_CAR_SIDE or material == P.M_CAR_CABIN:
        return M.car_part(env, p, u, v, part, material == P.M_CAR_CABIN)
    if material == P.M_CAR_STRIP:
        return M.car_strip(env, p, u, v)
    if material == P.M_BIG_SIDE or material == P.M_BOX_SIDE:
        return M.box_side(env, tile, p, u, v, fu, fv, part)
    if material == P.M_BOX_END:
        return M.box_end(env, p, u, v, fu, fv)
    if material == P.M_PERSON or material == P.M_BIKE:
        return M.figure(env, tile, p, u, v, part, w[R.TOWARDS])
    if material == P.M_HEDGE:
        return F.leaves(tile, p, u, v, max(fu, fv), clamp(2.0 * v / p[P.PARAM] - 1.0, -1.0, 1.0))
    if material == P.M_WALL:
        return F.wall(tile, p, u, v, fu, fv)
    if material == P.M_FENCE:
        return F.fence(tile, p, u, v, fu, fv)
    if material == P.M_ROOF:
        return F.roof(tile, p, u, v, fu, fv)
    if material == P.M_LIGHT:
        return F.traffic_light(env, p, u, v)
    if material == P.M_SIGN:
        return F.sign(p, u, v, part, w[R.SIDENESS] < 0.0)
    tone = 1.0
    if material == P.M_TRUNK:
        tone += 0.18 * noise(tile, u * 30.0, v * 7.0)
    return p[P.RGB_A] * tone, p[P.RGB_A + 1] * tone, p[P.RGB_A + 2] * tone


@inlined
def _surface(
    env: NDArray[np.float64], lots: NDArray[np.float64], tile: NDArray[np.float32], prims: NDArray[np.float64],
    w: NDArray[np.float64], camera: NDArray[np.float64], px: float, py: float, part: int, z: float,
) -> tuple[float, float, float]:  # fmt: skip
    """Lit colour of a polygon at a pixel."""
    p = prims[int(w[R.SOURCE])]
    near = 1.0 / z
    un = w[R.UMAP] * px + w[R.UMAP + 1] * py + w[R.UMAP + 2]
    vn = w[R.VMAP] * px + w[R.VMAP + 1] * py + w[R.VMAP + 2]
    u = un * z + w[R.UMAP + 3]
    v = vn * z + w[R.VMAP + 3]
    # Footprints from the exact texture coordinates one pixel on.
    zx = 1.0 / max(near + w[R.ZINV], 1e-4)
    zy = 1.0 / max(near + w[R.ZINV + 1], 1e-4)
    fu = abs((un + w[R.UMAP]) * zx - un * z) + abs((un + w[R.UMAP + 1]) * zy - un * z)
    fv = abs((vn + w[R.VMAP]) * zx - vn * z) + abs((vn + w[R.VMAP + 1]) * zy - vn * z)
    r, g, b = _unlit(env, tile, p, w, u, v, fu, fv, part)
    material = int(p[P.MATERIAL])
    if material == P.M_LIGHT and max(r, max(g, b)) > 230.0:
        return r, g, b
    lit = max(w[R.SUNLIT], 0.0)
    if p[P.BILLBOARD] > 0.0:
        half = p[P.POLY + 2]
        side = clamp(u / half, -1.0, 1.0)
        right = env[E.SUN] * camera[R.ROT] + env[E.SUN + 2] * camera[R.ROT + 2]
        ahead = env[E.SUN] * camera[R.ROT + 6] + env[E.SUN + 2] * camera[R.ROT + 8]
        lit = max(0.0, side * right - math.sqrt(1.0 - side * side) * ahead) * 0.7 + 0.3 * env[E.SUN + 1]
    if lit > 0.0:
        qx = (px - camera[R.CX]) / camera[R.FOCAL] * z
        qy = (py - camera[R.CY]) / camera[R.FOCAL] * z
        x = camera[0] + camera[R.ROT] * qx + camera[R.ROT + 3] * qy + camera[R.ROT + 6] * z
        y = camera[1] + camera[R.ROT + 1] * qx + camera[R.ROT + 4] * qy + camera[R.ROT + 7] * z
        wz = camera[2] + camera[R.ROT + 2] * qx + camera[R.ROT + 5] * qy + camera[R.ROT + 8] * z
        lit *= sun_at(env, lots, x - G.bend_at(env, lots, wz), y, wz)
    return (
        r * (env[E.AMBIENT_RGB] + env[E.SUN_RGB] * lit),
        g * (env[E.AMBIENT_RGB + 1] + env[E.SUN_RGB + 1] * lit),
        b * (env[E.AMBIENT_RGB + 2] + env[E.SUN_RGB + 2] * lit),
    )


@inlined
def _background(
    env: NDArray[np.float64], lots: NDArray[np.float64], crossings: NDArray[np.float64], tile: NDArray[np.float32],
    camera: NDArray[np.float64], px: float, py: float, shadow: float,
) -> tuple[int, float, float, float, float]:  # fmt: skip
    """Ground, far silhouette or sky: label, lit colour and depth (infinite for sky)."""
    f = camera[R.FOCAL]
    qx = (px - camera[R.CX]) / f
    qy = (py - camera[R.CY]) / f
    dx = camera[R.ROT] * qx + camera[R.ROT + 3] * qy + camera[R.ROT + 6]
    dy = camera[R.ROT + 1] * qx + camera[R.ROT + 4] * qy + camera[R.ROT + 7]
    dz = camera[R.ROT + 2] * qx + camera[R.ROT + 5] * qy + camera[R.ROT + 8]
    if dy < -1e-3:
        z = -camera[1] / dy
        if z < SKYLINE_M:
            wz = camera[2] + dz * z
            x = camera[0] + dx * z - G.bend_at(env, lots, wz)
            fx = z / f
            fs = z * z / (f * camera[1])
            label, r, g, b = G.ground(env, lots, crossings, tile, x, wz, fx, fs)
            lit = env[E.SUN + 1] * sun_at(env, lots, x, 0.0, wz)
            return (
                label,
                r * (env[E.AMBIENT_RGB] + env[E.SUN_RGB] * lit) * shadow,
                g * (env[E.AMBIENT_RGB + 1] + env[E.SUN_RGB + 1] * lit) * shadow,
                b * (env[E.AMBIENT_RGB + 2] + env[E.SUN_RGB + 2] * lit) * shadow,
                z,
            )
    n = 1.0 / math.sqrt(dx * dx + dy * dy + dz * dz)
    label, r, g, b = _sky(env, tile, dx * n, dy * n, dz * n)
    if label == P.SKY:
        return label, r, g, b, np.inf
    level = env[E.AMBIENT_RGB + 1] + 0.4 * env[E.SUN_RGB + 1]
    return label, r * level, g * level, b * level, SKYLINE_M


@kernel
def resolve(
    env: NDArray[np.float64], lots: NDArray[np.float64], crossings: NDArray[np.float64], tile: NDArray[np.float32],
    prims: NDArray[np.float64], visible: NDArray[np.float64], camera: NDArray[np.float64], zinv: NDArray[np.float32],
    ids: NDArray[np.int32], light: NDArray[np.float32], grain: NDArray[np.float32], grain_y: int, grain_x: int,
    work: NDArray[np.float64], lit: NDArray[np.float64], image: NDArray[np.uint8], label: NDArray[np.uint8],
    depth: NDArray[np.float32],
) -> None:  # fmt: skip
    """Fill image ``(H, W, 3)``, label ``(H, W)`` and depth ``(H, W)`` in metres.

    A pixel's colour is the mean over its samples; its label is the one that most samples carry (the nearer on a tie),
    and its depth is that of the surface with this label at the pixel's centre. ``work`` ``(5, 4)`` and ``lit``
    ``(4, W)`` are scratch space.
    """
    height, width = label.shape
    keys, counts, nears, labels, depths = work[0], work[1], work[2], work[3], work[4]
    for row in range(height):
        py = row + 0.5
        for col in range(width):
            px = col + 0.5
            a, b = ids[2 * row, 2 * col], ids[2 * row, 2 * col + 1]
            c, d = ids[2 * row + 1, 2 * col], ids[2 * row + 1, 2 * col + 1]
            distinct = 1
            keys[0] = a
            counts[0] = 4.0
            nears[0] = zinv[2 * row, 2 * col]
            if a != b or a != c or a != d:
                counts[0] = 1.0
                for j in range(1, 4):
                    key = b if j == 1 else (c if j == 2 else d)
                    k = 0
                    while k < distinct and keys[k] != key:
                        k += 1
                    if k == distinct:
                        keys[k] = key
                        counts[k] = 0.0
                        nears[k] = zinv[2 * row + (j >> 1), 2 * col + (j & 1)]
                        distinct += 1
                    counts[k] += 1.0
            red, green, blue = 0.0, 0.0, 0.0
            for k in range(distinct):
                if keys[k] < 0:
                    lab, cr, cg, cb, z = _background(env, lots, crossings, tile, camera, px, py, float(light[row, col]))
                else:
                    key = int(keys[k])
                    w = visible[key // R.PARTS]
                    part = key % R.PARTS
                    near = w[R.ZINV] * px + w[R.ZINV + 1] * py + w[R.ZINV + 2]
                    # At a silhouette the centre may miss the polygon: stay within reason of the sample that hit it.
                    z = 1.0 / clamp(near, 0.8 * nears[k], 1.25 * nears[k])
                    cr, cg, cb = _surface(env, lots, tile, prims, w, camera, px, py, part, z)
                    p = prims[int(w[R.SOURCE])]
                    lab = int(p[P.LABEL2] if part >= 8 and p[P.MATERIAL] == P.M_BIKE else p[P.LABEL])
                if z < 1e6:
                    fade = z / (z + env[E.HAZE_M])
                    cr += (env[E.HAZE_RGB] - cr) * fade
                    cg += (env[E.HAZE_RGB + 1] - cg) * fade
                    cb += (env[E.HAZE_RGB + 2] - cb) * fade
                share = 0.25 * counts[k]
                red += cr * share
                green += cg * share
                blue += cb * share
                labels[k] = lab
                depths[k] = z
            winner = 0
            if distinct > 1:
                most = 0.0
                for k in range(distinct):
                    votes = 0.0
                    for j in range(distinct):
                        if labels[j] == labels[k]:
                            votes += counts[j]
                    if votes > most or (votes == most and depths[k] < depths[winner]):
                        most = votes
                        winner = k
            label[row, col] = np.uint8(labels[winner])
            depth[row, col] = depths[winner]
            lit[0, col] = red
            lit[1, col] = green
            lit[2, col] = blue
        develop(env, lit, grain[(row + grain_y) & 255], grain_x, (2.0 * py - height) / height, image[row])
