"""What a run has learned as a folder, for transformers, or as adapters alone; and cards that say where it came from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from online_uda.cli import main as cli
from online_uda.errors import UserError
from online_uda.export.cli import main as export
from online_uda.networks.adapter_file import load_adapters
from online_uda.networks.adapter_layers import AdapterConfig
from online_uda.networks.adapters import insert_adapters
from online_uda.networks.checkpoint_writer import save_folder
from online_uda.networks.checkpoints import load_folder
from online_uda.networks.segmenter import build_segformer, segformer_config
from online_uda.networks.spec import NetworkOptions
from online_uda.networks.zoo import load_network
from online_uda.save import main
from streams.classes import CAMVID_11, CITYSCAPES_19
from streams.frame import ClassSet
from tests.run_kit import Kit, method_state, write_kit, write_network


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


def test_adapters_alone_go_on_their_network_again(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    run = kit.run("--scope", "adapters", "adapters.kind=lora", "optimizer.learning_rate=0.01", frames=3)
    alone, folded = kit.root / "alone", kit.root / "folded"
    assert main([str(run), "--out", str(alone), "--format", "adapters"]) == 0
    assert main([str(run), "--out", str(folded)]) == 0
    assert f"`--network {kit.network}@DIR`" in (alone / "README.md").read_text()
    frames = torch.rand(1, 3, 64, 64)
    expected = load_folder(folded).network(frames).logits
    for place in (alone, alone / "adapters.safetensors"):
        loaded = load_network(f"{kit.network}@{place}", CAMVID_11)
        torch.testing.assert_close(loaded.network(frames).logits, expected, atol=1e-5, rtol=0.0)
        assert f"lora adapters of {alone / 'adapters.safetensors'}" in loaded.description
    again = kit.run(frames=1, out="again", network=f"{kit.network}@{alone}")
    assert main([str(again), "--out", str(kit.root / "later")]) == 0
    assert main([f"{kit.network}@{alone}", "--out", str(kit.root / "whole")]) == 0
    torch.testing.assert_close(load_folder(kit.root / "whole").network(frames).logits, expected, atol=1e-5, rtol=0.0)
    for place in (alone, alone / "adapters.safetensors"):
        with pytest.raises(UserError, match=r"holds adapters alone; give --network NETWORK@"):
            load_network(place, CAMVID_11)
    capsys.readouterr()
    assert cli([*kit.arguments(network=str(alone))]) == 2
    assert f"holds adapters alone; give --network NETWORK@{alone}" in capsys.readouterr().err
    with pytest.raises(UserError, match="adapters of another network"):
        load_network(f"segformer_b0@{alone}", CAMVID_11, NetworkOptions(init="random"))


@pytest.mark.parametrize(("kind", "method"), [("adaptformer", "tent"), ("side", "ecotta")])
def test_adapters_that_do_not_fold(kind: str, method: str, kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--scope", "adapters", "adapters.kind=adaptformer", "optimizer.learning_rate=0.01")
    run = kit.run(*(words if method == "tent" else ("optimizer.learning_rate=0.01",)), method=method, frames=2)
    alone, file = kit.root / "alone", kit.root / "net.onnx"
    capsys.readouterr()
    assert main([str(run), "--out", str(kit.root / "whole")]) == 2
    assert "cannot be folded into weights" in capsys.readouterr().err
    assert main([str(run), "--out", str(alone), "--format", "adapters"]) == 0
    loaded = load_network(f"{kit.network}@{alone}", CAMVID_11)
    learned = method_state(run)["student"]
    state = loaded.network.state_dict()
    adapters = [name for name in state if ".adapter." in name]
    assert adapters
    assert all(torch.equal(state[name], learned[name]) for name in adapters)
    assert main([f"{kit.network}@{alone}", "--out", str(kit.root / "whole")]) == 2
    assert "has adapters that do not fold into weights" in capsys.readouterr().err
    assert export([str(run), "--out", str(file), "--size", "64x64", "--movable", "none"]) == 0
    frames = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = loaded.network(frames).logits
    found = onnxruntime.InferenceSession(file).run(None, {"frames": frames.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=0.0)
    with pytest.raises(UserError, match="it cannot grow others"):
        insert_adapters(loaded.network, AdapterConfig(), seed=0)


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


def test_what_cannot_be_saved_is_one_line(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    run, network = str(kit.run(frames=1)), str(kit.network)
    capsys.readouterr()
    for words, expected in (
        (["examples.unet:make", "--format", "hf"], "only a SegFormer has a Hugging Face format"),
        (["segformer_b9"], "did you mean"),
        ([run, "--classes", "camvid11"], "knows its classes; drop it"),
        ([network, "--classes", "cityscapes19"], "names its classes itself; drop it"),
        (["examples.unet:make@" + network], "holds SegFormer (widths 8, 8, 10, 16; 11 classes), not weights of"),
        (["examples.unet:make@gone"], "no folder or file 'gone' with its weights"),
        (["examples.unet:make@"], "no folder or file '' with its weights"),
    ):
        assert main([*words, "--out", str(kit.root / "x")]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert expected in lines[0]
        assert not (kit.root / "x").exists()


OWN = """
from torch import nn
class Net(nn.Module):
    def __init__(self, classes, width=8):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, width, 3, 4, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.mix, self.again = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.again.weight = self.mix.weight  # tied
        self.classify = nn.Conv2d(width, classes, 1)
    def forward(self, x):
        return self.classify(self.again(self.mix(self.down(x))))
def make(classes): return Net(classes)
def wide(classes): return Net(classes, 12)
def eleven(): return Net(11)
class Stateful(Net):
    def get_extra_state(self): return {"calls": 1}
    def set_extra_state(self, state): pass
def stateful(classes): return Stateful(classes)
"""


@pytest.fixture
def own(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> Kit:
    (kit.root / "code_of_mine.py").write_text(OWN)
    monkeypatch.syspath_prepend(kit.root)
    return kit


def test_a_network_of_ones_own_code_comes_back_with_what_it_has_learned(
    own: Kit, capsys: pytest.CaptureFixture[str]
) -> None:
    run, saved = own.run("optimizer.learning_rate=0.05", frames=3, network="code_of_mine:make"), own.root / "saved"
    assert main([str(run), "--out", str(saved)]) == 0
    learned = method_state(run)["student"]
    loaded = load_network(f"code_of_mine:make@{saved}", CAMVID_11)
    state = loaded.network.state_dict()
    assert all(torch.equal(state[n], tensor) for n, tensor in learned.items() if not n.startswith("light_head."))
    assert loaded.class_names == CAMVID_11.names
    assert not loaded.has_light_head  # nobody trained it
    assert loaded.network.get_parameter("inner.mix.weight") is loaded.network.get_parameter("inner.again.weight")
    assert "--network code_of_mine:make@DIR" in (saved / "README.md").read_text()
    assert json.loads((saved / "config.json").read_text())["function"]["source"] == "code_of_mine:make"
    # Runs again, and what it learns then is saved in the same form.
    again = own.run(frames=1, out="again", network=f"code_of_mine:make@{saved}")
    assert main([str(again), "--out", str(own.root / "later")]) == 0
    assert load_network(f"code_of_mine:make@{own.root / 'later'}", CAMVID_11).network.classes == 11
    # A file never says which code is run.
    capsys.readouterr()
    assert main([str(saved), "--out", str(own.root / "x")]) == 2
    assert f"give --network code_of_mine:make@{saved}" in capsys.readouterr().err


def test_the_own_state_dict_of_ones_own_module(own: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    import code_of_mine  # type: ignore[import-not-found]

    module, file, out = code_of_mine.make(11), own.root / "mine.pth", own.root / "out"
    torch.save({"state_dict": module.state_dict()}, file)
    network = load_network(f"code_of_mine:make@{file}", CAMVID_11).network
    frames = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(frames).logits, module.eval()(network.normalise(frames)[0]))
    assert main([f"code_of_mine:eleven@{file}", "--classes", "camvid11", "--out", str(out), "--half"]) == 0
    assert load_network(f"code_of_mine:make@{out}", CAMVID_11).class_names == CAMVID_11.names
    (own.root / "text.pth").write_text("<html>")
    for text, expected in (
        (f"wide@{file}", "inner.again.weight (8, 8, 1, 1) instead of (12, 12, 1, 1)"),
        (f"wide@{out}", "inner.again.weight (8, 8, 1, 1) instead of"),
        (f"none@{out}", "code_of_mine has no function none"),
        (f"make@{own.root / 'text.pth'}", "is text, not weights"),
    ):
        with pytest.raises(UserError, match=re.escape(expected)):
            load_network(f"code_of_mine:{text}", CAMVID_11)
    with pytest.raises(UserError, match=r"your own code makes its weights; drop --init random"):
        load_network("code_of_mine:make", CAMVID_11, NetworkOptions(init="random"))
    assert main([f"code_of_mine:make@{out}", "--classes", "cityscapes19", "--out", str(own.root / "y")]) == 2
    assert "names its classes itself" in capsys.readouterr().err
    assert main(["code_of_mine:stateful", "--out", str(own.root / "y")]) == 2
    assert "inner._extra_state is a dict; only tensors can be saved" in capsys.readouterr().err


def test_what_half_precision_cannot_hold_stays_whole(own: Kit) -> None:
    import code_of_mine

    module, file, out = code_of_mine.make(11), own.root / "mine.pth", own.root / "out"
    module.down[1].running_var.fill_(1e6)
    torch.save(module.state_dict(), file)
    assert main([f"code_of_mine:make@{file}", "--classes", "camvid11", "--out", str(out), "--half"]) == 0
    stored = load_file(out / "model.safetensors")
    assert stored["inner.down.1.running_var"].tolist() == [1e6] * 8
    assert stored["inner.mix.weight"].dtype == torch.float16


def test_a_network_that_answers_in_other_classes_keeps_its_own_names(kit: Kit, own: Kit) -> None:
    names = tuple(reversed(CAMVID_11.names))
    write_network(kit.root / "turned", names)
    for what, network in (("plain", str(kit.root / "turned")), ("own", "code_of_mine:make")):
        words = ["--classes", "cityscapes19"] if what == "own" else []
        run = kit.run(*words, frames=1, out=what, network=network)
        assert main([str(run), "--out", str(kit.root / f"{what}-saved")]) == 0
    stored = json.loads((kit.root / "own-saved" / "config.json").read_text())
    assert stored["class_names"] == list(CITYSCAPES_19.names)
    assert stored["function"]["classes"] == 19
    # Rows of a known head are put into the stream's order, a stranger's answers are.
    stored = json.loads((kit.root / "plain-saved" / "config.json").read_text())
    assert stored["class_names"] == list(CAMVID_11.names)
    text = f"code_of_mine:make@{kit.root / 'mine'}"
    assert main(["code_of_mine:make", "--classes", "camvid11", "--out", str(kit.root / "mine")]) == 0
    turned = ClassSet("turned", names, tuple(reversed(CAMVID_11.palette)))
    one, other = load_network(text, CAMVID_11), load_network(text, turned)
    frames = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = one.network(frames).logits.softmax(1).flip(1)
        torch.testing.assert_close(other.network(frames).logits.softmax(1), expected)
    assert (other.class_names, other.weight_names) == (names, CAMVID_11.names)


def test_moved_frames_travel_with_the_network_or_the_card_says_that_they_do_not(kit: Kit) -> None:
    extra = ("trigger.kind=always", "memory=null", "anchor.ensemble=null", "guards=null", "replay.frames=4")
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
