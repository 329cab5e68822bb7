"""Frames moved to the source look: against a plain reference, its limits, and on its way through files."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from online_uda.errors import UserError
from online_uda.export.graph import export_graph
from online_uda.export.session import open_session
from online_uda.networks.alignment import InputAlignment, mean_look, moments, of_the_whole, to_opponent
from online_uda.networks.checkpoint_writer import save_folder
from online_uda.networks.checkpoints import load_folder
from online_uda.networks.haze import mean_transmission
from online_uda.networks.mit import MiTConfig
from online_uda.networks.segmenter import SegformerConfig, build_segformer

CPU = torch.device("cpu")
TO_OPPONENT = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.299 / 1.772, -0.587 / 1.772, 0.886 / 1.772],
        [0.701 / 1.402, -0.587 / 1.402, -0.114 / 1.402],
    ]
)


def street(seed: int, size: tuple[int, int] = (48, 80)) -> NDArray[np.uint8]:
    """Bright above, dark below, with blobs."""
    generator = np.random.default_rng(seed)
    blobs = cv2.resize(generator.normal(0, 40, (6, 10, 3)).astype(np.float32), size[::-1])
    ramp = np.linspace(190, 70, size[0])[:, None, None]
    return np.clip(ramp + blobs + generator.normal(0, 6, (*size, 3)), 0, 255).astype(np.uint8)


def tensor(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255.0


def fitted(
    grid: tuple[int, int] = (4, 1), strength: float = 0.5, haze: float = 0.0, by_place: float = 1.0
) -> InputAlignment:
    images = [street(seed) for seed in range(6)]
    clear = mean_transmission(map(tensor, images)) if haze else None
    return InputAlignment(*mean_look(images, grid, CPU), strength, haze, clear, by_place)


def hazy(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    share = np.linspace(0.8, 0.2, image.shape[0])[:, None, None]
    return (image * (1 - share) + 200 * share).astype(np.uint8)


@pytest.mark.parametrize("grid", [(1, 1), (4, 1), (3, 2), (5, 3)])
@pytest.mark.parametrize("size", [(48, 80), (50, 77)])
def test_against_numpy_and_opencv(grid: tuple[int, int], size: tuple[int, int]) -> None:
    """A second implementation: numpy in float64, OpenCV's interpolation between centres of cells."""
    sources, frame = [street(seed, size) for seed in range(4)], hazy(street(9, size))

    def cells(image: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        y = image.astype(np.float64) / 255 @ TO_OPPONENT.T
        planes = torch.from_numpy(np.ascontiguousarray(y.transpose(2, 0, 1)))[None]
        m = F.adaptive_avg_pool2d(planes, grid)[0].numpy().transpose(1, 2, 0)
        q = F.adaptive_avg_pool2d(planes**2, grid)[0].numpy().transpose(1, 2, 0)
        return y, m, 0.5 * np.log(np.maximum(q - m * m, 0.005**2))

    m0, l0 = (np.mean([cells(image)[part] for image in sources], axis=0) for part in (1, 2))
    y, m, deviation = cells(frame)
    gain = np.exp(np.clip(0.5 * (l0 - deviation), -1.4, 1.4))
    offset = m * (1 - gain) + 0.5 * (m0 - m)
    gain, offset = (cv2.resize(part, size[::-1], interpolation=cv2.INTER_LINEAR) for part in (gain, offset))
    expected = np.clip((y * gain + offset) @ np.linalg.inv(TO_OPPONENT).T, 0, 1)
    out = InputAlignment(*mean_look(sources, grid, CPU), 0.5)(tensor(frame))
    np.testing.assert_allclose(out[0].permute(1, 2, 0).numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("grid", [(4, 1), (2, 4)])
def test_the_look_of_the_whole_is_the_frames_own(grid: tuple[int, int]) -> None:
    opponent = to_opponent(tensor(street(3)))
    whole, expected = of_the_whole(moments(opponent, grid)), moments(opponent, (1, 1))
    for found, one in zip(whole, expected, strict=True):
        torch.testing.assert_close(found, one.expand_as(found), atol=1e-5, rtol=0)


def test_without_place_every_cell_is_moved_as_the_frame_is() -> None:
    looks = mean_look([street(seed) for seed in range(4)], (1, 1), CPU)
    cells = tuple(part.expand(1, 3, 4, 1) for part in looks)
    frame = tensor(hazy(street(9)))
    by_place, half, whole = (InputAlignment(*cells, 0.5, by_place=share)(frame) for share in (1.0, 0.5, 0.0))
    torch.testing.assert_close(whole, InputAlignment(*looks, 0.5)(frame), atol=1e-5, rtol=0)
    assert (by_place - whole).abs().mean() > (half - whole).abs().mean() > 0.005


def test_haze_is_taken_back_more_the_stronger() -> None:
    clear, foggy = street(20), hazy(street(20))

    def error(strength: float) -> float:
        return float((fitted(strength=strength)(tensor(foggy)) - tensor(clear)).abs().mean())

    errors = [error(strength) for strength in (0.0, 0.25, 0.5, 1.0)]
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.4 * errors[0]


def test_at_full_strength_the_cell_moments_are_the_sources() -> None:
    align = fitted((1, 1), 1.0)
    inner = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
    mean, deviation = moments(to_opponent(align(inner)), (1, 1))
    torch.testing.assert_close(mean, align.mean, atol=0.02, rtol=0)
    torch.testing.assert_close(deviation, align.log_deviation, atol=0.1, rtol=0)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)), grid=st.tuples(st.integers(1, 5), st.integers(1, 4)),
    kind=st.sampled_from(["noise", "black", "white", "grey"]), strength=st.floats(0.01, 1.0),
)  # fmt: skip
def test_any_frame_stays_a_frame(size: tuple[int, int], grid: tuple[int, int], kind: str, strength: float) -> None:
    flat = {"black": 0.0, "white": 1.0, "grey": 0.5}
    frame = torch.rand(1, 3, *size) if kind == "noise" else torch.full((1, 3, *size), flat[kind])
    out = fitted(grid, strength)(frame)
    assert out.shape == frame.shape
    assert out.dtype == torch.float32
    assert float(out.min()) >= 0.0
    assert float(out.max()) <= 1.0


def test_frames_of_a_batch_are_aligned_each_by_its_own_moments_also_under_autocast() -> None:
    align, frames = fitted(), torch.cat([tensor(street(7)), tensor(hazy(street(8)))])
    both = align(frames)
    for index in range(2):
        torch.testing.assert_close(both[index : index + 1], align(frames[index : index + 1]))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(align(frames), both, atol=0, rtol=0)


@pytest.mark.parametrize(("haze", "by_place"), [(0.0, 1.0), (0.65, 0.3)])
def test_it_travels_in_a_folder_and_in_a_graph(tmp_path: Path, haze: float, by_place: float) -> None:
    torch.manual_seed(0)
    encoder = MiTConfig((8, 16, 24, 32), (1, 1, 1, 1), (1, 1, 1, 1), (8, 4, 2, 1))
    config = SegformerConfig(encoder, 5, head_width=16, light_width=8)
    network = build_segformer(config).eval().requires_grad_(False)
    plain = network(tensor(hazy(street(3, (64, 96))))).logits
    names = set(network.state_dict())
    network.alignment = fitted((4, 2), haze=haze, by_place=by_place)
    assert set(network.state_dict()) == names
    frame = tensor(hazy(street(3, (64, 96))))
    expected = network(frame).logits
    assert not torch.allclose(expected, plain, atol=1e-3)

    save_folder(tmp_path / "net", network, config, tuple("abcde"), {}, torch.float32)
    torch.testing.assert_close(load_folder(tmp_path / "net").network(frame).logits, expected)

    path = tmp_path / "net.onnx"
    path.write_bytes(export_graph(network, (64, 96)).SerializeToString())
    answer = open_session(str(path), CPU, 1).run(None, {"frames": frame.numpy()})[0]
    np.testing.assert_allclose(answer, expected.numpy(), atol=1e-4)

    content = json.loads((tmp_path / "net" / "config.json").read_text())
    kept = content["alignment"]
    for broken in (
        {}, {**kept, "mean": [1.0]}, {**kept, "strength": "half"}, 3, {**kept, "haze": 0.5, "transmission": [0.5]},
    ):  # fmt: skip
        (tmp_path / "net" / "config.json").write_text(json.dumps({**content, "alignment": broken}))
        with pytest.raises(UserError, match=r"config.json: alignment does not hold"):
            load_folder(tmp_path / "net")
