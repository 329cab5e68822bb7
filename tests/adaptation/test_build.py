"""From a method file to a running method: the four shipped ones on networks of either kind (hamlet.md 9, check 22)."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_kit import KINDS, SIZE, SourceSet, changed, copy_of, play, settings_of, stream, trained, untrained

from online_uda.adaptation.build import build_method, fit_light_head
from online_uda.adaptation.recipe import Recipe
from online_uda.adaptation.replay.buffer import ReplayBuffer
from online_uda.adaptation.settings import MethodSettings
from online_uda.errors import UserError
from online_uda.networks.checkpoints import LoadedNetwork
from streams.classes import CAMVID_11
from streams.yaml_config import build, load_yaml

METHODS = Path(__file__).parents[2] / "configs" / "methods"
SHIPPED = ("default", "frozen", "hamlet", "tent")
SHORT = {
    "hamlet": (
        "trigger.window=3", "trigger.up=1e-6", "trigger.down=-1e-6", "replay.frames=8", "replay.sampling=uniform",
        "trigger.near_value=0.1", "trigger.far_value=5",
    ),
    "default": ("replay.frames=8",),
}  # fmt: skip
"""Windows for a stream of 20 frames."""


def shipped(name: str, *overrides: str) -> MethodSettings:
    return build(MethodSettings, load_yaml(METHODS / f"{name}.yaml"), [*SHORT.get(name, ()), *overrides])


def loaded(kind: str, *, has_light_head: bool = True) -> LoadedNetwork:
    return LoadedNetwork(trained(kind), CAMVID_11.names, has_light_head, kind)


def make(settings: MethodSettings, network: LoadedNetwork, seed: int = 0, **changes: Any) -> Recipe:
    options: dict[str, Any] = {
        "name": "m", "network": network, "classes": CAMVID_11, "source": SourceSet(), "size": None, "seed": seed,
        "device": torch.device("cpu"), "bf16": False, **changes,
    }  # fmt: skip
    return build_method(settings, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_methods_run_and_resume(name: str, kind: str) -> None:
    """20 frames at batch 1 through changing haze; all finite; the source untouched; a resume in the middle is exact."""
    network = loaded(kind)
    source = copy_of(network.network)
    method, resumed = make(shipped(name), network), make(shipped(name), loaded(kind))
    frames = [*stream(5, haze=0.0), *stream(10, haze=0.7), *stream(5, haze=0.1)]
    first = method.predict(frames[0])
    assert torch.equal(first.logits, trained(kind)(frames[0]).logits)
    reports = play(method, iter(frames[:15]))
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    torch.manual_seed(4321)
    for frame in frames[15:]:
        one, two = method.predict(frame), resumed.predict(frame)
        assert torch.equal(one.logits, two.logits)
        assert one.logits.isfinite().all()
        reports.append(method.observe(frame, one))
        assert reports[-1] == resumed.observe(frame, two)
    assert not changed(copy_of(method.student), copy_of(resumed.student))
    assert not changed(source, copy_of(network.network))
    losses = [value for report in reports for value in report.losses.values()]
    assert all(value == value and abs(value) < float("inf") for value in losses)
    assert any(report.updated for report in reports) is (name != "frozen")
    assert bool(losses) is (name != "frozen")


def test_alignment_takes_images_of_its_own_or_says_what_it_needs() -> None:
    settings = shipped("frozen", "alignment.strength=1.0")
    method = make(settings, loaded("batchnorm"))
    frame = next(stream(1, haze=0.7))
    before = method.predict(frame).logits
    method.observe(frame, method.predict(frame))
    assert not torch.allclose(method.predict(frame).logits, before)
    with pytest.raises(UserError, match="alignment moves frames to the look of source images; give them with --source"):
        make(settings, loaded("batchnorm"), source=None)


@pytest.mark.parametrize("name", SHIPPED)
def test_labels_of_the_stream_are_not_seen_and_those_of_the_source_are(name: str) -> None:
    """Only the source's labels reach a method: other source labels change what it learns, and that is all there is."""

    class Relabelled(SourceSet):
        def __getitem__(self, index: int) -> Any:
            item = super().__getitem__(index)
            return dataclasses.replace(item, label=(item.label + 1) % 9)

    runs = []
    for source in (SourceSet(), Relabelled()):
        method = make(shipped(name), loaded("batchnorm"), source=source)
        play(method, [*stream(5, haze=0.0), *stream(8, haze=0.7)].__iter__())
        runs.append(copy_of(method.student))
    assert bool(changed(*runs)) is (name in ("default", "hamlet"))


@pytest.mark.parametrize("name", ["default", "hamlet"])
def test_replay_without_source_images_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="replays labelled source images; give them with --source"):
        make(shipped(name), loaded("batchnorm"), source=None)


@pytest.mark.parametrize("name", ["frozen", "tent"])
def test_source_free_methods_never_open_the_source(name: str) -> None:
    class Unreadable(SourceSet):
        def __getitem__(self, index: int) -> Any:
            raise AssertionError("read")

    make(shipped(name), loaded("batchnorm"), source=Unreadable())
    make(shipped(name), loaded("batchnorm"), source=None)


REPLAY: dict[str, Any] = {
    "scope": {"parameters": "head"},
    "objectives": {"replay": {}},
    "replay": {"frames": 4, "fill": "uniform", "sampling": "uniform"},
}


def held(settings: MethodSettings, **changes: Any) -> dict[str, Any]:
    state: dict[str, Any] = make(settings, loaded("batchnorm"), **changes).state_dict()["replay"]["buffer"]
    return state


def test_replay_options_reach_the_buffer() -> None:
    assert len(held(settings_of(REPLAY))["indices"]) == 4
    assert len(held(settings_of(REPLAY, replay__frames=6))["indices"]) == 6
    assert held(settings_of(REPLAY), seed=1)["indices"] != held(settings_of(REPLAY))["indices"]
    small = held(settings_of(REPLAY), size=(32, 64))
    assert (small["height"], small["width"]) == (32, 64)


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [({"fill": "rare_class"}, 8, 12), ({"fill": "uniform"}, 0, 4), ({"fill": "rare_class", "temperature": 100}, 0, 6)],
)
def test_rare_classes_fill_the_buffer_first(options: dict[str, Any], low: int, high: int) -> None:
    """Image 3 alone holds the rare class: a buffer of one image takes it, the colder the surer."""
    changes = {f"replay__{key}": value for key, value in options.items()}
    settings = settings_of(REPLAY, replay__frames=1, **changes)
    assert low <= [held(settings, seed=seed)["indices"] for seed in range(12)].count([3]) <= high


def test_progress_is_told_while_the_buffer_fills() -> None:
    seen: list[tuple[int, int]] = []
    make(settings_of(REPLAY), loaded("batchnorm"), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def trigger_state(monkeypatch: pytest.MonkeyPatch, **trigger: Any) -> dict[str, Any]:
    """Detector and budget of the shipped hamlet after a rise and a fall of the signal."""
    feed = iter([0.8] * 6 + [1.5] * 6 + [1.1] * 5)
    monkeypatch.setattr("online_uda.adaptation.trigger.policies.light_head_signal", lambda *_: next(feed))
    short = {"window": 3, "up": 0.23, "down": -0.23, "near_value": 0.8, "far_value": 2.55, "base_frames": 20}
    overrides = [f"trigger.{key}={value}" for key, value in {**short, **trigger}.items()]
    method = make(shipped("hamlet", "scope.select=fixed", "scope.first_module=4", *overrides), loaded("batchnorm"))
    play(method, stream(17))
    state = method.state_dict()["trigger"]
    return {**state["detector"], **state["budget"]}


@pytest.mark.parametrize(
    ("option", "value", "moves"),
    [
        ("window", 5, "signals"), ("up", 100, "budget"), ("down", -100, "domain_id"),
        ("near_value", 0.5, "initial_lr"), ("far_value", 2.0, "initial_lr"), ("base_frames", 30, "budget"),
        ("max_frames", 5, "budget"), ("return_factor", "[0.9, 1.0]", "budget"),
        ("learning_rate", "[1e-3, 2e-3]", "initial_lr"),
    ],
)  # fmt: skip
def test_hamlet_trigger_options_reach_detector_and_budget(
    option: str, value: Any, moves: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = trigger_state(monkeypatch)
    assert (plain["domain_id"], plain["budget"] > 0) == (0, True), "one rise, one fall"
    assert trigger_state(monkeypatch, **{option: value})[moves] != plain[moves]


def test_mixing_ratio_follows_the_distance() -> None:
    ratios = []
    for ratio in ("[0.5, 0.75]", "[0.1, 0.2]"):
        method = make(shipped("hamlet", f"mixing.ratio={ratio}"), loaded("batchnorm"))
        play(method, iter([*stream(4, haze=0.0), *stream(6, haze=0.7)]))
        ratios.append(method.state_dict()["trigger"]["budget"]["mix_ratio"])
    assert 0.5 <= ratios[0] <= 0.75
    assert 0.1 <= ratios[1] <= 0.2


def agreement(network: LoadedNetwork) -> float:
    """Share of source pixels on which light head and main head say the same."""
    images = torch.stack([torch.from_numpy(SourceSet()[i].image).permute(2, 0, 1).float() / 255 for i in range(8)])
    return (network.network.light(images).labels() == network.network(images).labels()).float().mean().item()


def test_check_10_a_missing_light_head_is_fitted_and_nothing_else_moves() -> None:
    network = loaded("batchnorm", has_light_head=False)
    fresh = untrained("batchnorm").light_head
    network.network.light_head.load_state_dict(fresh.state_dict())
    before, agreed = copy_of(network.network), agreement(network)
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    make(shipped("hamlet"), network)
    assert torch.equal(torch.rand(2), expected), "the global generator is left alone"
    moved = changed(before, copy_of(network.network))
    assert moved
    assert all(name.startswith("light_head.") for name in moved)
    assert not any(module.training for module in network.network.modules())
    assert not any(parameter.requires_grad for parameter in network.network.parameters())
    assert agreement(network) > agreed + 0.25


def test_a_trained_light_head_is_kept() -> None:
    network = loaded("batchnorm")
    before = copy_of(network.network)
    make(shipped("hamlet"), network)
    assert not changed(before, copy_of(network.network))


def test_fitting_is_repeatable_and_depends_on_the_seed() -> None:
    buffer = ReplayBuffer(SourceSet(2), range(2))
    heads = []
    for seed in (0, 0, 1):
        network = trained("batchnorm")
        fit_light_head(network, buffer, seed, torch.device("cpu"), bf16=False)
        heads.append(copy_of(network.light_head))
    assert not changed(heads[0], heads[1])
    assert changed(heads[0], heads[2])


def test_default_scale_reaches_the_detector() -> None:
    frame = next(stream(1, size=SIZE))
    signals = set()
    for scale in (0.5, 1.0):
        method = make(shipped("default", f"trigger={{kind: drift, scale: {scale}}}"), loaded("batchnorm"))
        signals.add(method.observe(frame, method.predict(frame)).signal)
    assert len(signals) == 2


def test_always_override_learns_from_the_first_frame() -> None:
    method = make(
        shipped("default", "trigger.kind=always", "trigger.every=1", "memory=null", "anchor.ensemble=null"),
        loaded("batchnorm"),
    )
    assert all(report.updated and report.losses for report in play(method, stream(3, haze=0.0)))


def test_frozen_with_stream_statistics_moves_statistics_only() -> None:
    network = loaded("batchnorm")
    before = copy_of(network.network)
    method = make(shipped("frozen", "norm.statistics=stream"), network)
    assert all(report.updated for report in play(method, stream(3)))
    moved = changed(before, copy_of(method.student))
    assert moved
    assert all("running_" in name for name in moved)
    assert not changed(before, copy_of(network.network))


def test_bf16_runs_and_differs_only_by_rounding() -> None:
    frame = next(stream(1))
    exact, coarse = (make(shipped("tent"), loaded("layernorm"), bf16=bf16) for bf16 in (False, True))
    first, second = (method.predict(frame) for method in (exact, coarse))
    assert not torch.equal(first.logits, second.logits.float())
    torch.testing.assert_close(first.logits, second.logits.float(), atol=0.15, rtol=0.1)
    assert coarse.observe(frame, second).losses["entropy"] == pytest.approx(
        exact.observe(frame, first).losses["entropy"], rel=0.02
    )
    assert all(p.dtype == torch.float32 for p in coarse.student.parameters())


def test_guards_of_a_method_without_replay_have_images_of_their_own() -> None:
    settings = shipped("tent", "guards.every=1")
    assert settings.needs_source
    method = make(settings, loaded("layernorm"))
    play(method, stream(1))
    assert method.state_dict()["guard"]["canary"]["look"] is not None
    with pytest.raises(UserError, match=r"canary needs labelled source images.*guards\.canary=0"):
        make(settings, loaded("layernorm"), source=None)
    without = shipped("tent", "guards.canary=0")
    assert not without.needs_source
    make(without, loaded("layernorm"), source=None)


def test_guards_are_on_for_the_default_alone() -> None:
    assert {name for name in SHIPPED if shipped(name).guards is not None} == {"default"}
    with pytest.raises(ValueError, match="nothing to guard"):
        shipped("frozen", "guards.every=2")
