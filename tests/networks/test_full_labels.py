"""Labels at full size against interpolation and argmax in torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from online_uda.networks.full_labels import upsampled_argmax
from online_uda.networks.segmenter import Segmentation


def reference(logits: Tensor, size: tuple[int, int]) -> Tensor:
    full = F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
    return full.argmax(1).to(torch.uint8)


def segments(classes: int, size: tuple[int, int], seed: int) -> Tensor:
    """Logits as a network gives them: large areas of one class, with noise where two meet."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn((2, classes, 4, 5), generator=generator)
    smooth = F.interpolate(coarse, size, mode="bicubic", align_corners=False)
    return 4 * smooth + 0.3 * torch.randn((2, classes, *size), generator=generator)


@pytest.mark.parametrize("full", [(96, 160), (61, 90), (200, 37), (24, 40), (17, 21)])
@pytest.mark.parametrize("classes", [2, 19, 151])
def test_equals_interpolation_and_argmax(classes: int, full: tuple[int, int]) -> None:
    for seed in range(3):
        smooth, noise = segments(classes, (24, 40), seed), torch.randn((1, classes, 24, 40))
        for logits in (smooth, smooth.contiguous(memory_format=torch.channels_last), noise):
            assert torch.equal(upsampled_argmax(logits, full), reference(logits, full))


def test_crop_is_the_upper_left_part() -> None:
    logits = segments(11, (16, 20), 1)
    assert torch.equal(upsampled_argmax(logits, (64, 80), (61, 78)), reference(logits, (64, 80))[:, :61, :78])


def test_a_class_that_wins_between_the_cells_but_in_none_of_them_is_found() -> None:
    # Classes 0 and 1 win one column each by a hair more than class 2, which is high in both.
    left, right = torch.tensor([1.0, -1.0, 0.9]), torch.tensor([-1.0, 1.0, 0.9])
    logits = torch.stack([left, right], 1).view(1, 3, 1, 2).expand(1, 3, 2, 2)
    labels = upsampled_argmax(logits, (16, 16))
    assert set(labels.unique().tolist()) == {0, 1, 2}
    assert torch.equal(labels, reference(logits, (16, 16)))


def test_equal_logits_go_to_the_first_class() -> None:
    logits = torch.zeros(1, 5, 4, 4)
    logits[:, 1:3] = 0.7
    assert torch.equal(upsampled_argmax(logits, (16, 16)), torch.ones(1, 16, 16, dtype=torch.uint8))


def test_half_precision_logits() -> None:
    logits = segments(7, (12, 12), 2).bfloat16()
    assert torch.equal(upsampled_argmax(logits, (48, 48)), reference(logits, (48, 48)))


def test_a_logit_that_is_no_number_wins_as_in_argmax() -> None:
    logits = segments(4, (8, 8), 3)
    logits[0, 2, 4, 4], logits[1, 1, 0, 0] = float("nan"), float("inf")
    assert torch.equal(upsampled_argmax(logits, (32, 32), (30, 31)), reference(logits, (32, 32))[:, :30, :31])


@pytest.mark.parametrize("target", [None, (64, 96), (30, 50)])
def test_labels_of_a_padded_frame(target: tuple[int, int] | None) -> None:
    output = Segmentation(segments(6, (16, 24), 4), (), (61, 95), (64, 96))
    assert torch.equal(output.labels(target), output.full(target).argmax(1).to(torch.uint8))
