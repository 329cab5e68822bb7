"""The test of adjacent windows of signatures: against numpy and scipy, what it finds and leaves alone, its memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor

from online_uda.adaptation.trigger.signature_step import SignatureStep

AXES, WINDOW, VARIANCE = 6, 3, 0.02


def signatures(frames: int, seed: int, size: float = 5.0, turned: float = 0.0) -> Tensor:
    """A domain along the first axis, turned by an angle into the second, with scatter in proportion to its size."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.zeros(AXES, dtype=torch.float64)
    centre[0], centre[1] = size * np.cos(turned), size * np.sin(turned)
    return centre + 0.05 * size * torch.randn(frames, AXES, generator=generator, dtype=torch.float64)


def found(step: SignatureStep, frames: Tensor) -> list[int]:
    return [at for at, frame in enumerate(frames) if step.update(frame, VARIANCE)]


@pytest.mark.parametrize("axes", [4, 10, 40])
@pytest.mark.parametrize("quantile", [0.9, 0.99, 0.9997])
def test_limit_is_the_quantile_of_chi_squared(axes: int, quantile: float) -> None:
    assert SignatureStep(3, quantile).limit(axes) == pytest.approx(chi2.ppf(quantile, axes), rel=0.03, abs=0.05)


def test_against_hotellings_formula() -> None:
    """The first comparison has nothing but the calibration to go by; the second has the first as well."""
    frames = signatures(2 * WINDOW + 1, 0).numpy()
    quantity, sums = [], np.zeros((AXES, AXES))
    for count, start in enumerate((0, 1)):
        before, now = frames[start : start + WINDOW].mean(0), frames[start + WINDOW : start + 2 * WINDOW].mean(0)
        moved = (now - before) / np.linalg.norm(before)
        prior = 60 * 2.0 * VARIANCE * 2 / WINDOW / AXES * np.eye(AXES)
        quantity.append(moved @ np.linalg.inv((prior + sums) / (60 + count)) @ moved)
        sums += np.outer(moved, moved)
    for each, at in zip(quantity, (2 * WINDOW - 1, 2 * WINDOW), strict=True):
        below, above = (float(chi2.cdf(each * share, AXES)) for share in (0.8, 1.25))
        assert at in found(SignatureStep(WINDOW, below), torch.from_numpy(frames))
        assert at not in found(SignatureStep(WINDOW, above), torch.from_numpy(frames))


@pytest.mark.parametrize(("size", "turned"), [(8.0, 0.0), (3.0, 0.0), (5.0, 0.6)])
def test_steps_in_length_and_in_direction_are_found_at_once(size: float, turned: float) -> None:
    step = SignatureStep(WINDOW, 0.9997)
    assert found(step, signatures(80, 1)) == []
    assert found(step, signatures(4, 2, size, turned)) != []


def test_what_the_stream_does_all_the_time_is_no_step() -> None:
    """A camera that swings along the third axis: after a while nothing of it is odd, a step elsewhere still is."""
    swing = torch.zeros(400, AXES, dtype=torch.float64)
    swing[:, 2] = 4.0 * torch.sin(torch.arange(400) * 0.5)
    step = SignatureStep(WINDOW, 0.9997)
    frames = signatures(400, 3) + swing
    assert found(step, frames[:40]) != []
    assert found(step, frames[150:]) == []
    assert found(step, frames[:WINDOW] + 5.0) != []


def test_a_new_domain_is_not_compared_with_the_last_one() -> None:
    step = SignatureStep(WINDOW, 0.9997)
    assert found(step, signatures(30, 4)) == []
    step.start_domain()
    assert found(step, signatures(30, 5, size=20.0)) == []


def test_no_signature_at_all_is_no_step() -> None:
    assert found(SignatureStep(WINDOW, 0.9), torch.zeros(20, AXES, dtype=torch.float64)) == []


@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 50))
def test_units_do_not_matter(scale: float, seed: int) -> None:
    frames = torch.cat([signatures(20, seed), signatures(20, seed + 1, size=7.0)])
    assert found(SignatureStep(WINDOW, 0.99), frames) == found(SignatureStep(WINDOW, 0.99), frames * scale)


@pytest.mark.parametrize("cut", [2, 7, 30])
def test_a_restored_memory_goes_on(cut: int) -> None:
    frames = torch.cat([signatures(25, 6), signatures(25, 7, turned=0.5)])
    whole, resumed = SignatureStep(WINDOW, 0.99), SignatureStep(WINDOW, 0.99)
    found(whole, frames[:cut])
    resumed.load_state_dict(whole.state_dict())
    assert found(resumed, frames[cut:]) == found(whole, frames[cut:])
