"""The drift detector on made-up statistics: near and far, changes found, false alarms, memory, bad input."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from online_uda.adaptation.trigger.drift import DriftDetector, DriftReport
from online_uda.adaptation.trigger.source_distance import SourceDistance
from online_uda.adaptation.trigger.source_statistics import SourceSample
from online_uda.errors import UserError

DIM, AXES = 24, 4
SHIFT = torch.zeros(DIM, dtype=torch.float64)
SHIFT[5] = 1.0


def scenes(count: int, seed: int, spread: float = 1.0) -> Tensor:
    """Statistics of independent scenes: correlated, with offsets and scales that the detector has to find out."""
    generator = torch.Generator().manual_seed(seed)
    loads = torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(99), dtype=torch.float64) / DIM**0.5
    noise = torch.randn(count, DIM, generator=generator, dtype=torch.float64)
    scale = torch.linspace(0.1, 5.0, DIM, dtype=torch.float64)
    return (noise + 0.3 * noise @ loads) * scale * spread + torch.arange(DIM) * 3.0


def sample(count: int = 128, seed: int = 0) -> SourceSample:
    """Source scenes; corruption k pushes statistic 5 + k, a little more in some scenes than in others."""
    vectors = scenes(count, seed)
    of = torch.linspace(0, count - 1, min(32, count)).round().long()
    amount = torch.linspace(0.8, 1.2, len(of), dtype=torch.float64).unsqueeze(1) * 6.0
    pushes = torch.eye(DIM, dtype=torch.float64)[5 : 5 + AXES]
    return SourceSample(vectors, torch.stack([vectors[of] + amount * push for push in pushes]), of)


def detector(count: int = 128, **settings: Any) -> DriftDetector:
    made = DriftDetector(**settings)
    made.calibrate(sample(count))
    return made


def play(watcher: DriftDetector, vectors: Tensor) -> list[DriftReport]:
    return [watcher.update(vector) for vector in vectors]


def found(reports: list[DriftReport]) -> list[int]:
    return [frame for frame, report in enumerate(reports) if report.detected]


def scattered(amounts: list[float], frames: int, seed: int, scatter: float = 0.1) -> Tensor:
    """Visits of a shift along one axis, whose size varies from scene to scene in proportion to it."""
    sizes = torch.tensor(amounts, dtype=torch.float64).repeat_interleave(frames)
    generator = torch.Generator().manual_seed(seed)
    sizes = sizes * (1 + scatter * torch.randn(len(sizes), generator=generator, dtype=torch.float64))
    return scenes(len(sizes), seed) + sizes.unsqueeze(1) * SHIFT


@pytest.mark.parametrize("count", [16, 128])
def test_unseen_source_scenes_are_near_and_raise_nothing(count: int) -> None:
    reports = play(detector(count), scenes(3000, seed=7))
    assert found(reports) == []
    assert not any(report.far for report in reports)
    assert 0.2 < sum(report.distance for report in reports) / len(reports) < 0.9


@pytest.mark.parametrize("count", [16, 128])
def test_a_shift_is_far_until_it_ends(count: int) -> None:
    reports = play(detector(count), scattered([0.0, 60.0, 0.0], 40, seed=3))
    far = [report.far for report in reports]
    assert far[:40] == [False] * 40
    assert all(far[46:80])
    assert far[86:] == [False] * 34
    assert [frame // 40 for frame in found(reports)] == [1, 2]


def test_strength_is_linear_in_the_distance_beyond_the_limit() -> None:
    watcher = detector()
    reports = [*play(watcher, scattered([0.0, 6.0, 8.0, 80.0], 20, seed=4))]
    assert {report.strength for report in reports[:20]} == {0.0}
    assert all(report.strength == pytest.approx(min(max(report.distance - 1, 0), 1)) for report in reports)
    assert any(0 < report.strength < 1 for report in reports)
    assert reports[-1].strength == 1.0


def test_steps_between_far_domains_are_found_and_their_levels_are_quiet() -> None:
    """Visits of 60 frames as in cs2rain; the median delay bound is the project's."""
    delays, alarms = [], 0
    for seed in range(10):
        frames = found(play(detector(), scattered([0.0, 25.0, 50.0, 100.0, 50.0, 0.0], 60, seed=seed)))
        for visit in range(1, 6):
            inside = [frame - 60 * visit for frame in frames if 0 <= frame - 60 * visit < 60]
            delays.append(inside[0] if inside else math.inf)
            alarms += max(len(inside) - 1, 0)
        alarms += sum(frame < 60 for frame in frames)
    assert sorted(delays)[len(delays) // 2] <= 12
    assert max(delays) < 60
    assert alarms <= 3  # in 2 400 far frames


def test_a_change_says_whether_it_leads_back_to_the_source() -> None:
    reports = play(detector(), scattered([0.0, 100.0, 25.0, 100.0, 0.0], 40, seed=3))
    sure = [frame for frame, report in enumerate(reports) if report.confirmed]
    assert [(frame // 40, reports[frame].nearer) for frame in sure] == [
        (1, False), (2, True), (3, False), (4, True),
    ]  # fmt: skip
    assert not any(report.nearer for report in reports if not report.confirmed)


def test_a_turn_is_told_at_once_and_confirmed_by_the_distance_or_never() -> None:
    """The shift changes its axis and keeps its size; then it grows."""
    vectors = scattered([40.0, 40.0, 80.0], 40, seed=3, scatter=0.02)
    vectors[40:80] += 40.0 * (torch.roll(SHIFT, 1) - SHIFT)
    reports = play(detector(), vectors)
    told = found(reports)
    sure = [frame for frame, report in enumerate(reports) if report.confirmed]
    assert [frame // 40 for frame in told] == [0, 1, 2]
    assert [frame // 40 for frame in sure] == [0, 2]
    assert told[1] <= 43
    assert told[2] <= sure[1]


def test_a_long_far_domain_is_seldom_called_new() -> None:
    frames = found(play(detector(), scattered([40.0], 3000, seed=11)))
    assert frames[0] < 10
    assert len(frames) <= 10


def test_noise_of_the_stream_raises_and_quiet_lowers_the_bar() -> None:
    """The same step of 20 %, after 300 frames that waver and after 300 that do not."""
    step = scattered([60.0, 72.0], 40, seed=13, scatter=0.0)

    def steps_found(scatter: float) -> int:
        watcher = detector()
        play(watcher, scattered([60.0], 300, seed=12, scatter=scatter))
        return len(found(play(watcher, step)[40:]))

    assert steps_found(0.02) == 1
    assert steps_found(0.35) == 0


def test_one_odd_frame_decides_nothing() -> None:
    vectors = scattered([0.0], 60, seed=5)
    vectors[30] += 20.0 * SHIFT
    assert found(play(detector(), vectors)) == []


def test_a_shift_that_no_corruption_resembles_is_far_once_it_is_large() -> None:
    vectors = scenes(40, seed=6)
    vectors[20:, 15:] += 40.0
    reports = play(detector(), vectors)
    assert not reports[19].far
    assert reports[-1].far


def test_settings_do_what_they_say() -> None:
    vectors = scattered([0.0, 30.0, 60.0], 40, seed=8)

    def delays(**settings: Any) -> list[int]:
        return found(play(detector(**settings), vectors))

    usual = delays()
    assert delays(leave_evidence=4.0)[0] > usual[0]
    seldom = {"turn_quantile": 1 - 1e-15}
    assert delays(**seldom)[1] > usual[1]
    assert delays(window=12, **seldom)[1] > delays(**seldom)[1]
    assert delays(turn_window=8)[1] > usual[1]
    assert len(delays(step=50.0, **seldom)) < len(usual)
    back = scattered([30.0, 0.0], 30, seed=8)
    assert [report.far for report in play(detector(), back)].count(True) < [
        report.far for report in play(detector(return_evidence=3.0), back)
    ].count(True)
    far, strict = SourceDistance.fit(sample(), 0.9, 0.8), SourceDistance.fit(sample(), 0.99, 0.8)
    assert strict.axes_limit > far.axes_limit
    assert SourceDistance.fit(sample(), 0.9, 0.5).near_limit < far.near_limit
    ramp = scattered([30.0] * 60 + [30.0 + 0.25 * rise for rise in range(80)], 1, seed=9, scatter=0.0)
    long, short = (found(play(detector(reference_frames=frames), ramp)) for frames in (200, 5))
    assert len(long) > len(short)


def test_limit_is_the_stated_quantile_of_unseen_source_frames() -> None:
    source = SourceDistance.fit(sample(256), 0.9, 0.8)
    unseen = torch.tensor([source(vector) for vector in scenes(4000, seed=21)])
    assert float((unseen > 1.0).double().mean()) == pytest.approx(0.1, abs=0.04)
    assert float((unseen > source.near_limit).double().mean()) == pytest.approx(0.2, abs=0.05)


def test_distance_against_its_definition() -> None:
    """Largest whitened coordinate along a corruption's mean shift, by numpy's own covariance and square root."""
    data = sample()
    source = SourceDistance.fit(data, 0.975, 0.9)
    vectors = data.vectors
    std = vectors.std(0)
    correlation = torch.corrcoef(vectors.T) * 0.9 + 0.1 * torch.eye(DIM, dtype=torch.float64)
    values, rotation = torch.linalg.eigh(correlation)
    root = rotation @ torch.diag(values.rsqrt()) @ rotation.T
    shifts = ((data.corrupted - vectors[data.of]).mean(1) / std) @ root
    coordinate = ((scenes(1, 33)[0] + 9 * SHIFT - vectors.mean(0)) / std) @ root
    expected = max(abs(float(shift @ coordinate) / float(shift.norm())) for shift in shifts)
    assert source(scenes(1, 33)[0] + 9 * SHIFT) * source.axes_limit == pytest.approx(expected, rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(1e-3, 1e3), offset=st.floats(-100, 100))
def test_distance_does_not_depend_on_the_units_of_the_statistics(scale: float, offset: float) -> None:
    data, vector = sample(48), scenes(1, 5)[0] + 4 * SHIFT
    moved = SourceSample(data.vectors * scale + offset, data.corrupted * scale + offset, data.of)
    plain, other = (SourceDistance.fit(each, 0.975, 0.9) for each in (data, moved))
    assert other(vector * scale + offset) == pytest.approx(plain(vector), rel=1e-5)


def test_frames_that_are_not_finite_are_left_out() -> None:
    vectors = scattered([0.0, 30.0], 30, seed=2)
    plain, disturbed = detector(), detector()
    broken = vectors[0].clone()
    broken[3] = math.nan
    expected, seen = [], []
    for vector in vectors:
        report = disturbed.update(broken)
        assert not report.detected
        seen.append(disturbed.update(vector))
        expected.append(plain.update(vector))
    assert seen == expected
    assert disturbed.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("cut", [2, 30, 47, 66, 100])
def test_continues_bit_for_bit(cut: int) -> None:
    vectors = scattered([0.0, 25.0, 60.0], 40, seed=1)
    whole, resumed = detector(), DriftDetector()
    play(whole, vectors[:cut])
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert play(whole, vectors[cut:]) == play(resumed, vectors[cut:])


def test_state_does_not_grow_with_the_stream() -> None:
    watcher = detector()
    sizes = set()
    for start in range(3):
        play(watcher, scattered([40.0], 200, seed=start))
        state = watcher.state_dict()
        sizes.add((len(state["recent"]), len(state["logs"])))
    assert max(recent + logs for recent, logs in sizes) <= 3 * watcher.window


def test_reset_forgets_the_stream_and_keeps_the_calibration() -> None:
    vectors = scattered([30.0, 60.0], 30, seed=1)
    watcher = detector()
    first = play(watcher, vectors)
    watcher.reset()
    assert play(watcher, vectors) == first


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"window": 0}, "window"),
        ({"reference_frames": 2}, "reference_frames"),
        ({"step": 0.0}, "step"),
        ({"leave_evidence": 0.0}, "leave_evidence"),
        ({"return_evidence": -1.0}, "return_evidence"),
        ({"turn_window": 0}, "turn_window"),
        ({"turn_quantile": 1.0}, "turn_quantile"),
        ({"far_quantile": 0.5}, "near_quantile"),
        ({"far_quantile": 1.0}, "far_quantile"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        DriftDetector(**settings)


def test_bad_input_is_named() -> None:
    with pytest.raises(UserError, match="calibrate"):
        DriftDetector().update(torch.zeros(DIM))
    with pytest.raises(UserError, match="24 statistics"):
        detector().update(torch.zeros(3))
    with pytest.raises(UserError, match="at least 4"):
        detector(3)
    data = sample(16)
    with pytest.raises(UserError, match="alike"):
        DriftDetector().calibrate(SourceSample(data.vectors[:1].repeat(16, 1), data.corrupted, data.of))
    with pytest.raises(UserError, match="not finite"):
        DriftDetector().calibrate(SourceSample(data.vectors * math.nan, data.corrupted, data.of))
    watcher = detector(window=8)
    play(watcher, scenes(10, 0))
    with pytest.raises(UserError, match="window of 5"):
        DriftDetector().load_state_dict(watcher.state_dict())
