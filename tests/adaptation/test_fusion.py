"""Answers carried along the optical flow: exact where nothing moves, in place where it does, silent elsewhere."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import torch
from recipe_kit import make_recipe, settings_of, stream, trained
from torch import Tensor

from online_uda.adaptation.fusion import TemporalFusion
from online_uda.adaptation.settings import FusionSettings
from online_uda.adaptation.trigger.base import Decision
from online_uda.networks.segmenter import Segmentation

SIZE = (96, 160)
FAR, NEAR = Decision(True, distance=2.0), Decision(False, distance=0.1)


def scene(seed: int, right: int = 0) -> Tensor:
    """Smooth blobs, moved ``right`` by pixels: ``(1, 3, H, W)``."""
    blobs = np.random.default_rng(seed).uniform(0, 1, (12, 30, 3)).astype(np.float32)
    wide = cv2.resize(blobs, (SIZE[1] + 80, SIZE[0]), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    return torch.from_numpy(wide[:, 40 - right : 40 - right + SIZE[1]].copy()).permute(2, 0, 1)[None]


def answer_of(logits: Tensor, size: tuple[int, int] = SIZE, padded: tuple[int, int] | None = None) -> Segmentation:
    return Segmentation(logits, (), size, padded or size)


def noise(seed: int) -> Tensor:
    return torch.randn(1, 5, SIZE[0] // 4, SIZE[1] // 4, generator=torch.Generator().manual_seed(seed))


def far_fusion(weight: float = 0.4) -> TemporalFusion:
    fusion = TemporalFusion(FusionSettings(weight=weight))
    fusion.watch(FAR)
    return fusion


@pytest.mark.parametrize("weight", [0.2, 0.4, 0.8])
def test_a_still_scene_is_a_running_mean(weight: float) -> None:
    fusion, frame = far_fusion(weight), scene(0)
    expected = noise(0)
    assert torch.equal(fusion(frame, answer_of(expected)).logits, expected)
    for index in range(1, 4):
        expected = torch.lerp(noise(index), expected, weight)
        torch.testing.assert_close(fusion(frame, answer_of(noise(index))).logits, expected, atol=1e-4, rtol=0)


def test_what_was_said_moves_with_the_picture() -> None:
    """The scene goes 8 pixels to the right, two cells of the logits, and so does the past."""
    fusion, before = far_fusion(0.8), noise(1)
    smooth = torch.nn.functional.avg_pool2d(before, 5, 1, 2)
    fusion(scene(2), answer_of(smooth))
    out = fusion(scene(2, right=8), answer_of(torch.zeros_like(smooth))).logits / 0.8
    inner = (slice(None), slice(None), slice(3, -3), slice(6, -4))
    moved, still = torch.roll(smooth, 2, 3)[inner], smooth[inner]
    assert (out[inner] - moved).abs().mean() < 0.25 * (out[inner] - still).abs().mean()


def test_noise_between_frames_is_averaged_out() -> None:
    fusion, truth = far_fusion(), noise(9)
    for index in range(12):
        noisy = truth + noise(100 + index)
        fused = fusion(scene(3), answer_of(noisy)).logits
    assert float((fused - truth).std()) < 0.75 * float((noisy - truth).std())


def test_another_picture_has_no_past() -> None:
    fusion = far_fusion()
    fusion(torch.zeros(1, 3, *SIZE), answer_of(noise(0)))
    out = fusion(torch.ones(1, 3, *SIZE), answer_of(noise(1)))
    torch.testing.assert_close(out.logits, noise(1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("jitter", "fused"), [(0.0, 1.0), (0.12, 0.0)])
def test_the_past_has_no_say_in_a_frame_that_the_flow_does_not_explain(jitter: float, fused: float) -> None:
    """In the dark two frames differ by few grey levels, whatever they show."""
    fusion, dark = far_fusion(), scene(5) * 0.08
    other = (dark + jitter * (scene(6) - 0.5)).clamp(0, 1)
    fusion(dark, answer_of(noise(0)))
    out = fusion(other, answer_of(noise(1))).logits
    expected = torch.lerp(noise(1), noise(0), 0.4 * fused)
    torch.testing.assert_close(out, expected, atol=1e-3, rtol=0)


def test_near_the_source_and_on_tiny_frames_answers_stay_as_they_are() -> None:
    fusion = far_fusion()
    fusion(scene(0), answer_of(noise(0)))
    fusion.watch(NEAR)
    answer = answer_of(noise(1))
    assert fusion(scene(0), answer) is answer
    fusion.watch(FAR)
    torch.testing.assert_close(  # what was said near counts as soon as the stream is far
        fusion(scene(0), answer_of(noise(2))).logits, torch.lerp(noise(2), noise(1), 0.4), atol=1e-4, rtol=0
    )
    tiny = answer_of(torch.zeros(1, 5, 4, 4), (16, 16))
    for _ in range(2):
        assert fusion(torch.rand(1, 3, 16, 16), tiny) is tiny
    other = answer_of(noise(1)[..., :20], (96, 80))
    assert fusion(scene(0)[..., :80], other) is other  # the size of frames has changed


def test_logits_over_a_padded_frame_are_moved_in_its_pixels() -> None:
    fusion, padded = far_fusion(0.8), (96, 192)
    smooth = torch.nn.functional.avg_pool2d(
        torch.randn(1, 2, 24, 48, generator=torch.Generator().manual_seed(4)), 5, 1, 2
    )
    fusion(scene(2), answer_of(smooth, padded=padded))
    out = fusion(scene(2, right=8), answer_of(torch.zeros_like(smooth), padded=padded)).logits / 0.8
    inner = (slice(None), slice(None), slice(3, -3), slice(6, 36))
    moved, still = torch.roll(smooth, 2, 3)[inner], smooth[inner]
    assert (out[inner] - moved).abs().mean() < 0.25 * (out[inner] - still).abs().mean()


def test_state_goes_through_a_file() -> None:
    fusion, resumed = far_fusion(), TemporalFusion(FusionSettings())
    for index in range(3):
        fusion(scene(index // 2, right=3 * index), answer_of(noise(index)))
    file = io.BytesIO()
    torch.save(fusion.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    frame, answer = scene(1, right=9), answer_of(noise(7))
    assert torch.equal(fusion(frame, answer).logits, resumed(frame, answer).logits)


def test_a_method_fuses_and_resumes_to_the_bit() -> None:
    """The past is part of the recipe's state, and answers differ by it from those without the slot."""
    settings = settings_of({"scope": {"parameters": "none"}, "fusion": {"weight": 0.5}})
    assert not settings.keeps_the_source
    network = trained("layernorm")
    recipe, resumed = make_recipe(settings, network), make_recipe(settings, network)
    frame = next(stream(1))
    for shift in range(3):
        recipe.observe(frame, recipe.predict((frame + 0.02 * shift).clamp(0, 1)))
    resumed.load_state_dict(recipe.state_dict())
    one, other = recipe.predict(frame).logits, resumed.predict(frame).logits
    assert torch.equal(one, other)
    assert not torch.allclose(one, network(frame).logits)
