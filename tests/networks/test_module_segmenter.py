"""Somebody else's module behind our interface: stages found, parameters shared out, gradients, odd outputs refused."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from examples.unet import UNet
from online_uda.errors import UserError
from online_uda.networks.discover import discover
from online_uda.networks.module_segmenter import ModuleSegmenter
from online_uda.networks.zoo import load_network
from streams.classes import CAMVID_11


def block(into: int, out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(into, out, 3, stride, 1), nn.BatchNorm2d(out), nn.ReLU())


class Lambda(nn.Module):
    """A 1x1 convolution whose output goes through a function."""

    def __init__(self, change: Callable[[Tensor], Any], stride: int = 8) -> None:
        super().__init__()
        self.conv, self.change = nn.Conv2d(3, 11, stride, stride), change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.conv(x))


class Pooled(nn.Module):
    """An encoder, a head with image pooling and BatchNorm on one value, and a branch that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(block(3, 8, 4), block(8, 12, 2), block(12, 16, 2))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16))
        self.classifier = nn.Conv2d(16, 11, 1)
        self.auxiliary = nn.Conv2d(16, 11, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.encoder(x)
        return {"logits": self.classifier(x + self.pool(x)), "aux": self.auxiliary(x)}


def wrapped(module: nn.Module) -> ModuleSegmenter:
    torch.manual_seed(0)
    return ModuleSegmenter(module, "mine", light_width=8).eval()  # type: ignore[return-value]


def test_stages_of_a_unet_and_who_owns_what() -> None:
    network = wrapped(UNet(11, width=8))
    stages = [(stage.units, stage.stride, stage.width) for stage in network.found.stages]
    assert stages == [(("down.0", "down.1"), 4, 16), (("down.2",), 8, 32), (("down.3",), 16, 64)]
    assert network.divisor == 16
    parts = [[n for n, _ in network.module_parameters(index)] for index in range(3)]
    parts.append([n for n, _ in network.head_parameters()])
    assert sorted(n for part in parts for n in part) == sorted(n for n, _ in network.learnable_parameters())
    assert {name.split(".")[1] for name in parts[3]} == {"up", "classify"}
    frames = torch.rand(2, 3, 50, 70)
    output = network(frames)
    assert output.full().shape == (2, 11, 50, 70)
    maps = network.encode(network.normalise(frames)[0])
    assert all(torch.equal(one, other) for one, other in zip(maps, output.features, strict=True))
    assert [tuple(x.shape) for x in maps] == [(2, 16, 16, 20), (2, 32, 8, 10), (2, 64, 4, 5)]
    assert network.light(frames).logits.shape == (2, 11, 16, 20)


def test_the_first_map_costs_the_first_stage_only() -> None:
    network, ran = wrapped(UNet(11, width=8)), []
    for name, part in network.inner.named_modules():
        part.register_forward_hook(lambda *_, name=name: ran.append(name))
    network.encode(torch.rand(1, 3, 64, 64), 1)
    assert {name[:6] for name in ran} == {"down.0", "down.1"}


def test_logits_are_the_modules_own_and_a_copy_is_independent() -> None:
    module = UNet(11, width=8).eval()
    network = wrapped(module)
    frames = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        x = network.normalise(frames)[0]
        assert torch.equal(network(frames).logits, module(x))
        twin = copy.deepcopy(network)
        twin.inner.get_parameter("classify.bias").fill_(9.0)
        assert torch.equal(network(frames).logits, module(x))
        assert not torch.equal(twin(frames).logits, network(frames).logits)
        assert all(torch.equal(a, b) for a, b in zip(twin(frames).features, network(frames).features, strict=True))


def test_single_value_norms_keep_their_statistics_and_unused_parameters_stay_out() -> None:
    network = wrapped(Pooled())
    assert network.found.single_value_norms == ("pool.2",)
    assert set(network.found.unused) == {"auxiliary.weight", "auxiliary.bias"}
    assert not any("auxiliary" in name for name, _ in network.learnable_parameters())
    before = network.inner.get_buffer("pool.2.running_mean").clone()
    network.train()
    network(torch.rand(1, 3, 64, 64)).logits.sum().backward()
    assert torch.equal(network.inner.get_buffer("pool.2.running_mean"), before)
    assert network.inner.get_submodule("encoder").training
    assert all(parameter.grad is not None for _, parameter in network.learnable_parameters())


def test_tokens_count_as_maps() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16, "num_labels": 11}
    network = wrapped(transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(**sizes)))
    assert [(stage.stride, stage.width) for stage in network.found.stages] == [(4, 8), (8, 8), (16, 16), (32, 16)]
    assert network(torch.rand(1, 3, 64, 96)).features[0].shape == (1, 8, 16, 24)


class ChannelsLast(nn.Module):
    """Swin-like stages whose maps are (B, H, W, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(Turned(*sizes) for sizes in ((3, 24, 4), (24, 32, 2), (32, 48, 2)))
        self.classifier = nn.Conv2d(48, 11, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        for stage in self.stages:
            x = stage(x)
        return self.classifier(x.permute(0, 3, 1, 2))


class Turned(nn.Module):
    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(into, out, stride, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def test_maps_with_the_channels_last_are_turned() -> None:
    network = wrapped(ChannelsLast())
    assert [(stage.stride, stage.width) for stage in network.found.stages] == [(4, 24), (8, 32), (16, 48)]
    for height in (64, 96):  # 96 is 4 * 24: as many rows as channels
        maps = network(torch.rand(1, 3, height, 128)).features
        assert [tuple(x.shape[1:]) for x in maps] == [
            (width, height // stride, 128 // stride) for stride, width in ((4, 24), (8, 32), (16, 48))
        ]
        assert network.light(torch.rand(1, 3, height, 128)).logits.shape == (1, 11, height // 4, 32)


class Patches(nn.Conv2d):
    """Takes multiples of its patch and nothing else, as a plain transformer does."""

    def __init__(self, patch: int) -> None:
        super().__init__(3, 11, min(patch, 32), min(patch, 32))
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        if any(side % self.patch for side in x.shape[-2:]):
            raise ValueError(f"{tuple(x.shape[-2:])} is no multiple of {self.patch}")
        return super().forward(x)


@pytest.mark.parametrize("patch", [7, 12, 14, 28, 48, 128, 256])
def test_patches_that_are_no_power_of_two(patch: int) -> None:
    network = wrapped(Patches(patch))
    assert network.divisor % patch == 0
    output = network(torch.rand(1, 3, 150, 300))
    assert output.full().shape == (1, 11, 150, 300)
    assert output.padded[0] % patch == output.padded[1] % patch == 0
    assert network.light(torch.rand(1, 3, 50, 70)).full().shape == (1, 11, 50, 70)


def test_sizes_that_cannot_be_taken_say_what_to_do() -> None:
    class Fixed(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.view(1, 3, 512, 512))

    with pytest.raises(UserError, match=r"every size tried \(67x93 to 256x512\): shape .* resize inside its forward"):
        wrapped(Fixed(3, 11, 4, 4))


def test_a_scripted_module_is_one_line() -> None:
    scripted = torch.jit.trace(nn.Conv2d(3, 11, 4, 4), torch.rand(1, 3, 64, 64))
    with pytest.raises(UserError, match=r"compiled by TorchScript, .* return the module itself"):
        wrapped(nn.Sequential(scripted))


def test_without_stages_the_detector_sees_colours_and_edges() -> None:
    network = wrapped(nn.Conv2d(3, 11, 16, 16))
    assert network.found.stages == ()
    assert network.stage_count == 1
    assert {name for name, _ in network.module_parameters(0)} == {"inner.weight", "inner.bias"}
    grey = network.encode(torch.full((1, 3, 32, 64), 0.5), 1)[0]
    assert grey.shape == (1, 9, 8, 16)
    assert torch.equal(grey[:, :3], torch.full((1, 3, 8, 16), 0.5))
    assert grey[:, 3:].abs().max() == 0
    striped = torch.zeros(1, 3, 32, 64)
    striped[..., ::2] = 1.0
    edges = network.encode(striped, 1)[0]
    assert edges[:, 3:6].mean() > 0.9  # across
    assert edges[:, 6:].abs().max() == 0  # along


@pytest.mark.parametrize("form", ["tensor", "out", "logits", "tuple"])
def test_logits_are_found_in_what_comes_back(form: str) -> None:
    changes: dict[str, Callable[[Tensor], Any]] = {
        "tensor": lambda y: y, "out": lambda y: {"out": y, "aux": y * 2}, "logits": lambda y: {"logits": y},
        "tuple": lambda y: (y, y.mean()),
    }  # fmt: skip
    network = wrapped(Lambda(changes[form]))
    frames = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(frames).logits, network.inner.get_submodule("conv")(network.normalise(frames)[0]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y: {"boxes": y}, "dictionary of boxes; expected 'logits'"),
        (lambda y: (y, y), "a tuple with 2 maps"),
        (lambda y: y.mean((2, 3)), r"a tensor \(1, 11\); expected logits"),
        (lambda y: y.argmax(1, keepdim=True).float(), r"expected logits \(B, C, h, w\) with 2 classes or more"),
        (lambda y: {}, "dictionary of nothing"),
        (lambda y: y.round().to(torch.int64), "returned torch.int64; expected logits in floating point"),
        (lambda y: y.to(torch.complex64), "returned torch.complex64"),
        (lambda y: y / 0 * 0, "for a black frame are not finite"),
        (lambda y: "no", "returned str"),
        (lambda y: y[..., :2], "frame's proportions"),
        (lambda y: y.softmax(1), "returned probabilities, which add up to 1; return the logits"),
        (lambda y: y.repeat_interleave(8, 2).repeat_interleave(8, 3).permute(0, 2, 3, 1), "with the channels last"),
        (lambda y: y.detach(), "depend on no parameter"),
        (lambda y: y.view(3), "fails on frames .* of every size tried"),
    ],
)
def test_odd_outputs_are_refused(change: Callable[[Tensor], Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        discover(Lambda(change), "mine")


def test_functions_are_found_called_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_nets.py").write_text(
        "from torch import nn\n"
        "def make(classes):\n"
        "    net = nn.Conv2d(3, classes, 8, 8)\n"
        "    net.input_mean, net.input_std = (0.1, 0.2, 0.3), (1.0, 1.0, 1.0)\n"
        "    return net\n"
        "def twenty(): return nn.Conv2d(3, 20, 8, 8)\n"
        "def words(): return 'net'\n"
        "def broken(): raise KeyError('w')\n"
        "def leaves(): raise SystemExit(3)\n"
        "def half(classes): return make(classes).half()\n"
        "def nan(classes):\n"
        "    net = make(classes)\n"
        "    net.bias.data[0] = float('nan')\n"
        "    return net\n"
        "def empty(classes): return make(classes).to('meta')\n"
        "class Erased(nn.Conv2d):\n"
        "    def forward(self, x):\n"
        "        y = super().forward(x)\n"
        "        x.zero_()\n"
        "        return y\n"
        "def erased(classes): return Erased(3, classes, 8, 8)\n"
    )
    (tmp_path / "gone.py").write_text("import sys\nsys.exit('not today')\n")
    (tmp_path / "needy.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    loaded = load_network("own_nets:make", CAMVID_11)
    assert loaded.network.classes == 11
    assert loaded.network.get_buffer("mean").flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert "no stages" in loaded.description
    for name, words in (
        ("own_nets:twenty", "11 classes of camvid11; this network has 20"),
        ("own_nets:words", "returned str; expected a torch.nn.Module"),
        ("own_nets:broken", "broken failed: KeyError"),
        ("own_nets:mak", "has no function mak; did you mean make"),
        ("no_nets:make", "no module no_nets"),
        ("own_nets:leaves", "leaves failed: SystemExit: 3"),
        ("own_nets:half", "weight is torch.float16; networks learn in float32"),
        ("own_nets:nan", "1 tensors hold NaN or infinity, the first is bias"),
        ("own_nets:empty", "weight has no values"),
        ("own_nets:erased", "no gradient passes through it"),
        ("gone:make", "importing gone failed: SystemExit: not today"),
        ("needy:make", "needs a_package_that_is_not_there, which is not installed"),
    ):
        with pytest.raises(UserError, match=words):
            load_network(name, CAMVID_11)


def test_a_size_that_its_own_code_cannot_take_is_told_in_one_line_and_later_faults_pass() -> None:
    faults: list[Exception] = []

    def picky(logits: Tensor) -> Tensor:
        if faults:
            raise faults[0]
        if logits.shape[-2] < 10:
            raise RuntimeError("output size is too small\nand more")
        return logits

    network = wrapped(Lambda(picky, stride=8))
    with torch.no_grad():
        with pytest.raises(
            UserError, match=r"mine: its own code fails on frames of 64x96: output size is too small; take"
        ):
            network(torch.zeros(1, 3, 64, 96))
        network(torch.zeros(1, 3, 96, 128))
        for fault, size in ((RuntimeError("a bug"), 128), (torch.OutOfMemoryError("none left"), 192)):
            faults[:] = [fault]
            with pytest.raises(type(fault), match=str(fault)):
                network(torch.zeros(1, 3, 96, size))
