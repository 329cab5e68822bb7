"""The closed forms of rain and fog against the tables of specs/weather.md, sections 2, 4, 11.1 and 11.2."""

from __future__ import annotations

import numpy as np
import pytest

from streams.frame import Intrinsics
from streams.weather.drops import (
    expected_streaks,
    fall_speed_mps,
    make_drop_field,
    near_clip_correction,
    resolved_density_per_m3,
    slope_per_mm,
    smallest_streak_mm,
)
from streams.weather.fog import fog_extinction_per_m
from streams.weather.rain import (
    REFERENCE_EXPOSURE_S,
    marshall_palmer_extinction_per_km,
    rain_extinction_per_km,
)

# rate: slope /mm, MP beta, Weber beta, 5 % visibility, t(50 m), t(150 m), density, expected streaks, correction,
#       rain rate that the drops carry
RAIN = {
    25: (2.086, 2.77, 2.696, 1111, 0.874, 0.667, 1525.7, 501.5, 26.1, 28),
    50: (1.803, 4.29, 4.290, 698, 0.807, 0.525, 1999.5, 897.7, 34.1, 55),
    75: (1.656, 5.54, 5.629, 532, 0.755, 0.430, 2323.6, 1262.0, 39.7, 80),
    100: (1.559, 6.64, 6.826, 439, 0.711, 0.359, 2576.5, 1607.0, 44.0, 105),
    200: (1.348, 10.27, 10.860, 276, 0.581, 0.196, 3271.8, 2876.6, 55.9, 198),
}


@pytest.mark.parametrize("rate", RAIN)
def test_rain_extinction_matches_sections_2_and_11_1(rate: int) -> None:
    _, palmer, weber, visibility, t50, t150, *_ = RAIN[rate]
    beta = rain_extinction_per_km(rate)
    assert beta == pytest.approx(weber, abs=0.001)
    assert -np.log(0.05) / beta * 1000 == pytest.approx(visibility, abs=0.6)
    assert np.exp(-beta * 0.05) == pytest.approx(t50, abs=0.0006)
    assert np.exp(-beta * 0.15) == pytest.approx(t150, abs=0.0006)
    assert marshall_palmer_extinction_per_km(rate) == pytest.approx(palmer, abs=0.006)
    assert marshall_palmer_extinction_per_km(rate) == pytest.approx(beta, rel=0.06)


@pytest.mark.parametrize("rate", RAIN)
def test_drop_statistics_match_section_11_2(rate: int) -> None:
    slope, *_, density, expected, correction, _ = RAIN[rate]
    assert slope_per_mm(rate) == pytest.approx(slope, abs=0.0006)
    assert resolved_density_per_m3(rate, 1131) == pytest.approx(density, abs=0.06)
    assert expected_streaks(rate, 512, 1024, 1131) == pytest.approx(expected, abs=0.06)
    assert near_clip_correction(rate, 512, 1024, 1131) == pytest.approx(correction, abs=0.06)
    assert smallest_streak_mm(1131) == pytest.approx(500 / 1131)


@pytest.mark.parametrize("rate", RAIN)
def test_drops_carry_their_rain_rate(rate: int) -> None:
    step = 1e-3
    size = np.arange(0.1, 20, step)  # the table integrates the tail beyond the 6 mm clip
    number = 8000 * np.exp(-slope_per_mm(rate) * size)
    flux = np.pi / 6 * (size * 1e-3) ** 3 * fall_speed_mps(size) * number  # m/s of water
    assert flux.sum() * step * 3.6e6 == pytest.approx(RAIN[rate][-1], rel=0.015)


def test_sampled_drops_follow_the_size_distribution() -> None:
    # Weighted by the visible volume, proportional to D^3, the mean diameter is 4 / slope up to the two clips.
    camera = Intrinsics(1131, 1131, 512, 256)
    field = make_drop_field(50, 512, 1024, camera, 0.005, 0.0, seed=1)
    box = (1024 / 1131 * field.diameter_m * 1131 + 2 * field.margin_m) * (
        512 / 1131 * field.diameter_m * 1131 + 2 * field.margin_m
    )
    visible = field.diameter_m**2 / box  # share of the box (its depth cancels) that the frustum fills, times 3 f^2/WH
    mean_mm = 1000 * (visible * field.diameter_m).sum() / visible.sum()
    assert mean_mm == pytest.approx(4 / slope_per_mm(50), rel=0.02)
    assert field.diameter_m.max() <= 6e-3


def test_reference_exposure_gives_the_published_gain() -> None:
    gain = 0.005 / REFERENCE_EXPOSURE_S
    assert gain == pytest.approx(7.34, abs=0.01)


@pytest.mark.parametrize(
    ("visibility", "threshold", "beta", "t50"),
    [
        (750, 0.05, 0.0040, 0.819), (375, 0.05, 0.0080, 0.671), (150, 0.05, 0.0200, 0.368), (75, 0.05, 0.0399, 0.136),
        (750, 0.02, 0.0052, 0.770), (375, 0.02, 0.0104, 0.594), (150, 0.02, 0.0261, 0.271), (75, 0.02, 0.0522, 0.074),
    ],
)  # fmt: skip
def test_fog_extinction_matches_section_4(visibility: float, threshold: float, beta: float, t50: float) -> None:
    assert fog_extinction_per_m(visibility, threshold) == pytest.approx(beta, abs=0.00006)
    assert np.exp(-50 * fog_extinction_per_m(visibility, threshold)) == pytest.approx(t50, abs=0.0006)
