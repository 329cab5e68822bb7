"""Our SegFormer against the `transformers` implementation on random weights, through the folder on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from online_uda.errors import UserError
from online_uda.networks.checkpoints import load_folder, load_path
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


def test_names_that_transformers_has_in_memory_are_read_too(tmp_path: Path) -> None:
    """transformers 5 renames its modules: a state dict saved from there has other names than `save_pretrained`'s."""
    reference = save_reference(tmp_path, B0)
    expected = load_folder(tmp_path).network.state_dict()
    torch.save(reference.state_dict(), tmp_path / "memory.pth")
    memory = {name: tensor.contiguous() for name, tensor in reference.state_dict().items()}
    written = load_file(tmp_path / "model.safetensors")
    save_file(memory, tmp_path / "model.safetensors", metadata={"format": "pt"})
    save_file(written, tmp_path / "written.safetensors", metadata={"format": "pt"})
    for path in (tmp_path, tmp_path / "memory.pth", tmp_path / "written.safetensors"):
        loaded = load_path(path)
        assert "Hugging Face SegFormer" in loaded.description
        found = loaded.network.state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items() if "light_head" not in name)
        assert loaded.network.stages[0].norm.eps == 1e-5


@pytest.mark.parametrize("kind", ["SegformerModel", "SegformerForImageClassification"])
def test_an_encoder_alone_needs_a_word(kind: str, tmp_path: Path) -> None:
    """As nvidia/mit-b0 comes: trained on ImageNet, without a decode head."""
    torch.manual_seed(0)
    reference = getattr(transformers, kind)(transformers.SegformerConfig(**B0)).eval()
    reference.save_pretrained(tmp_path)
    torch.save(reference.state_dict(), tmp_path / "memory.pth")
    for path in (tmp_path, tmp_path / "model.safetensors", tmp_path / "memory.pth"):
        with pytest.raises(UserError, match=r"holds an encoder alone \(Hugging Face SegFormer.*--init-head random"):
            load_path(path)
        with pytest.warns(UserWarning, match="its head is random"):
            loaded = load_path(path, init_head="random", classes=11)
        assert loaded.network.classes == 11
        assert "encoder only" in loaded.description
        x = torch.rand(1, 3, 64, 96)
        encoder = getattr(reference, "segformer", reference)
        with torch.no_grad():
            theirs = encoder(pixel_values=x, output_hidden_states=True).hidden_states
            torch.testing.assert_close(loaded.network.encode(x)[-1], theirs[-1], atol=1e-4, rtol=0.0)


def test_two_classes_are_not_written_down(tmp_path: Path) -> None:
    transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(**B0)).save_pretrained(tmp_path)
    assert "id2label" not in json.loads((tmp_path / "config.json").read_text())
    assert load_folder(tmp_path).network.classes == 2


def test_weights_in_parts_or_for_tensorflow_are_one_line(tmp_path: Path) -> None:
    save_reference(tmp_path, B0).save_pretrained(tmp_path / "parts", max_shard_size="2MB")
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json lists them.*max_shard_size"):
        load_path(tmp_path / "parts")
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "tf_model.h5").write_bytes(b"")
    with pytest.raises(UserError, match=r"for TensorFlow; download model\.safetensors beside it"):
        load_path(tmp_path)
