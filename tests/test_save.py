"""What a run has learned as a folder, for transformers, or as adapters alone; and cards that say where it came from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from online_uda.networks.adapter_file import load_adapters
from online_uda.networks.checkpoints import load_folder, save_folder
from online_uda.networks.segmenter import build_segformer, segformer_config
from online_uda.save import main
from tests.run_kit import Kit, method_state, write_kit


@pytest.fixture
def kit(tmp_path: Path, make_folder: Callable[..., Path]) -> Kit:
    return write_kit(tmp_path, make_folder)


def test_a_run_becomes_a_folder_with_a_card(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    run = kit.run(frames=3)
    out = kit.root / "saved"
    assert main([str(run), "--out", str(out)]) == 0
    loaded = load_folder(out)
    learned = method_state(run)["student"]
    state = loaded.network.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in learned.items())
    source = load_folder(kit.network).network.state_dict()
    assert any(not torch.equal(state[name], source[name]) for name in learned)
    assert loaded.has_light_head
    card = (out / "README.md").read_text()
    assert "| method | tent |" in card
    assert "| day | " in card
    record = json.loads((out / "config.json").read_text())["provenance"]
    assert record["frames"] == 9
    assert record["command"].startswith("python -m online_uda.save")
    assert kit.run(frames=1, out="again", network=str(out))  # and runs again
    assert main([str(run), "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([str(run), "--out", str(kit.root / "a"), "--format", "adapters"]) == 2
    assert "holds no adapters" in capsys.readouterr().err
    assert main([str(run), "--out", str(kit.root / "half"), "--half"]) == 0
    sizes = [(kit.root / name / "model.safetensors").stat().st_size for name in ("saved", "half")]
    assert sizes[1] < 0.75 * sizes[0]


def test_adapters_of_a_run_alone_and_folded(kit: Kit) -> None:
    run = kit.run("--scope", "adapters", "adapters.kind=lora", "optimizer.learning_rate=0.01", frames=3)
    assert main([str(run), "--out", str(kit.root / "alone"), "--format", "adapters"]) == 0
    assert main([str(run), "--out", str(kit.root / "folded")]) == 0
    network = load_folder(kit.network).network
    frames = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = network(frames).logits
        config = load_adapters(kit.root / "alone" / "adapters.safetensors", network)
        folded = load_folder(kit.root / "folded").network(frames).logits
        torch.testing.assert_close(network(frames).logits, folded, atol=1e-5, rtol=0.0)
        assert not torch.equal(before, folded)
    assert config.rank == 4


def test_transformers_reads_what_is_written(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = segformer_config("b0", 5)
    network = build_segformer(config).eval()
    save_folder(tmp_path / "own", network, config, tuple("abcde"), {}, torch.float32)
    assert main([str(tmp_path / "own"), "--out", str(tmp_path / "hf"), "--format", "hf"]) == 0
    theirs = transformers.SegformerForSemanticSegmentation.from_pretrained(tmp_path / "hf").eval()
    frames = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = theirs(pixel_values=network.normalise(frames)[0]).logits
        torch.testing.assert_close(network(frames).logits, expected, atol=1e-4, rtol=0.0)
    assert theirs.config.id2label == dict(enumerate("abcde"))
    assert main([str(tmp_path / "hf"), "--out", str(tmp_path / "again"), "--format", "hf"]) == 0
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("hf", "again"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    own = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == own


def test_what_has_no_such_format_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["examples.unet:make", "--out", str(tmp_path / "x")]
    assert main(words) == 2
    assert "built by your own code" in capsys.readouterr().err
    assert main(["segformer_b9", "--out", str(tmp_path / "x")]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_moved_frames_travel_with_the_network_or_the_card_says_that_they_do_not(kit: Kit) -> None:
    extra = ("trigger.kind=always", "memory=null", "guards=null", "replay.frames=4")
    run = kit.run(*extra, method="default", frames=1)
    assert main([str(run), "--out", str(kit.root / "own")]) == 0
    alignment = load_folder(kit.root / "own").network.alignment
    assert alignment is not None
    assert json.loads((kit.root / "own" / "config.json").read_text())["alignment"]["strength"] == 0.5
    assert "config.json holds that look" in (kit.root / "own" / "README.md").read_text()
    frames = torch.rand(1, 3, 64, 64) * 0.2
    assert not torch.allclose(alignment(frames), frames, atol=0.01)
    assert main([str(run), "--out", str(kit.root / "hf"), "--format", "hf"]) == 0
    assert "This format cannot hold that step" in (kit.root / "hf" / "README.md").read_text()
