"""Networks by name or folder, and whether their classes fit the stream's."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from online_uda.errors import UserError
from online_uda.networks.checkpoint_writer import save_folder
from online_uda.networks.checkpoints import LoadedNetwork
from online_uda.networks.mit import MIT_VARIANTS, MiTConfig
from online_uda.networks.segmenter import SegformerConfig, build_segformer
from online_uda.networks.spec import NetworkOptions
from online_uda.networks.zoo import DEFAULT_NETWORK, NETWORKS, architecture, fit_classes, load_network
from streams.classes import CAMVID_11, CITYSCAPES_19
from streams.frame import ClassSet

TINY = SegformerConfig(MiTConfig((8, 8, 10, 16), (1, 1, 1, 1)), classes=3, head_width=12, light_width=6)
THREE = ClassSet("three", ("road", "sky", "car"), ((0, 0, 0),) * 3)


def tiny(names: tuple[str, ...]) -> LoadedNetwork:
    torch.manual_seed(0)
    return LoadedNetwork(build_segformer(TINY).eval(), names, True, "tiny")


def test_registry_holds_every_size_and_the_default() -> None:
    assert set(NETWORKS) == {DEFAULT_NETWORK, *(f"segformer_{variant}" for variant in MIT_VARIANTS)}
    assert all(entry.name == name and entry.description for name, entry in NETWORKS.items())


def test_architecture_by_name_has_the_classes_of_the_stream() -> None:
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="random weights: what it predicts before training means nothing"):
        loaded = load_network("segformer_b0", CAMVID_11, NetworkOptions(init="random"))
    assert loaded.class_names == CAMVID_11.names
    assert not loaded.has_light_head
    assert loaded.network(torch.rand(1, 3, 64, 64)).logits.shape == (1, 11, 16, 16)
    assert not loaded.network.training


def test_random_weights_are_never_silent() -> None:
    with pytest.raises(UserError, match=r"segformer_b0: has no trained weights.*--init random"):
        load_network("segformer_b0", CAMVID_11)


def test_unknown_name_gives_near_matches() -> None:
    with pytest.raises(UserError, match=r"did you mean .*segformer_b3.*--list networks"):
        load_network("segfromer_b3", CITYSCAPES_19)


def test_far_off_name_still_says_how_to_list() -> None:
    with pytest.raises(UserError, match=r"unknown network 'qqq': --list networks"):
        load_network("qqq", CITYSCAPES_19)


def test_missing_folder_is_not_taken_for_a_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such network folder"):
        load_network(tmp_path / "gone", CITYSCAPES_19)


def test_folder_is_loaded_by_its_path(tmp_path: Path) -> None:
    network = tiny(THREE.names).network
    save_folder(tmp_path, network, TINY, THREE.names, {}, dtype=torch.float32)
    frames = torch.rand(1, 3, 64, 64)
    assert torch.equal(load_network(tmp_path, THREE).network(frames).logits, network(frames).logits)


def test_another_number_of_classes_is_refused() -> None:
    with pytest.raises(UserError, match=r"11 classes of camvid11; this network has 3"):
        fit_classes(tiny(THREE.names), CAMVID_11)


def test_equal_names_in_another_order_are_mapped_by_name() -> None:
    loaded, frames = tiny(THREE.names), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before, light = loaded.network(frames).logits, loaded.network.light(frames).logits
    shuffled = replace(THREE, names=("Car", "road", "sky"))
    fitted = fit_classes(loaded, shuffled)
    with torch.no_grad():
        torch.testing.assert_close(fitted.network(frames).logits, before[:, [2, 0, 1]])
        torch.testing.assert_close(fitted.network.light(frames).logits, light[:, [2, 0, 1]])
    assert fitted.class_names == shuffled.names
    assert "reordered by name" in fitted.description


def test_other_names_are_taken_by_position_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"ship not in three; classes are taken by position"):
        fitted = fit_classes(tiny(("road", "sky", "ship")), THREE)
    assert fitted.class_names == ("road", "sky", "ship")


@pytest.mark.parametrize("names", [THREE.names, ("ROAD", "Sky ", "car"), ()])
def test_equal_or_absent_names_pass_silently(names: tuple[str, ...]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = tiny(names)
        assert fit_classes(loaded, THREE) is loaded


def test_sizes_by_name() -> None:
    sizes = architecture("segformer_b2", 19)
    assert isinstance(sizes, SegformerConfig)
    assert (sizes.encoder.depths, sizes.head_width, sizes.classes) == ((3, 4, 6, 3), 768, 19)
    with pytest.raises(UserError, match=r"'resnet18' is not one that can be trained; choose one of segformer_b0"):
        architecture("resnet18", 19)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm:resnt50", "timm:resnt50: unknown; did you mean resnet50"),
        ("torchvision:deeplab", "torchvision:deeplab: unknown; choose one of deeplabv3_resnet50"),
        ("examples.unet.py:make", "a module is named without .py: examples.unet:make"),
    ],
)
def test_an_unknown_name_is_told_before_its_weights_are_asked_for(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_network(name, CITYSCAPES_19)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("segformer_b0", {"init": "pretrained", "init_head": "random"}, "timm has no trained weights of it"),
        ("mit_b0+upernet", {"init": "pretrained", "init_head": "random"}, "timm has no trained weights of it"),
        ("torchvision:fcn_resnet50", {"init": "pretrained", "init_head": "random"}, "timm has no trained weights"),
        (DEFAULT_NETWORK, {"init_head": "random"}, "--init-head random would not be used; drop it"),
        ("examples.unet:make", {"init_head": "random"}, "--init-head random would not be used; drop it"),
        ("hf:owner/name", {"init": "random"}, "--init random would not be used; drop it"),
    ],
)
def test_what_would_not_be_used_is_refused(name: str, options: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_network(name, CITYSCAPES_19, NetworkOptions(**options))  # type: ignore[arg-type]


def test_a_whole_network_keeps_its_head(tmp_path: Path) -> None:
    save_folder(tmp_path, tiny(THREE.names).network, TINY, THREE.names, {}, dtype=torch.float32)
    with pytest.raises(UserError, match="holds a whole network, and --init-head random would not be used"):
        load_network(tmp_path, THREE, NetworkOptions(init_head="random"))
