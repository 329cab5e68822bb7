"""The triggers of a recipe: HAMLET's window detector with its budget, and the drift detector."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from recipe_kit import KINDS, SourceSet, changed, copy_of, stream, trained

from online_uda.adaptation.replay.buffer import ReplayBuffer
from online_uda.adaptation.trigger.base import Decision, EveryFrames
from online_uda.adaptation.trigger.drift import calibrate_from_buffer, stage_statistics
from online_uda.adaptation.trigger.hamlet import BudgetRule, WindowDetector
from online_uda.adaptation.trigger.policies import DriftPolicy, HamletPolicy, light_head_signal

SIGNAL = "online_uda.adaptation.trigger.policies.light_head_signal"


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("every", [0, 1, 3])
def test_every_frames(every: int) -> None:
    policy = EveryFrames(every)
    frames = next(stream(1))
    prediction = trained("batchnorm")(frames)
    learned = [policy.decide(frames, prediction).learn for _ in range(7)]
    assert learned == [every > 0 and index % every == 0 for index in range(7)]
    other = EveryFrames(every)
    other.load_state_dict(through_a_file(policy.state_dict()))
    assert [policy.decide(frames, prediction).learn for _ in range(4)] == [
        other.decide(frames, prediction).learn for _ in range(4)
    ]


def test_signal_is_the_light_heads_cross_entropy_on_the_predicted_labels() -> None:
    """specs/hamlet.md 2.3, by hand: mean of -log p(label) over the pixels of the logits."""
    network = trained("layernorm")
    frames = next(stream(1))
    prediction = network(frames)
    light = network.light(frames).logits[0].double().softmax(0)
    labels = prediction.logits[0].argmax(0)
    by_hand = -sum(
        math.log(light[labels[row, column], row, column])
        for row in range(labels.shape[0])
        for column in range(labels.shape[1])
    )
    assert light_head_signal(network, frames, prediction) == pytest.approx(by_hand / labels.numel(), rel=1e-5)


def test_signal_rises_when_the_light_head_and_the_prediction_part() -> None:
    network = trained("layernorm")
    clear, hazy = next(stream(1, haze=0.0)), next(stream(1, haze=0.7))
    assert light_head_signal(network, hazy, network(clear)) > light_head_signal(network, clear, network(clear)) + 0.3


def scripted(monkeypatch: pytest.MonkeyPatch, policy: HamletPolicy, signals: list[float]) -> list[Decision]:
    feed = iter(signals)
    monkeypatch.setattr(SIGNAL, lambda *_: next(feed))
    frames = next(stream(1))
    return [policy.decide(frames, None) for _ in signals]  # type: ignore[arg-type]


def test_hamlet_golden_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    """specs/hamlet.md 4.1, first row: 300 frames at 0.8, then 1.3; fires at 375, K = 1630, and the plan."""
    policy = HamletPolicy(trained("layernorm"), WindowDetector(75, 0.23, -0.23), BudgetRule())
    decisions = scripted(monkeypatch, policy, [0.8] * 300 + [1.3] * 1900)
    assert [index for index, decision in enumerate(decisions) if decision.detected] == [375]
    learning = [index for index, decision in enumerate(decisions) if decision.learn]
    assert learning == list(range(376, 376 + 1630))
    first, last = decisions[376], decisions[376 + 1629]
    assert first.learning_rate == pytest.approx(2.786e-5, abs=1e-8)
    assert last.learning_rate == pytest.approx(first.learning_rate / 1630)
    assert first.mix_ratio == pytest.approx(0.5714, abs=1e-4)
    assert decisions[0].signal == 0.8
    assert not any(decision.relax for decision in decisions)


def test_hamlet_continues_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    signals = [0.8] * 9 + [1.4] * 12 + [0.9] * 10
    rule = BudgetRule(base_frames=3, max_frames=20)
    whole, resumed = (HamletPolicy(trained("layernorm"), WindowDetector(4, 0.23, -0.23), rule) for _ in range(2))
    scripted(monkeypatch, whole, signals[:14])
    resumed.load_state_dict(through_a_file(whole.state_dict()))
    first, second = (scripted(monkeypatch, policy, signals[14:]) for policy in (whole, resumed))
    assert first == second
    assert any(decision.learn for decision in first)


def drift_policy(kind: str, scale: float = 0.5) -> DriftPolicy:
    network = trained(kind)
    buffer = ReplayBuffer(SourceSet(), range(8))
    return DriftPolicy(network, calibrate_from_buffer(network, buffer, scale=scale), scale)


@dataclass
class Word:
    """What a detector says of a frame."""

    far: bool
    distance: float
    detected: bool
    nearer: bool = False

    @property
    def confirmed(self) -> bool:
        """These are sure of what they say."""
        return self.detected


class ScriptedDetector:
    """Says far, near, far and remembers what it was shown."""

    def __init__(self) -> None:
        self.words = [Word(True, 4.5, True), Word(False, 0.5, False), Word(True, 2.0, True, True)]
        self.shown: list[Any] = []

    def update(self, statistics: Any) -> Word:
        """The next word."""
        self.shown.append(statistics)
        return self.words[len(self.shown) - 1]

    def signature(self, statistics: Any) -> None:
        """None is known."""


def test_drift_learns_far_from_the_source_and_relaxes_near_it() -> None:
    network = trained("layernorm")
    policy = DriftPolicy(network, ScriptedDetector(), 0.5)  # type: ignore[arg-type]
    decisions = [policy.decide(frame, network(frame)) for frame in stream(3)]
    assert decisions == [
        Decision(True, relax=False, signal=4.5, detected=True, confirmed=True, distance=4.5, far=True),
        Decision(False, relax=True, signal=0.5, detected=False, distance=0.5),
        Decision(True, relax=False, signal=2.0, detected=True, confirmed=True, nearer=True, distance=2.0, far=True),
    ]


@pytest.mark.parametrize(
    ("every", "expected"), [(1, [1, 1, 1, 1, 0, 1, 1]), (2, [1, 0, 1, 1, 0, 1, 0]), (3, [1, 0, 0, 1, 0, 1, 0])]
)
def test_drift_learns_on_every_nth_far_frame_and_on_each_that_shows_a_change(every: int, expected: list[int]) -> None:
    network, detector = trained("layernorm"), ScriptedDetector()
    far, change, near = Word(True, 2.0, False), Word(True, 2.0, True), Word(False, 0.5, False)
    detector.words = [change, far, far, change, near, change, far]
    policy = DriftPolicy(network, detector, 0.5, every)  # type: ignore[arg-type]
    decisions = [policy.decide(frame, network(frame)) for frame in stream(7)]
    assert [decision.learn for decision in decisions] == [bool(word) for word in expected]
    assert [decision.relax for decision in decisions] == [word is near for word in detector.words]


@pytest.mark.parametrize("kind", KINDS)
def test_drift_tells_the_source_from_a_thick_haze_on_either_network(kind: str) -> None:
    policy, network = drift_policy(kind), trained(kind)

    def learned(haze: float, count: int) -> list[bool]:
        frames = [frame for _ in range(count // 8) for frame in stream(8, seed=0, haze=haze)]
        return [policy.decide(frame, network(frame)).learn for frame in frames]

    assert not any(learned(0.0, 24))
    assert all(learned(0.9, 40)[-8:])


def test_drift_signal_is_the_detectors_distance_of_the_frame() -> None:
    policy, network = drift_policy("layernorm", 1.0), trained("layernorm")
    detector = calibrate_from_buffer(network, ReplayBuffer(SourceSet(), range(8)), scale=1.0)
    for frame in stream(3):
        report = detector.update(stage_statistics(network, frame, scale=1.0))
        decision = policy.decide(frame, network(frame))
        assert (decision.signal, decision.learn, decision.detected) == (report.distance, report.far, report.detected)


def test_drift_signal_does_not_depend_on_the_precision_of_the_method() -> None:
    frame = next(stream(1))
    prediction = trained("layernorm")(frame)
    plain, coarse = drift_policy("layernorm"), drift_policy("layernorm")
    with torch.autocast("cpu", torch.bfloat16):
        decision = coarse.decide(frame, prediction)
    assert decision == plain.decide(frame, prediction)


def test_drift_scale_changes_what_is_seen() -> None:
    frame = next(stream(1))
    prediction = trained("layernorm")(frame)
    signals = {drift_policy("layernorm", scale).decide(frame, prediction).signal for scale in (0.5, 1.0)}
    assert len(signals) == 2


def test_drift_continues_bit_for_bit() -> None:
    network = trained("layernorm")
    whole, resumed = drift_policy("layernorm"), drift_policy("layernorm")
    frames = [*stream(5, haze=0.0), *stream(15, haze=0.6)]
    for frame in frames[:8]:
        whole.decide(frame, network(frame))
    resumed.load_state_dict(through_a_file(whole.state_dict()))
    for frame in frames[8:]:
        assert whole.decide(frame, network(frame)) == resumed.decide(frame, network(frame))


def test_watching_never_changes_the_network() -> None:
    network = trained("batchnorm")
    before = copy_of(network)
    frame = next(stream(1))
    detector = calibrate_from_buffer(network, ReplayBuffer(SourceSet(), range(8)), scale=0.5)
    for policy in (
        DriftPolicy(network, detector, 0.5),
        HamletPolicy(network, WindowDetector(4, 0.2, -0.2), BudgetRule()),
    ):
        policy.decide(frame, network(frame))
    assert not changed(before, copy_of(network))
