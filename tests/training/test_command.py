"""The training command from its flags to the network folder, and a user's mistakes as one line each."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from online_uda.errors import UserError
from online_uda.networks.architecture import NetworkConfig
from online_uda.networks.checkpoints import load_folder
from online_uda.networks.segmenter import Segmenter
from online_uda.networks.zoo import load_network
from online_uda.training.cli import main, parser
from online_uda.training.data import Span, open_source, spread
from online_uda.training.session import _device
from online_uda.training.validate import validate
from streams.classes import CAMVID_11, CITYSCAPES_19
from streams.frame import IGNORE_ID, LabelledImage, LabelledSet

SMALL = ["--size", "64x64", "--iterations", "2", "--light-iterations", "1", "--device", "cpu", "--threads", "1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on a folder of ten images."""
    from PIL import Image

    root = tmp_path_factory.mktemp("finished")
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (root / "data" / kind).mkdir(parents=True)
    for index in range(10):
        label = np.kron(rng.integers(0, 11, (4, 4)), np.ones((16, 16))).astype(np.uint8)
        Image.fromarray(label).save(root / "data" / "labels" / f"{index}.png")
        Image.fromarray(np.repeat(label[..., None] * 20, 3, axis=2)).save(root / "data" / "images" / f"{index}.png")
    words = [*SMALL, "--data", str(root / "data"), "--classes", "camvid11", "--out", str(root / "out")]
    assert main([*words, "--check-every", "1", "--images", "6", "--drop-path", "0.2"]) == 0
    return root


def test_result_is_a_network_with_its_provenance(finished: Path) -> None:
    loaded = load_folder(finished / "out" / "network")
    assert loaded.class_names == CAMVID_11.names
    assert loaded.has_light_head
    assert loaded.network.stages[3].blocks[1].drop_path.rate == pytest.approx(0.2)
    record = json.loads((finished / "out" / "network" / "config.json").read_text())["provenance"]
    assert [part["from_step"] for part in record["commands"]] == [0]
    assert record["commands"][0]["command"].startswith("python -m online_uda.training --size 64x64")
    assert record["seed"] == 0
    assert record["iterations"] == 2
    assert record["torch"] == torch.__version__
    assert record["val_images"] == 1  # the held-out tenth of ten images
    assert set(record["val_iou"]) <= set(CAMVID_11.names)
    assert record["val_miou"] == pytest.approx(np.mean(list(record["val_iou"].values())), abs=0.02)
    dtypes = {tensor.dtype for tensor in load_file(finished / "out" / "network" / "model.safetensors").values()}
    assert torch.float16 in dtypes
    assert torch.float32 not in dtypes


def test_model_card_tells_command_and_scores(finished: Path) -> None:
    card = (finished / "out" / "network" / "README.md").read_text()
    record = json.loads((finished / "out" / "network" / "config.json").read_text())["provenance"]
    assert f"| command from step 0 | `{record['commands'][0]['command']}` |" in card
    assert f"| {record['val_miou']:.2f} |" in card
    for name, iou in record["val_iou"].items():
        assert f"| {name} | {iou:.1f} |" in card
    absent = set(CAMVID_11.names) - set(record["val_iou"])
    assert all(name in card.split("Not in the validation images:")[1] for name in absent)


def test_the_network_on_the_way_is_kept(finished: Path) -> None:
    latest = load_folder(finished / "out" / "latest").network.state_dict()
    final = load_folder(finished / "out" / "network").network.state_dict()
    assert not torch.equal(latest["head.classifier.weight"], final["head.classifier.weight"])


def test_resume_stretches_a_finished_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SMALL, "--data", str(finished / "data"), "--classes", "camvid11", "--out", str(finished / "out")]
    before = load_file(finished / "out" / "network" / "model.safetensors")
    assert main([*words, "--iterations", "3", "--resume", "--drop-path", "0.2"]) == 0
    said = capsys.readouterr()
    assert "training 3/3" in said.err
    assert "training 2/" not in said.err
    assert "mIoU" in said.out
    after = load_file(finished / "out" / "network" / "model.safetensors")
    assert any(not torch.equal(before[name], after[name]) for name in before)
    record = json.loads((finished / "out" / "network" / "config.json").read_text())["provenance"]
    assert record["iterations"] == 3
    assert [part["from_step"] for part in record["commands"]] == [0, 2]
    assert "--iterations 3" in record["commands"][1]["command"]
    assert main(words) == 2
    assert "add --resume" in capsys.readouterr().err


def test_start_keeps_the_main_head_and_trains_the_light_head(finished: Path, tmp_path: Path) -> None:
    """--iterations 0 fits a light head to a network that has none, such as one from elsewhere."""
    start = tmp_path / "start"
    shutil.copytree(finished / "out" / "network", start)
    before = load_file(start / "model.safetensors")
    save_file({k: v for k, v in before.items() if not k.startswith("light_head.")}, start / "model.safetensors")
    words = [*SMALL, "--data", str(finished / "data"), "--classes", "camvid11", "--out", str(tmp_path / "out")]
    assert main([*words, "--iterations", "0", "--light-iterations", "2", "--start", str(start)]) == 0
    after = load_file(tmp_path / "out" / "network" / "model.safetensors")
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name]) or name.startswith("light_head."), name
    assert not torch.equal(before["light_head.classifier.bias"], after["light_head.classifier.bias"])
    record = json.loads((tmp_path / "out" / "network" / "config.json").read_text())["provenance"]
    assert record["start"] == str(start)
    assert str(start) in (tmp_path / "out" / "network" / "README.md").read_text()


@pytest.mark.slow
def test_town_in_two_processes(tmp_path: Path) -> None:
    words = [*SMALL, "--data", "town", "--out", str(tmp_path / "out"), "--images", "4", "--val-images", "2"]
    assert main([*words, "--processes", "2"]) == 0
    assert load_folder(tmp_path / "out" / "network").class_names == CITYSCAPES_19.names


# Mistakes


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--data", "no/such/folder"], "no/such/folder: no such folder"),
        (["--data", "town", "--classes", "camvid11"], "--classes camvid11: the town is labelled with cityscapes19"),
        (["--data", "town", "--classes", "camvid_11"], "unknown class set 'camvid_11' (did you mean 'camvid11'?)"),
        (["--data", "town", "--network", "segformer_b9"], "choose one of segformer_b0"),
        (["--data", "town", "--network", "examples.unet:make@x"], "train it further with --start examples.unet:make@x"),
        (["--data", "town", "--network", "examples.unet:make", "--drop-path", "0.1"], "has no stochastic depth"),
        (["--data", "town", "--start", "examples.unet:make@x"], "no folder or file 'x' with its weights"),
        (["--data", "town", "--device", "quantum"], "--device quantum: unknown device"),
        (["--data", "town", "--device", "cuda:77"], "--device cuda:77: not available"),
        (["--data", "town", "--device", "mps"], "--device mps: unsupported device"),
        (["--data", "town", "--rare-share", "1.5"], "--rare-share 1.5"),
        (["--data", "town", "--drop-path", "1"], "--drop-path 1.0"),
        (["--data", "town", "--learning-rate", "0"], "--learning-rate 0.0"),
        (["--data", "town", "--resume"], "no training state to resume"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    words: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*SMALL, "--out", str(out), *words]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert said.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize("words", [["--size", "512"], ["--size", "32x512"], ["--iterations", "-1"], ["--threads", "x"]])
def test_flags_that_cannot_be_read_exit_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--data", "town", "--out", "no/where", *words])
    assert caught.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_out_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("")
    assert main([*SMALL, "--data", "town", "--out", str(tmp_path / "out")]) == 2
    assert "is a file; give a folder" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_out_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o500)
    assert main([*SMALL, "--data", "town", "--out", str(tmp_path / "out")]) == 2
    assert "cannot be written to" in capsys.readouterr().err


def test_processes_share_a_cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert _device("auto", 1).type == "cuda"
    assert _device("auto", 2).type == "cpu"
    with pytest.raises(UserError, match="only a CPU is shared by processes"):
        _device("cuda:0", 2)


def test_help_does_not_need_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from online_uda.training.cli import parser; parser().format_help(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# Parts


def test_the_last_tenth_of_a_folder_is_held_out(make_folder: Callable[..., Path]) -> None:
    folder = make_folder("twenty", count=20)
    train, val = open_source(str(folder), "camvid11", (32, 48), 100, 100)
    assert (len(train), len(val)) == (18, 2)
    everything = {train[i].image.tobytes() for i in range(18)} | {val[i].image.tobytes() for i in range(2)}
    assert len(everything) == 20
    assert train[0].image.shape == (32, 48, 3)
    with pytest.raises(IndexError):
        train[18]


def test_one_image_cannot_be_split(make_folder: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="need at least 2"):
        open_source(str(make_folder("one", count=1)), "camvid11", (32, 48), 10, 10)


def test_town_splits_share_no_image() -> None:
    train, val = open_source("town", None, (64, 128), 3, 2)
    assert (len(train), len(val)) == (3, 2)
    assert len({train[0].image.tobytes(), train[1].image.tobytes(), val[0].image.tobytes()}) == 3


def test_spread_covers_the_whole_range(blocks: LabelledSet) -> None:
    assert spread(10, 4) == [0, 2, 5, 7]
    assert spread(3, 10) == [0, 1, 2]
    assert len(Span(blocks, 5, 8)) == 3


def test_validation_counts_one_matrix_and_the_agreement(tiny_network: Segmenter, blocks: LabelledSet) -> None:
    """Two images scored together: pixels are pooled, not averaged an image; the absent class is left out."""
    network = tiny_network.eval()
    for head in (network.head, network.light_head):
        classifier = head.get_submodule("classifier")
        torch.nn.init.zeros_(classifier.weight)
        classifier.bias.data = torch.tensor([1.0, 0.0, 0.0, 0.0])

    class Two:
        classes = blocks.classes

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> LabelledImage:
            label = np.zeros((64, 64), np.uint8)
            if index == 1:
                label[:32] = 1
                label[32:48] = IGNORE_ID
            return LabelledImage(np.zeros((64, 64, 3), np.uint8), label)

    scores = validate(network, Two(), [0, 1], torch.device("cpu"))
    truth_a, truth_b = 64 * 64 + 64 * 16, 64 * 32  # everything labelled is predicted as class a
    assert scores.iou == {"a": pytest.approx(100 * truth_a / (truth_a + truth_b), abs=0.01), "b": 0.0}
    assert scores.miou == pytest.approx(sum(scores.iou.values()) / 2, abs=0.01)
    assert scores.light_agreement == 100.0
    network.light_head.classifier.bias.data = torch.tensor([0.0, 1.0, 0.0, 0.0])
    assert validate(network, Two(), [0], torch.device("cpu")).light_agreement == 0.0


def test_example_in_the_help_can_be_parsed() -> None:
    flags = parser()
    examples = [line.split()[3:] for line in (flags.epilog or "").splitlines() if "python -m" in line]
    assert len(examples) == 2
    assert flags.parse_args(examples[1]).resume


def test_a_described_network_is_trained_with_its_own_drop_path(finished: Path, tmp_path: Path) -> None:
    described = tmp_path / "mine.yaml"
    described.write_text("encoder: mit_b0\nhead: upernet\nwidth: 16\nlight_width: 8\ndrop_path: 0.2\n")
    words = ["--size", "64x64", "--iterations", "1", "--light-iterations", "1", "--processes", "1", "--threads", "1"]
    words += ["--data", str(finished / "data"), "--classes", "camvid11", "--out", str(tmp_path / "out")]
    assert main([*words, "--network", str(described)]) == 0
    loaded = load_folder(tmp_path / "out" / "network")
    assert isinstance(loaded.config, NetworkConfig)
    assert (loaded.config.head, loaded.config.width, loaded.config.drop_path) == ("upernet", 16, 0.2)
    bias = loaded.network.head.get_parameter("auxiliary.classifier.bias")
    assert bias.abs().max() > 0  # drawn as 0: the auxiliary loss has moved it


def test_a_network_of_ones_own_code_is_trained_and_trained_further(finished: Path, tmp_path: Path) -> None:
    words = [*SMALL, "--data", str(finished / "data"), "--classes", "camvid11"]
    assert main([*words, "--network", "examples.unet:make", "--out", str(tmp_path / "out")]) == 0
    text = f"examples.unet:make@{tmp_path / 'out' / 'network'}"
    loaded = load_network(text, CAMVID_11)
    assert loaded.has_light_head
    assert loaded.class_names == CAMVID_11.names
    assert main([*words, "--iterations", "0", "--start", text, "--out", str(tmp_path / "more")]) == 0
    further = load_file(tmp_path / "more" / "network" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "out" / "network" / "model.safetensors").items():
        assert torch.equal(tensor, further[name]) or name.startswith("light_head."), name
