"""Tiles, scales and mirror images in a run: every backend, both networks alike, counted, charged, resumed."""

from __future__ import annotations

import copy
import functools
import json
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from online_uda.adaptation.norm import NormStatistics, named_batch_norms
from online_uda.adaptation.settings import NormSettings
from online_uda.cli import main
from online_uda.export.onnx_predictor import OnnxPredictor
from online_uda.networks.alignment import InputAlignment
from online_uda.networks.checkpoint_writer import save_folder
from online_uda.networks.checkpoints import load_folder
from online_uda.networks.inference import InferenceSettings
from online_uda.networks.predictor import Predictor, TorchPredictor, Wishes
from online_uda.networks.segmenter import Segmenter
from online_uda.networks.views import Views
from online_uda.runtime.buffered import BufferedPredictor
from online_uda.runtime.compiled import CompiledPredictor
from tests.export.test_onnx_predictor import convolutional
from tests.run_kit import FRAMES, Kit, assert_same, frames_of, method_state, summary_of, write_kit
from tests.test_run_resume import at_frame, kill

SLIDE = ("run.inference.mode=slide", "run.inference.tile=32x48")
EVERYTHING = (*SLIDE, "run.inference.scales=[0.5, 1.0]", "run.inference.flip=true")
VIEWS = Views(InferenceSettings(mode="slide", tile=(64, 64), scales=(0.5, 1.0), flip=True))
SIZE = (64, 96)


@pytest.fixture
def kit(tmp_path: Path, make_folder: Callable[..., Path]) -> Kit:
    return write_kit(tmp_path, make_folder)


def passes_of(kit: Kit, *extra: str, **flags: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    folder = kit.run(*extra, **flags)
    return frames_of(folder), summary_of(folder)


def test_passes_are_counted_and_settings_stand_in_the_summary(kit: Kit) -> None:
    """48 x 64 in tiles of 32 x 48: 2 x 2 of them, one more at half the size, and all of it mirrored."""
    rows, summary = passes_of(kit, *EVERYTHING, method="frozen", frames=2)
    assert {row["forwards"] for row in rows} == {2 * (4 + 1)}
    assert summary["inference"] == {
        "mode": "slide", "tile": [32, 48], "overlap": 1 / 3, "scales": [0.5, 1.0], "flip": True,
        "forwards": 10 * len(rows),
    }  # fmt: skip
    rows, summary = passes_of(kit, method="frozen", out="whole", frames=2)
    assert {row["forwards"] for row in rows} == {1}
    assert (summary["inference"]["mode"], summary["inference"]["forwards"]) == ("whole", len(rows))


@pytest.mark.parametrize("extra", [SLIDE, ("run.inference.scales=[0.5]",), ("run.inference.flip=true",)])
def test_both_networks_are_answered_alike_and_otherwise_than_whole(kit: Kit, extra: Sequence[str]) -> None:
    """A method that learns nothing, but is not known to: any other inference for one of the two would show."""
    still = ("optimizer.learning_rate=1e-30", "norm.statistics=source", "anchor.pull=0")
    views, _ = passes_of(kit, *still, *extra, frames=2)
    whole, _ = passes_of(kit, *still, out="whole", frames=2)
    assert {row["updated"] for row in views} == {True}
    assert {row["agreement"] for row in views} == {100.0}
    assert [row["miou"] for row in views] == [row["miou_frozen"] for row in views]
    assert [row["miou"] for row in views] != [row["miou"] for row in whole]


def costs(kit: Kit, **content: Any) -> str:
    path = kit.root / f"costs-{len(list(kit.root.glob('costs-*')))}.json"
    path.write_text(json.dumps(content))
    return str(path)


def test_every_pass_is_charged_to_the_budget(kit: Kit) -> None:
    """4 tiles of 32 x 48 in a frame of 48 x 64 show twice its pixels: 80 ms where a whole pass takes 40."""
    file = costs(kit, stages_ms={"predict": 40, "detect": 0, "step": 0})
    for extra, ms, late in (((), 40.0, 0.0), (SLIDE, 80.0, 1.0)):
        folder = kit.run(*extra, method="frozen", out=f"run-{ms}", fps=15, clock=file)
        assert {row["predict_ms"] for row in frames_of(folder, timed=True) if not row["dropped"]} == {ms}
        summary = summary_of(folder)
        assert summary["deadline_miss_rate"] == late
        assert (summary["dropped"] > 0) is (late > 0)
        assert summary["on_time"]["costs_ms"]["predict"] == ms
        taken = FRAMES - summary["dropped"]
        assert summary["inference"]["forwards"] == taken * (4 if extra else 1)


def test_recorded_costs_hold_all_passes_and_are_charged_once(kit: Kit) -> None:
    recorded = json.loads((kit.run(*SLIDE, method="frozen", fps=2, frames=1) / "costs.json").read_text())
    assert recorded["passes"] == 2.0
    file = costs(kit, passes=2.0, stages_ms={"predict": 60, "detect": 0, "step": 0})
    for extra, ms in ((SLIDE, 60.0), ((), 30.0)):
        folder = kit.run(*extra, method="frozen", out=f"played-{ms}", fps=2, frames=1, clock=file)
        assert {row["predict_ms"] for row in frames_of(folder, timed=True)} == {ms}


@pytest.mark.parametrize("learn", ["interleaved", "async"])
def test_a_stream_that_does_not_wait_is_answered_in_tiles(kit: Kit, learn: str) -> None:
    folder = kit.run(*SLIDE, "replay.frames=6", method="default", fps=5, learn=learn)
    answered = [row for row in frames_of(folder) if not row["dropped"]]
    assert {row["forwards"] for row in answered} == {4}


def test_killed_and_resumed_in_tiles(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = (*SLIDE, "run.snapshot_every=4")
    whole = kit.run(*extra, out="whole")
    with monkeypatch.context() as patch:
        at_frame(patch, 11, kill)
        assert main([*kit.arguments("tent", "parts"), *extra]) == 130
    parts = kit.root / "parts"
    assert main(["--resume", str(parts)]) == 0
    assert frames_of(parts) == frames_of(whole)
    assert summary_of(parts) == summary_of(whole)
    assert_same(method_state(parts), method_state(whole))


def test_a_resumed_run_keeps_its_inference(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    folder = kit.run(*SLIDE, method="frozen", frames=1)
    assert main(["--resume", str(folder), "run.inference.overlap=0.5"]) == 2
    assert "run.inference.overlap: 0.3333333333333333 in the run, 0.5 now" in capsys.readouterr().err


def wishes(network: Segmenter) -> Wishes:
    norms = tuple(named_batch_norms(network))
    return Wishes(tuple(f"{name}.{what}" for name in norms for what in ("weight", "bias")), norms)


@functools.cache  # exporting takes seconds
def predictor_of(kind: str) -> tuple[Segmenter, Predictor]:
    """A network whose norms move, and what predicts with what of it was published."""
    network = convolutional()
    wanted = wishes(network)
    if kind == "onnxruntime":
        return network, OnnxPredictor(network, wanted, SIZE, 1, VIEWS)
    if kind == "compile":
        return network, CompiledPredictor(network, wanted, SIZE, nullcontext, compiler="aot_eager", views=VIEWS)
    return network, BufferedPredictor(network, wanted, nullcontext, VIEWS)


def move(network: Segmenter) -> None:
    """As learning does."""
    with torch.no_grad():
        for name in wishes(network).moving:
            network.get_parameter(name).mul_(1.5)


@pytest.mark.parametrize("kind", ["onnxruntime", "compile", "buffered"])
def test_every_backend_answers_as_torch_and_finds_the_same_moments(kind: str) -> None:
    network, predictor = predictor_of(kind)
    frames = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    move(network)
    predictor.publish(network)
    here = copy.deepcopy(network)
    statistics = NormStatistics(here, NormSettings(statistics="stream", momentum=1.0))
    expected, _ = TorchPredictor(here, statistics.predicting, VIEWS).predict(frames)
    answer, moments = predictor.predict(frames)
    assert answer.forwards == expected.forwards == VIEWS.settings.forwards(SIZE) == 6
    torch.testing.assert_close(answer.logits, expected.logits, rtol=0, atol=1e-4)
    with torch.no_grad():
        assert (network(frames).full() - expected.logits).abs().max() > 0.01
    assert statistics.absorb()
    found = [moment for pair in moments for moment in pair]
    assert len(found) == 2 * len(wishes(network).watched) > 0
    for mine, theirs in zip(found, statistics.running(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["onnxruntime", "buffered"])
def test_all_passes_of_a_frame_use_the_same_weights(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are handed over between two passes come with the next frame."""
    network, predictor = predictor_of(kind)
    one_pass: Any = getattr(predictor, "_one_pass")  # noqa: B009
    frames = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    predictor.publish(network)
    before = predictor.predict(frames)[0].logits
    move(network)
    worker, passes = threading.Thread(target=predictor.publish, args=(network,)), []

    def publish_on_the_way(view: Tensor) -> Any:
        passes.append(view)
        if len(passes) == 3:
            worker.start()
            worker.join(0.5)  # as far as it gets: ONNX Runtime's waits for the frame
        return one_pass(view)

    with monkeypatch.context() as patch:
        patch.setattr(predictor, "_one_pass", publish_on_the_way)
        assert torch.equal(predictor.predict(frames)[0].logits, before)
    worker.join()
    assert len(passes) == 6
    assert (predictor.predict(frames)[0].logits - before).abs().max() > 0.02


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run.inference.mode=tiles"], "inference.mode: unknown value 'tiles'"),
        (["run.inference.tile=64"], "inference.tile: cuts frames only in mode slide; add run.inference.mode=slide"),
        (["run.inference.tiles=64"], "inference.tiles: unknown key (did you mean 'tile'?)"),
        (["inference.mode=slide"], "is a key of the run; write run.inference.mode=slide"),
        (["run.inference=slide"], "inference: expected keys and values"),
        (["run.inference.scales=[1, 9]"], "inference.scales.1: must be at most 4"),
        (["run.inference.mode=slide", "--backend", "onnxruntime", "norm.statistics=batch"], "only --backend torch can"),
    ],
)
def test_bad_values_are_one_clear_line(
    kit: Kit, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main([*kit.arguments(), *words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, lines
    assert said in lines[0]


def test_a_network_that_carries_its_alignment_is_refused_in_tiles(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = load_folder(kit.network)
    assert loaded.config is not None
    loaded.network.alignment = InputAlignment(torch.zeros(1, 3, 2, 1), torch.zeros(1, 3, 2, 1), 0.5)
    save_folder(kit.root / "aligned", loaded.network, loaded.config, loaded.class_names, {}, torch.float32)
    assert main([*kit.arguments(network=str(kit.root / "aligned")), *SLIDE]) == 2
    assert "a tile does not know; take mode whole" in capsys.readouterr().err
