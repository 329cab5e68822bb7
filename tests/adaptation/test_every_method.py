"""Every method of configs/methods on a tiny network of either kind: finite, resettable, resumable; pages and names."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_kit import SIZE, SourceSet, changed, copy_of, play, stream, trained

from online_uda.adaptation.build import build_method
from online_uda.adaptation.recipe import Recipe
from online_uda.adaptation.settings import MethodSettings
from online_uda.networks.checkpoints import LoadedNetwork
from streams.classes import CAMVID_11
from streams.yaml_config import build, load_yaml

ROOT = Path(__file__).parents[2]
METHODS = sorted(path.stem for path in (ROOT / "configs" / "methods").glob("*.yaml"))
SHORT = {
    "advent": ("replay.frames=8", "objectives.adversarial.width=4"),
    "robustnet": ("objectives.whitening.frames=4",),
    "hamlet": (
        "trigger.window=3", "trigger.up=1e-6", "trigger.down=-1e-6", "replay.frames=8", "replay.sampling=uniform",
        "trigger.near_value=0.1", "trigger.far_value=5",
    ),
    "default": ("replay.frames=8",),
    "distil": ("objectives.distilled.classes=cityscapes19", "trigger.smallest=4"),
    "dressed": ("replay.frames=8",),
}  # fmt: skip
"""Windows and buffers for a stream of 20 frames and 8 source images."""
SMALL = (32, 64)
_TWO_SCALES = ("objectives.taught.views.scales=[0.5, 1.0]",)
LONG = {**SHORT, "becotta": _TWO_SCALES, "cotta": _TWO_SCALES, "vida": _TWO_SCALES}
"""Size of frames and settings of the long test: what it checks hangs neither on pixels nor on the number of views, and
on attention as little, which the short test has."""
STILL = {"frozen", "norm_alpha"}
"""Methods of which nothing ever moves."""


def make(name: str, kind: str, size: tuple[int, int] = SIZE, changes: Mapping[str, tuple[str, ...]] = SHORT) -> Recipe:
    path = ROOT / "configs" / "methods" / f"{name}.yaml"
    settings = build(MethodSettings, load_yaml(path), changes.get(name, ()))
    return build_method(
        settings, name=name, network=LoadedNetwork(trained(kind), CAMVID_11.names, True, kind), classes=CAMVID_11,
        source=SourceSet(size=size), size=None, seed=0, device=torch.device("cpu"), bf16=False,
    )  # fmt: skip


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", METHODS)
def test_a_stream_of_twenty_frames(name: str) -> None:
    """Batch 1 through changing haze, with attention; the long test has the other networks.

    Reset is the state of the start put back; a resumed run is the same run.
    """
    kind = "layernorm"
    method = make(name, kind, SMALL)
    start, weights = through_a_file(method.state_dict()), copy_of(method.student)
    frames = [
        *stream(5, haze=0.0, size=SMALL), *stream(10, haze=0.7, size=SMALL), *stream(5, haze=0.1, size=SMALL)
    ]  # fmt: skip
    first = method.predict(frames[0]).logits
    reports = play(method, iter(frames[:17]))
    resumed = make(name, kind, SMALL)
    play(resumed, stream(1, seed=1, size=SMALL))
    torch.manual_seed(4321)
    resumed.load_state_dict(through_a_file(method.state_dict()))
    for frame in frames[17:]:
        one, two = method.predict(frame), resumed.predict(frame)
        assert one.logits.isfinite().all()
        assert torch.equal(one.logits, two.logits)
        reports.append(method.observe(frame, one))
        assert reports[-1] == resumed.observe(frame, two)
    assert not changed(copy_of(method.student), copy_of(resumed.student))
    assert all(math.isfinite(value) for report in reports for value in report.losses.values())
    assert all(tensor.isfinite().all() for tensor in copy_of(method.student).values())
    assert any(report.updated for report in reports) is moves(name, kind)
    method.load_state_dict(start)
    assert not changed(weights, copy_of(method.student))
    assert torch.equal(method.predict(frames[0]).logits, first)


def moves(name: str, kind: str) -> bool:
    return name not in STILL


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["channelnorm", "batchnorm"])
@pytest.mark.parametrize("name", METHODS)
def test_two_hundred_frames(name: str, kind: str) -> None:
    """Finite throughout; saved half-way and loaded, the rest is the same bit for bit; reset restores every bit."""
    method = make(name, kind, SMALL, LONG)
    start, weights = through_a_file(method.state_dict()), copy_of(method.student)
    frames = [
        frame for round_ in range(10) for haze in (0.0, 0.7) for frame in stream(10, haze=haze, seed=round_, size=SMALL)
    ]
    first = method.predict(frames[0]).logits
    updated = False
    for frame in frames[:190]:
        prediction = method.predict(frame)
        assert prediction.logits.isfinite().all()
        updated |= method.observe(frame, prediction).updated
    assert updated is moves(name, kind)
    resumed = make(name, kind, SMALL, LONG)
    resumed.load_state_dict(through_a_file(method.state_dict()))
    for frame in frames[190:]:
        one, two = method.predict(frame), resumed.predict(frame)
        assert torch.equal(one.logits, two.logits)
        assert method.observe(frame, one) == resumed.observe(frame, two)
    assert all(tensor.isfinite().all() for tensor in copy_of(method.student).values())
    assert not changed(copy_of(method.student), copy_of(resumed.student))
    method.load_state_dict(start)
    assert not changed(weights, copy_of(method.student))
    assert torch.equal(method.predict(frames[0]).logits, first)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_page(name: str) -> None:
    """Rule, slots, cost, memory, norm types, source data, known failures (specs/methods.md)."""
    text = (ROOT / "docs" / "methods" / f"{name}.md").read_text()
    assert text.startswith(f"# {name}\n")
    wanted = ("**Rule.**", "**Slots.**", "**Cost.**", "**Memory.**", "**Norms.**", "**Source data.**", "**Fails.**")
    missing = [part for part in wanted if part not in text]
    assert not missing
