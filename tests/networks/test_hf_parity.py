"""Our SegFormer against the `transformers` implementation on random weights, through the folder on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from online_uda.errors import UserError
from online_uda.networks.checkpoints import load_folder
from online_uda.networks.hf_segformer import own_name

transformers = pytest.importorskip("transformers")

B0 = {"hidden_sizes": [32, 64, 160, 256], "depths": [2, 2, 2, 2], "decoder_hidden_size": 256}
B1 = {"hidden_sizes": [64, 128, 320, 512], "depths": [2, 2, 2, 2], "decoder_hidden_size": 256}
B2 = {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 4, 6, 3], "decoder_hidden_size": 768}


def save_reference(folder: Path, sizes: dict[str, object], classes: int = 5) -> torch.nn.Module:
    """A transformers network with random weights, norms and statistics, saved to ``folder``."""
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        **sizes,
        num_attention_heads=[1, 2, 5, 8],
        sr_ratios=[8, 4, 2, 1],
        id2label={i: f"class {i}" for i in range(classes)},
        label2id={f"class {i}": i for i in range(classes)},
    )
    reference = transformers.SegformerForSemanticSegmentation(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        # The library's own initialisation leaves biases at 0 and norms at 1, which would hide a swapped name.
        for name, tensor in reference.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.add_(noise.abs() if "running_var" in name else 0.05 * noise)
    reference.save_pretrained(folder)
    return reference


def largest_difference(reference: torch.nn.Module, folder: Path, size: tuple[int, int]) -> float:
    frames = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(2))
    loaded = load_folder(folder)
    with torch.no_grad():
        output = loaded.network(frames)
        normalised, _, _ = loaded.network.normalise(frames)
        expected = reference(pixel_values=normalised).logits
    assert expected.std() > 0.05
    return float((output.logits - expected).abs().max())


@pytest.mark.parametrize("sizes", [B0, B1], ids=["b0", "b1"])
def test_logits_equal_transformers(sizes: dict[str, object], tmp_path: Path) -> None:
    reference = save_reference(tmp_path, sizes)
    assert largest_difference(reference, tmp_path, (64, 96)) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depths", "size"),
    [([3, 4, 6, 3], (128, 128)), ([3, 4, 18, 3], (64, 64)), ([3, 8, 27, 3], (64, 64)), ([3, 6, 40, 3], (64, 64))],
    ids=["b2", "b3", "b4", "b5"],
)
def test_logits_equal_transformers_large(depths: list[int], size: tuple[int, int], tmp_path: Path) -> None:
    reference = save_reference(tmp_path, {**B2, "depths": depths})
    assert largest_difference(reference, tmp_path, size) <= 1e-4


def test_class_names_come_in_id_order(tmp_path: Path) -> None:
    save_reference(tmp_path, B0, classes=11)
    loaded = load_folder(tmp_path)
    assert loaded.class_names == tuple(f"class {i}" for i in range(11))
    assert not loaded.has_light_head


def test_every_file_name_has_a_rule_and_an_unknown_one_has_none(tmp_path: Path) -> None:
    save_reference(tmp_path, B0)
    names = load_file(tmp_path / "model.safetensors")
    owned = [own_name(name) for name in names]
    assert None not in owned
    assert len(set(owned)) == len(owned)
    assert own_name("backbone.layer1.0.conv1.weight") is None


def test_unexpected_tensor_is_refused(tmp_path: Path) -> None:
    save_reference(tmp_path, B0)
    weights = load_file(tmp_path / "model.safetensors")
    weights["segformer.encoder.extra.weight"] = torch.zeros(2)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 unexpected: segformer\.encoder\.extra\.weight"):
        load_folder(tmp_path)


def test_missing_config_key_is_named(tmp_path: Path) -> None:
    save_reference(tmp_path, B0)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    del content["sr_ratios"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"config\.json: key 'sr_ratios' is missing"):
        load_folder(tmp_path)
