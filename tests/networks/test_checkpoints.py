"""Folders in and out: exact round trip, and one clear line for every kind of damage."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from online_uda.errors import UserError
from online_uda.networks.checkpoint_writer import save_folder
from online_uda.networks.checkpoints import load_folder, load_path
from online_uda.networks.mit import MiTConfig
from online_uda.networks.segmenter import SegformerConfig, Segmenter, build_segformer
from online_uda.networks.weights_file import read_weights

TINY = SegformerConfig(MiTConfig((8, 8, 10, 16), (1, 1, 1, 1)), classes=3, head_width=12, light_width=6)
NAMES = ("road", "sky", "car")


def tiny_network(config: SegformerConfig = TINY) -> Segmenter:
    torch.manual_seed(0)
    network = build_segformer(config)
    network(torch.rand(2, 3, 64, 64))  # moves the BatchNorm statistics away from their defaults
    return network.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_folder(tmp_path / "net", tiny_network(), TINY, NAMES, {"seed": 7}, dtype=torch.float32)
    return tmp_path / "net"


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_folder(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def test_round_trip_is_exact(folder: Path) -> None:
    network, loaded = tiny_network(), load_folder(folder)
    assert loaded.class_names == NAMES
    assert loaded.has_light_head
    assert "3 classes" in loaded.description
    expected, found = network.state_dict(), loaded.network.state_dict()
    assert list(expected) == list(found)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    frames = torch.rand(1, 3, 64, 96)
    assert torch.equal(network(frames).logits, loaded.network(frames).logits)
    assert json.loads((folder / "config.json").read_text())["provenance"] == {"seed": 7}


def test_sizes_and_statistics_come_back_from_the_config(tmp_path: Path) -> None:
    encoder = replace(TINY.encoder, norm_eps=1e-5, drop_path=0.3, mlp_ratio=2)
    config = replace(TINY, encoder=encoder, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    save_folder(tmp_path, tiny_network(config), config, NAMES, {}, dtype=torch.float32)
    network = load_folder(tmp_path).network
    assert network.get_buffer("mean").flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert network.get_buffer("std").flatten().tolist() == pytest.approx([0.5, 0.6, 0.7])
    assert network.stages[0].norm.eps == 1e-5
    assert network.stages[3].blocks[0].drop_path.rate == pytest.approx(0.3)
    assert network.stages[0].blocks[0].ffn.expand.out_features == 16


def test_half_precision_halves_the_file_and_loads_as_float32(folder: Path, tmp_path: Path) -> None:
    save_folder(tmp_path / "half", tiny_network(), TINY, NAMES, {})
    full, half = ((path / "model.safetensors").stat().st_size for path in (folder, tmp_path / "half"))
    assert half < 0.7 * full
    network = load_folder(tmp_path / "half").network
    assert all(p.dtype == torch.float32 for p in network.parameters())
    for name, tensor in tiny_network().state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], tensor, atol=1e-3, rtol=1e-3)


def test_saving_leaves_no_partial_file(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_saved_weights_can_be_read_by_everybody(folder: Path) -> None:
    assert (folder / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_missing_tensor_is_named(folder: Path) -> None:
    rewrite(folder, lambda weights: weights.pop("stages.2.norm.bias"))
    assert "1 missing: stages.2.norm.bias" in refused(folder)


def test_unexpected_tensor_is_named(folder: Path) -> None:
    rewrite(folder, lambda weights: weights.update({"stages.4.norm.bias": torch.zeros(3)}))
    assert "1 unexpected: stages.4.norm.bias" in refused(folder)


def test_other_shape_shows_both_shapes(folder: Path) -> None:
    rewrite(folder, lambda weights: weights.update({"head.classifier.bias": torch.zeros(19)}))
    assert "1 other shape: head.classifier.bias (19,) instead of (3,)" in refused(folder)


def test_long_differences_are_cut_short(folder: Path) -> None:
    rewrite(folder, lambda w: [w.pop(name) for name in list(w) if name.startswith("stages.3.")])
    message = refused(folder)
    assert "... and " in message
    assert len(message) < 500


def test_a_part_of_the_light_head_is_not_enough(folder: Path) -> None:
    rewrite(folder, lambda weights: weights.pop("light_head.project.weight"))
    assert "missing: light_head.project.weight" in refused(folder)


def test_without_light_head_is_loaded_and_reported(folder: Path) -> None:
    rewrite(folder, lambda w: [w.pop(name) for name in list(w) if name.startswith("light_head.")])
    loaded = load_folder(folder)
    assert not loaded.has_light_head
    assert "without light head" in loaded.description


def test_nan_weights_are_refused(folder: Path) -> None:
    rewrite(folder, lambda weights: weights["stages.0.norm.weight"].fill_(float("nan")))
    message = refused(folder)
    assert "NaN" in message
    assert "stages.0.norm.weight" in message


def test_another_architecture_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "resnet"}))
    assert "'resnet' is not supported" in refused(folder)


def test_weights_of_another_architecture_show_the_difference(folder: Path) -> None:
    save_file({"layer1.0.conv1.weight": torch.zeros(4, 3, 3, 3)}, folder / "model.safetensors")
    message = refused(folder)
    assert "missing" in message
    assert "1 unexpected: layer1.0.conv1.weight" in message


def test_truncated_safetensors_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    for length in (0, 5, 40, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert "truncated" in refused(folder)


def test_lfs_pointer_is_recognised(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "git lfs pull" in refused(folder)


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_pickled_code_does_not_run(folder: Path, writer: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    content = {"stages.0.norm.weight": torch.zeros(8), "extra": Bomb(mark)}
    if writer == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    assert "may run code" in refused(folder)
    assert not mark.exists()


def test_pickled_code_under_the_safetensors_name_does_not_run(folder: Path, tmp_path: Path) -> None:
    torch.save({"extra": Bomb(tmp_path / "ran")}, folder / "model.safetensors")
    assert "not a safetensors file" in refused(folder)
    assert not (tmp_path / "ran").exists()


def test_plain_tensor_pickle_is_read(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({"state_dict": weights, "epoch": 3}, folder / "pytorch_model.bin")
    assert set(read_weights(folder / "pytorch_model.bin")) == set(weights)
    assert load_folder(folder).has_light_head


def test_missing_places_are_named(folder: Path, tmp_path: Path) -> None:
    assert "no such network folder" in refused(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is a file; give the folder"):
        load_path(folder / "config.json")
    (folder / "model.safetensors").unlink()
    assert "has no model.safetensors" in refused(folder)
    (folder / "config.json").unlink()
    assert "has no config.json" in refused(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"segformer": {"classes": 3}}, "encoder"),
        ({"class_names": 5}, "not a online_uda.network/1 config"),
        ({"segformer": {"encoder": {"widths": [8, 8], "depths": [1, 1, 1, 1]}, "classes": 3}}, "encoder.widths"),
    ],
)
def test_damaged_config_is_one_line(folder: Path, change: dict[str, object], words: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert words in refused(folder)


def test_config_that_is_not_json_shows_the_position(folder: Path) -> None:
    (folder / "config.json").write_text('{"format": \n oops')
    assert "config.json:2:2: not valid JSON" in refused(folder)
