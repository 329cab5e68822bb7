"""The export command: a run's adapted network or a plain one as a checked ONNX file, and mistakes as one line each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from online_uda.adaptation.deployed import deployed_weights
from online_uda.adaptation.settings import MethodSettings
from online_uda.export.cli import main
from online_uda.networks.adapter_layers import AdapterConfig
from online_uda.networks.adapters import insert_adapters
from online_uda.networks.checkpoints import load_folder
from streams.classes import CAMVID_11
from tests.run_kit import SIZE, method_state, write_kit, write_network


def answers(file: Path, feed: dict[str, np.ndarray]) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], feed)[0])


def facts_of(file: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads(onnx.load(str(file)).metadata_props[0].value)
    return content


def test_a_run_gives_the_network_it_has_adapted(
    tmp_path: Path, make_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    kit = write_kit(tmp_path, make_folder)
    folder, out = kit.run("optimizer.learning_rate=0.05", frames=2), tmp_path / "storm.onnx"
    capsys.readouterr()
    assert main([str(folder), "--out", str(out)]) == 0
    assert "differs from torch by" in capsys.readouterr().out
    frames = torch.rand(1, 3, *SIZE)
    network = load_folder(kit.network).network
    with torch.no_grad():
        source = network(frames).logits
        network.load_state_dict(method_state(folder)["student"], strict=False)
        adapted = network(frames).logits
    assert (adapted - source).abs().max() > 1e-2
    torch.testing.assert_close(answers(out, {"frames": frames.numpy()}), adapted, rtol=0, atol=1e-4)
    facts = facts_of(out)
    assert facts["class_names"] == list(CAMVID_11.names)
    assert (facts["size"], facts["method"], facts["frames"]) == (list(SIZE), "tent", 6)


def test_movable_weights_are_inputs_with_a_default(tmp_path: Path) -> None:
    write_network(tmp_path / "network")
    out = tmp_path / "plain.onnx"
    assert main([str(tmp_path / "network"), "--out", str(out), "--size", "64x96", "--movable", "head"]) == 0
    movable = facts_of(out)["movable"]
    assert isinstance(movable, list)
    assert "head.classifier.bias" in movable
    assert all(str(name).startswith("head.") for name in movable)
    network = load_folder(tmp_path / "network").network
    frames = torch.rand(1, 3, 64, 96)
    bias = torch.arange(11.0)
    shifted = answers(out, {"frames": frames.numpy(), "head.classifier.bias": bias.numpy()})
    with torch.no_grad():
        network.get_submodule("head.classifier").get_parameter("bias").copy_(bias)
        torch.testing.assert_close(shifted, network(frames).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing_like_it", "--out", "x.onnx"], "unknown network 'nothing_like_it'"),
        (["segformer_b0_town", "--out", "x.onnx", "--size", "big"], "--size: expected HEIGHTxWIDTH"),
        (["segformer_b0_town", "--out", "no/such/x.onnx"], "the folder no/such does not exist"),
        (["segformer_b0_town", "--out", "."], "is a folder; give a file name"),
        (["segformer_b1", "--out", "x.onnx"], "--init random"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_run_without_a_snapshot_is_refused(
    tmp_path: Path, make_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_kit(tmp_path, make_folder).run(frames=1, method="frozen")
    for file in (folder / "snapshots").iterdir():
        file.unlink()
    assert main([str(folder), "--out", str(tmp_path / "x.onnx")]) == 2
    assert "holds no snapshot yet" in capsys.readouterr().err


def test_deployed_weights_are_the_teachers_where_it_predicts() -> None:
    student, teacher = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
    state = {"student": student, "teacher": {"steps": 1, "module": teacher}}
    plain = {"description": "a test", "scope": {"parameters": "norm"}, "objectives": {"entropy": {}}}
    assert deployed_weights(MethodSettings.model_validate(plain), state) == student
    averaged = MethodSettings.model_validate({**plain, "teacher": {}, "deploy": "teacher"})
    assert deployed_weights(averaged, state) == teacher


def test_adapters_that_do_not_fold_are_part_of_the_graph(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    """What a run of AdaptFormer answers, from the file: its logits at the end of the run."""
    kit = write_kit(tmp_path, make_folder)
    learned = ("scope.parameters=adapters", "adapters.kind=adaptformer", "optimizer.learning_rate=0.05")
    folder, out = kit.run(*learned, frames=2), tmp_path / "adapted.onnx"
    assert main([str(folder), "--out", str(out)]) == 0
    frames = torch.rand(1, 3, *SIZE)
    network = load_folder(kit.network).network
    with torch.no_grad():
        source = network(frames).logits
        insert_adapters(network, AdapterConfig("adaptformer"), seed=5)
        network.load_state_dict(method_state(folder)["student"], strict=False)
        adapted = network(frames).logits
    assert (adapted - source).abs().max() > 1e-2
    torch.testing.assert_close(answers(out, {"frames": frames.numpy()}), adapted, rtol=0, atol=1e-4)
