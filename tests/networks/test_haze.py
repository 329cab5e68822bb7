"""Haze taken out of frames: against a plain reference, on haze that was laid on by the formula, and its limits."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from online_uda.networks.haze import ROWS, airlight, cleared, mean_transmission, transmission, transmission_by_height

SIZE = (96, 192)
SKY = (0.62, 0.66, 0.72)


def street(seed: int, size: tuple[int, int] = SIZE) -> Tensor:
    """A bright even sky over dark, saturated blocks: ``(1, 3, H, W)``."""
    generator = np.random.default_rng(seed)
    height, width = size
    blocks = generator.choice([0.03, 0.25, 0.5, 0.9], (height // 8, width // 8, 3)).astype(np.float32)
    blocks[..., generator.integers(0, 3)] = 0.05
    image = cv2.resize(blocks, (width, height), interpolation=cv2.INTER_NEAREST)
    image[: height // 3] = SKY
    return torch.from_numpy(image).permute(2, 0, 1)[None]


def hazy(frame: Tensor, share: float) -> Tensor:
    """``J t + A (1 - t)``, thicker towards the horizon, as specs/weather.md lays fog on."""
    height = frame.shape[-2]
    below = torch.linspace(0, 1, height - height // 3)
    t = torch.cat([torch.full((height // 3,), 1 - share), 1 - share * (1 - 0.6 * below)])[:, None]
    return frame * t + torch.tensor(SKY).view(1, 3, 1, 1) * (1 - t)


def plain_transmission(image: NDArray[np.float32], light: NDArray[np.float32]) -> NDArray[np.float64]:
    """The dark channel and the guided filter by SciPy, in float64; sides are multiples of the coarse step."""
    step = image.shape[1] // 64
    dark = (image / np.maximum(light, 0.2)).min(2).astype(np.float64)
    cells = dark.reshape(dark.shape[0] // step, step, dark.shape[1] // step, step).min((1, 3))
    cells = ndimage.minimum_filter(cells, 3, mode="constant", cval=np.inf)
    grey = image.mean(2, dtype=np.float64)
    guide = grey.reshape(cells.shape[0], step, cells.shape[1], step).mean((1, 3))

    def box(values: NDArray[np.float64]) -> NDArray[np.float64]:
        within = ndimage.uniform_filter(np.ones_like(values), 7, mode="constant")
        out: NDArray[np.float64] = ndimage.uniform_filter(values, 7, mode="constant") / within
        return out

    signal = 1 - 0.95 * cells
    slope = (box(guide * signal) - box(guide) * box(signal)) / (box(guide * guide) - box(guide) ** 2 + 1e-3)
    level = box(signal) - slope * box(guide)
    return np.clip(box(slope) * guide + box(level), 0.15, 1.0)


@pytest.mark.parametrize("size", [(64, 128), (96, 192), (60, 64)])
def test_transmission_against_scipy(size: tuple[int, int]) -> None:
    frame = hazy(street(3, size), 0.5)
    light = airlight(frame)
    expected = plain_transmission(frame[0].permute(1, 2, 0).numpy(), light[0, :, 0, 0].numpy())
    np.testing.assert_allclose(transmission(frame, light)[0, 0].numpy(), expected, atol=2e-4)


def test_the_airlight_is_the_skys_and_no_striped_bus() -> None:
    frame = street(1)
    frame[..., 40:56, :96] = (torch.arange(96) % 2).float()  # brighter in places than the sky, and uneven
    torch.testing.assert_close(airlight(frame).flatten(), torch.tensor(SKY), atol=0.02, rtol=0)


@pytest.mark.parametrize("seed", range(4))
def test_laid_on_haze_comes_off_and_more_of_it_the_greater_the_share(seed: int) -> None:
    clear, normal = street(seed), mean_transmission(street(other) for other in range(20, 28))
    foggy = hazy(clear, 0.6)
    errors = [float((cleared(foggy, normal, share) - clear).abs().mean()) for share in (0.0, 0.3, 0.6, 0.9)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.65 * errors[0]
    torch.testing.assert_close(cleared(foggy, normal, 0.0), foggy)


def test_what_is_as_clear_as_the_source_stays_as_it_is() -> None:
    frame = street(5)
    torch.testing.assert_close(cleared(frame, torch.full((1, 1, ROWS, 1), 0.15), 0.9), frame)
    assert transmission_by_height(hazy(frame, 0.6)).mean() < transmission_by_height(frame).mean()


def test_frames_of_a_batch_are_cleared_each_by_itself() -> None:
    frames, normal = torch.cat([hazy(street(7), 0.5), street(8)]), torch.full((1, 1, ROWS, 1), 0.8)
    both = cleared(frames, normal, 0.7)
    for index in range(2):
        torch.testing.assert_close(both[index : index + 1], cleared(frames[index : index + 1], normal, 0.7))


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 150), st.integers(1, 150)), share=st.floats(0.0, 1.0),
    kind=st.sampled_from(["noise", "black", "white", "grey"]),
)  # fmt: skip
def test_any_frame_stays_a_frame(size: tuple[int, int], kind: str, share: float) -> None:
    flat = {"black": 0.0, "white": 1.0, "grey": 0.5}
    frame = torch.rand(1, 3, *size) if kind == "noise" else torch.full((1, 3, *size), flat[kind])
    out = cleared(frame, torch.full((1, 1, ROWS, 1), 0.7), share)
    assert out.shape == frame.shape
    assert bool(out.isfinite().all())
    assert 0.0 <= float(out.min()) <= float(out.max()) <= 1.0
