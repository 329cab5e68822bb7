"""Which part of a person, rider or cycle lies at (u, v) of its billboard; 0 where one sees past it.

Figures are built from parts placed along their heading and projected on the billboard: a part at distance ``a`` ahead
lies at ``u = a * q``, q being the cosine between heading and the right of the camera (1: seen from the side).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streams.city import _prims as P
from streams.city._math import inlined, kernel, near_segment

HAIR, SKIN, TOP, LEGS, SHOES, BAG = 1, 2, 3, 4, 5, 6
TYRE, SPOKES, METAL, SEAT, LAMP_PART, PAINT_PART = 8, 9, 10, 11, 12, 13


@inlined
def reach(p: NDArray[np.float64], q: float) -> float:
    """Half the width beyond which the figure with record ``p`` has no part, a little more than its widest one.

    Every part ends where a convex function of ``abs(q)`` says, so that a line through a bound at 0 (arms, handlebars)
    and one at 1 (stride, wheels) bounds them all.
    """
    aq = abs(q)
    if p[P.MATERIAL] == P.M_PERSON:
        return (0.36 + 0.22 * aq) * p[P.PARAM] / 1.75
    if p[P.PARAM] >= 2.0:
        return 0.42 + 0.62 * aq  # a motorcycle
    return 0.34 + 0.56 * aq


@kernel
def person(p: NDArray[np.float64], u: float, v: float, q: float) -> int:
    """PARAM: height, sine and cosine of the stride (0 when standing), girth, hem of the top, then flags.

    Flags: 1 long hair, 2 a bag, 4 a skirt.
    """
    s = 1.75 / p[P.PARAM]
    swing, lifted = p[P.PARAM + 1], p[P.PARAM + 2]
    wide, top = p[P.PARAM + 3], p[P.PARAM + 4]
    flags = int(p[P.PARAM + 5])
    u *= s
    v *= s
    front = 1.0 - abs(q)
    hx = u - 0.05 * q
    hy = v - 1.61
    head = (hx / 0.10) ** 2 + (hy / 0.135) ** 2
    if head < 1.0:
        return HAIR if hy > 0.045 or hx * q < -0.055 * abs(q) else SKIN
    if head < 2.1 and (flags & 1) and 1.40 < v < 1.70 and hx * q < 0.03:
        return HAIR
    if v > 1.50:
        return 0
    if (flags & 2) and 0.98 < v < 1.42 and abs(u + 0.22 * q) < 0.11 + 0.09 * front:
        return BAG
    if top < v < 1.46:
        half = (0.125 + 0.075 * front) * wide
        if v > 1.34:
            half *= 1.0 - (v - 1.34) * 3.2
        if v < 0.85:
            half *= 1.0 + (0.85 - v) * 0.4
        if abs(u) < half:
            return TOP
    for side in (-1.0, 1.0):
        if v < 0.80:
            break
        ax = side * 0.235 * front * wide
        reach = side * 0.26 * swing * q
        if near_segment(u, v, ax * 0.9, 1.38, ax + reach, 0.88, 0.062):
            return TOP if v > 0.94 else SKIN
    for side in (-1.0, 1.0):
        if v > 0.96:
            break
        hip = side * 0.085 * (0.35 + 0.65 * front)
        foot = hip - side * 0.34 * swing * q
        lift = 0.06 * max(0.0, -side * lifted)
        if near_segment(u, v, hip, 0.86, foot, 0.08 + lift, max(0.0, 0.092 - 0.03 * (0.9 - v))):
            return LEGS if v > 0.11 + lift else SHOES
        if v < 0.16 and near_segment(u, v, foot, 0.04 + lift, foot + 0.13 * q, 0.035 + lift, 0.05):
            return SHOES
    if (flags & 4) and 0.42 < v < 0.90 and abs(u) < 0.15 + (0.9 - v) * 0.22:
        return LEGS  # a skirt
    return 0


@kernel
def _rider(u: float, v: float, q: float, pedal_a: float, pedal_v: float, motor: bool) -> int:
    front = 1.0 - abs(q)
    hip_a, hip_v, sh_a, sh_v, hand_a, hand_v = -0.20, 0.98, 0.14, 1.46, 0.44, 1.08
    if motor:
        hip_a, hip_v, sh_a, sh_v, hand_a, hand_v = -0.22, 0.88, 0.06, 1.38, 0.42, 1.02
    hx = u - (sh_a + 0.10) * q
    hy = v - (sh_v + 0.21)
    if (hx / 0.115) ** 2 + (hy / 0.145) ** 2 < 1.0:
        return HAIR if hy > -0.01 or motor else SKIN
    if v > sh_v + 0.14:
        return 0
    if v > hip_v - 0.16 and near_segment(u, v, hip_a * q, hip_v + 0.04, sh_a * q, sh_v - 0.06, 0.135 + 0.055 * front):
        return TOP
    for side in (-1.0, 1.0):
        if v < hand_v - 0.07:
            break
        lateral = side * 0.24 * front
        if near_segment(u, v, sh_a * q + lateral * 0.8, sh_v - 0.05, hand_a * q + lateral * 1.1, hand_v, 0.06):
            return TOP
    if v > hip_v + 0.16:
        return 0
    for side in (-1.0, 1.0):
        foot_a = 0.05 - side * pedal_a
        foot_v = 0.30 - side * pedal_v
        if motor:
            foot_a, foot_v = 0.0, 0.32
        knee_a = 0.5 * (hip_a + foot_a) + 0.26
        knee_v = 0.5 * (hip_v + foot_v) + 0.08
        lateral = side * 0.11 * (0.3 + 0.7 * front)
        if near_segment(u, v, hip_a * q + lateral * 0.6, hip_v, knee_a * q + lateral, knee_v, 0.088):
            return LEGS
        if near_segment(u, v, knee_a * q + lateral, knee_v, foot_a * q + lateral, foot_v, 0.066):
            return LEGS if v > foot_v + 0.03 else SHOES
    return 0


@kernel
def _wheel(u: float, v: float, a: float, q: float, radius: float, thick: float) -> float:
    """Distance from the hub in wheel radii; above 1 outside."""
    rx = max(radius * abs(q), thick)
    du = (u - a * q) / rx
    dv = (v - radius) / radius
    return math.sqrt(du * du + dv * dv)


@kernel
def bike(p: NDArray[np.float64], u: float, v: float, q: float, towards: float) -> int:
    """A cycle; riders are the parts below 8.

    PARAM: kind (0 parked bicycle, 1 with rider, 2 parked motorcycle, 3 with rider), how far a pedal is ahead of and
    above its axle, then flags: 1 top tube, 2 basket.
    """
    kind = int(p[P.PARAM])
    flags = int(p[P.PARAM + 3])
    front = 1.0 - abs(q)
    motor = kind >= 2
    base = 0.70 if motor else 0.53
    radius = 0.32 if motor else 0.35
    thick = 0.10 if motor else 0.055
    if front > 0.35 and v < 0.72:
        # Seen from an end, the nearer wheel hides the legs behind it.
        near = base if towards > 0.0 else -base
        if _wheel(u, v, near, q, radius, thick) < 1.0:
            return TYRE
    if kind == 1 or kind == 3:
        part = _rider(u, v, q, p[P.PARAM + 1], p[P.PARAM + 2], motor)
        if part > 0:
            return part
    if v > (1.40 if motor else 1.12):
        return 0
    for a in (-base, base):
        if v > 0.72:
            break
        r = _wheel(u, v, a, q, radius, thick)
        if r < 1.0:
            if motor:
                return TYRE if r > 0.62 or front > 0.8 else METAL
            return TYRE if r > 0.84 or front > 0.8 else SPOKES
    if motor:
        if near_segment(u, v, -0.12 * q, 0.40, 0.22 * q, 0.44, 0.19 + 0.03 * front):
            return METAL
        if near_segment(u, v, 0.02 * q, 0.80, 0.34 * q, 0.82, 0.16 + 0.02 * front):
            return PAINT_PART
        if near_segment(u, v, -0.72 * q, 0.82, -0.05 * q, 0.78, 0.085 + 0.06 * front):
            return SEAT
        if near_segment(u, v, 0.70 * q, 0.32, 0.44 * q, 0.96, 0.06 + 0.05 * front):
            return METAL
        du = u - 0.52 * q
        if du * du + (v - 0.86) ** 2 < 0.0169:
            return LAMP_PART
        if abs(u - 0.40 * q) < 0.05 + 0.36 * front and abs(v - 1.04) < 0.04:
            return METAL
        if near_segment(u, v, 0.50 * q, 1.0, 0.40 * q, 1.28, 0.04 + 0.14 * front):
            return SEAT
        return 0
    t = 0.038
    bottom = 0.32
    if near_segment(u, v, -0.05 * q, bottom, -0.22 * q, 0.92, t):
        return PAINT_PART
    if near_segment(u, v, -0.05 * q, bottom, 0.40 * q, 0.82, t):
        return PAINT_PART
    if (flags & 1) and near_segment(u, v, -0.17 * q, 0.80, 0.38 * q, 0.88, t):
        return PAINT_PART
    if near_segment(u, v, -base * q, radius, -0.05 * q, bottom, t * 0.8):
        return PAINT_PART
    if near_segment(u, v, -base * q, radius, -0.18 * q, 0.78, t * 0.8):
        return PAINT_PART
    if near_segment(u, v, base * q, radius, 0.38 * q, 0.98, t):
        return METAL
    if near_segment(u, v, -0.34 * q, 0.97, -0.12 * q, 0.96, 0.05 + 0.05 * front):
        return SEAT
    if abs(u - 0.40 * q) < 0.06 + 0.24 * front and abs(v - 1.06) < 0.038:
        return METAL
    if (flags & 2) and abs(u - 0.62 * q) < 0.12 + 0.08 * front and 0.74 < v < 0.98:
        return SEAT  # a basket
    return 0
