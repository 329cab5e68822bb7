"""A network that answers in another label space: probabilities add up, parameters stay, everything else follows."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest
import torch

from online_uda.errors import USER_ERRORS, UserError
from online_uda.networks.architecture import NetworkConfig, build_network
from online_uda.networks.checkpoint_writer import save_folder
from online_uda.networks.spec import NetworkOptions
from online_uda.networks.zoo import load_network
from streams.classes import CAMVID_11, CITYSCAPES_19, class_groups


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = NetworkConfig("mit_b0", "segformer", 19, width=16, light_width=8)
    save_folder(tmp_path / "net", build_network(config).eval(), config, CITYSCAPES_19.names, {}, torch.float32)
    return tmp_path / "net"


def test_probabilities_add_up(folder: Path) -> None:
    plain = load_network(folder, CITYSCAPES_19).network
    loaded = load_network(folder, CAMVID_11, NetworkOptions(classes="cityscapes19"))
    assert "cityscapes19 as camvid11" in loaded.description
    assert loaded.network.classes == 11
    frames = torch.rand(1, 3, 64, 96)
    groups = class_groups(CITYSCAPES_19, CAMVID_11)
    with torch.no_grad():
        for ours, theirs in (
            (loaded.network(frames), plain(frames)),
            (loaded.network.light(frames), plain.light(frames)),
        ):
            shares = theirs.logits.softmax(1)
            expected = torch.stack([shares[:, list(group)].sum(1) for group in groups], 1)
            torch.testing.assert_close(ours.logits.exp(), expected, atol=1e-5, rtol=1e-4)
        twin = copy.deepcopy(loaded.network)
        assert torch.equal(twin(frames).logits, loaded.network(frames).logits)
    assert loaded.network.state_dict().keys() == plain.state_dict().keys()


def test_classes_are_offered_checked_and_reported(folder: Path) -> None:
    with pytest.raises(UserError, match=r"this network has 19; name its own classes with --classes"):
        load_network(folder, CAMVID_11)
    with pytest.raises(UserError, match="--classes camvid11 has 11 classes, the network 19"):
        load_network(folder, CAMVID_11, NetworkOptions(classes="camvid11"))
    with pytest.raises(USER_ERRORS, match="did you mean 'cityscapes19'"):
        load_network(folder, CAMVID_11, NetworkOptions(classes="cityscape19"))
    with pytest.warns(UserWarning, match="camvid11 has no class for wall, traffic light, terrain"):
        loaded = load_network("segformer_b0", CITYSCAPES_19, NetworkOptions(init="random", classes="camvid11"))
    assert loaded.network.classes == 19
    wall = loaded.network(torch.rand(1, 3, 64, 64)).logits[:, 3]
    assert wall.max() == -30.0


def test_a_module_of_ones_own_too() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = load_network("examples.unet:make", CITYSCAPES_19, NetworkOptions(classes="camvid11"))
    output = loaded.network(torch.rand(1, 3, 64, 64))
    assert output.logits.shape[1] == 19
    assert output.full().isfinite().all()
