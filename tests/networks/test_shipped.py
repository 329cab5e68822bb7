"""The weights in the package: what they weigh, where they come from, and what they can do on unseen towns."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from online_uda.evaluation.confusion import confusion_matrix, mean_iou
from online_uda.networks.checkpoints import LoadedNetwork
from online_uda.networks.zoo import DEFAULT_NETWORK, WEIGHTS, load_network
from streams.city import Drive
from streams.classes import CITYSCAPES_19
from streams.frame import Scene
from streams.weather import render

SIZE = (256, 512)


@pytest.fixture(scope="module")
def shipped() -> LoadedNetwork:
    return load_network(DEFAULT_NETWORK, CITYSCAPES_19)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [Drive("val", 900 + seed, SIZE).render(17 * seed) for seed in range(8)]


def frames(scenes: list[Scene], rain_mm_h: float = 0.0) -> Iterator[tuple[torch.Tensor, np.ndarray]]:
    for index, scene in enumerate(scenes):
        image = scene.image
        if rain_mm_h:
            image = render(scene, "rain", rain_mm_h, frame_index=index, seed=3, sky_id=10)[0]
        yield torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255.0, scene.label


def test_weights_are_small_and_documented(shipped: LoadedNetwork) -> None:
    folder = WEIGHTS / DEFAULT_NETWORK
    assert (folder / "model.safetensors").stat().st_size < 10_000_000
    record = json.loads((folder / "config.json").read_text())["provenance"]
    assert record["commands"]
    assert record["val_miou"] == pytest.approx(np.mean(list(record["val_iou"].values())), abs=0.02)
    assert f"{record['val_miou']:.2f}" in (folder / "README.md").read_text()
    assert shipped.class_names == CITYSCAPES_19.names
    assert shipped.has_light_head


@torch.no_grad()
def test_scores_on_unseen_towns(shipped: LoadedNetwork, scenes: list[Scene]) -> None:
    matrix = sum(
        confusion_matrix(label, shipped.network(frame).labels()[0].numpy(), 19) for frame, label in frames(scenes)
    )
    assert mean_iou(matrix) > 60


@torch.no_grad()
def test_light_head_agrees_on_source_and_its_signal_rises_in_rain(shipped: LoadedNetwork, scenes: list[Scene]) -> None:
    """specs/hamlet.md section 9, check 10; the signal is that of section 2.3."""
    agreement, signals = [], {}
    for rain in (0.0, 200.0):
        values = []
        for frame, _ in frames(scenes, rain):
            prediction = shipped.network(frame).full().argmax(1)
            light = shipped.network.light(frame).full()
            values.append(F.cross_entropy(light, prediction).item())
            if rain == 0.0:
                agreement.append((light.argmax(1) == prediction).float().mean().item())
        signals[rain] = np.mean(values)
    assert np.mean(agreement) >= 0.80
    assert signals[200.0] - signals[0.0] >= 0.23
