"""Tiles, scales and mirror images: where they lie, that they fit together again, and what they cost."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from online_uda.networks.inference import WHOLE, InferenceSettings, parse_tile, tile_starts
from online_uda.networks.segmenter import Segmentation
from online_uda.networks.views import Views
from streams.yaml_config import ConfigError, build, from_mapping

SIDE = st.integers(32, 90)
OVERLAPS = st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 0.7, 0.9])


def slide(**keys: object) -> InferenceSettings:
    return InferenceSettings.model_validate({"mode": "slide", **keys})


def identity(frames: Tensor) -> Segmentation:
    """Says of every pixel what it is."""
    size = (int(frames.shape[-2]), int(frames.shape[-1]))
    return Segmentation(frames, (), size, size)


class Blurred(nn.Module):
    """Says of a pixel what lies around it, the border of the view included: tiles answer otherwise than the whole."""

    def forward(self, frames: Tensor) -> Segmentation:
        size = (int(frames.shape[-2]), int(frames.shape[-1]))
        return Segmentation(nn.functional.avg_pool2d(frames, 9, stride=1, padding=4), (), size, size)


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def test_windows_of_the_published_example() -> None:
    """specs/seed-systems.md F13."""
    boxes = slide(tile=64).boxes((100, 150), 1.0, (100, 150))
    expected = [(0, 0), (0, 43), (0, 86), (36, 0), (36, 43), (36, 86)]
    assert boxes == [(top, left, top + 64, left + 64) for top, left in expected]


def test_forward_passes_of_the_published_setting() -> None:
    """2048 x 1024, tile 1024, scales 0.5, 1, 2, mirrored: (1 + 3 + 3) * 2 passes."""
    size = (1024, 2048)
    inference = slide(tile=1024, scales=[0.5, 1, 2], flip=True)
    assert [len(inference.boxes(scaled, s, size)) for scaled, s in
            (((512, 1024), 0.5), ((1024, 2048), 1.0), ((2048, 4096), 2.0))] == [1, 3, 3]  # fmt: skip
    assert inference.forwards(size) == 14
    assert inference.passes(size) == 2 * (0.25 + 3 * 0.5 + 3 * 2.0)
    assert inference.view_sizes(size) == [(512, 1024), (1024, 1024), (2048, 2048)]


@given(side=st.integers(1, 400), tile=st.integers(1, 400), overlap=OVERLAPS)
def test_tiles_cover_a_side_and_overlap_as_asked(side: int, tile: int, overlap: float) -> None:
    starts = tile_starts(side, tile, overlap)
    shown = min(tile, side)
    assert starts == sorted(set(starts))
    assert (starts[0], starts[-1] + shown) == (0, side)
    for one, other in itertools.pairwise(starts):
        assert one + tile - other >= int(overlap * tile + 1e-6)


@given(side=st.integers(1, 400), tile=st.integers(1, 400), overlap=OVERLAPS)
def test_tiles_are_mmsegmentations(side: int, tile: int, overlap: float) -> None:
    """The grid of its slide mode, written out: count of strides, end of a window, start moved back from the end."""
    stride = int(-(-round(tile * (1.0 - overlap), 6) // 1)) or 1
    grids = max(side - tile + stride - 1, 0) // stride + 1
    assert tile_starts(side, tile, overlap) == [max(min(grid * stride + tile, side) - tile, 0) for grid in range(grids)]


@settings(max_examples=60, deadline=None)
@given(height=SIDE, width=SIDE, tile=st.tuples(SIDE, SIDE), overlap=OVERLAPS, flip=st.booleans())
def test_an_identity_network_gives_the_frame_back(
    height: int, width: int, tile: tuple[int, int], overlap: float, flip: bool
) -> None:
    frames = picture(height, width)
    kept = frames.clone()
    inference = slide(tile=list(tile), overlap=overlap, flip=flip)
    answer = Views(inference)(identity, frames)
    torch.testing.assert_close(answer.full(), frames, rtol=0, atol=1e-6)
    assert (answer.size, answer.padded) == ((height, width), (height, width))
    assert answer.forwards == inference.forwards((height, width))
    assert torch.equal(frames, kept)


@pytest.mark.parametrize("size", [(40, 50), (64, 64), (64, 128), (100, 150), (65, 64)])
def test_identity_below_equal_and_not_divisible_by_the_tile(size: tuple[int, int]) -> None:
    frames = picture(*size)
    torch.testing.assert_close(Views(slide(tile=64))(identity, frames).full(), frames, rtol=0, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(height=SIDE, width=SIDE, tile=st.tuples(SIDE, SIDE), overlap=OVERLAPS)
def test_overlaps_are_the_mean_of_the_tiles_that_show_a_pixel(
    height: int, width: int, tile: tuple[int, int], overlap: float
) -> None:
    frames, network, inference = picture(height, width), Blurred(), slide(tile=list(tile), overlap=overlap)
    boxes = inference.boxes((height, width), 1.0, (height, width))
    answers = torch.full((len(boxes), 3, height, width), torch.nan)  # a tile each, averaged where it says something
    for answer, (top, left, bottom, right) in zip(answers, boxes, strict=True):
        answer[:, top:bottom, left:right] = network(frames[..., top:bottom, left:right]).logits[0]
    found = Views(inference)(network, frames).full()[0]
    torch.testing.assert_close(found, answers.nanmean(0), rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(height=SIDE, width=SIDE, scales=st.sets(st.sampled_from([0.5, 0.75, 1.0, 1.5, 2.0]), min_size=1),
       flip=st.booleans())  # fmt: skip
def test_views_of_a_flat_frame_agree_and_are_counted(height: int, width: int, scales: set[float], flip: bool) -> None:
    frames = torch.tensor([0.1, 0.5, 0.9]).view(1, 3, 1, 1).expand(1, 3, height, width)
    inference = InferenceSettings(scales=tuple(scales), flip=flip)
    seen: list[tuple[int, int]] = []

    def network(view: Tensor) -> Segmentation:
        seen.append((int(view.shape[-2]), int(view.shape[-1])))
        return identity(view)

    answer = Views(inference)(network, frames)
    torch.testing.assert_close(answer.full(), frames, rtol=0, atol=1e-6)
    assert len(seen) == inference.forwards((height, width)) == len(scales) * (1 + flip)
    assert sorted(set(seen)) == sorted(set(inference.view_sizes((height, width))))
    assert sum(h * w for h, w in seen) == pytest.approx(inference.passes((height, width)) * height * width)
    assert answer.forwards == (1 if inference.is_plain else len(seen))


def test_scales_are_averaged_and_the_mirror_image_is_turned_back() -> None:
    frames = picture(48, 64)
    ramp = torch.linspace(0.0, 1.0, 64).expand(1, 1, 48, 64)

    def lopsided(view: Tensor) -> Segmentation:
        """Adds what depends on the place in the view, so that a mirror image is answered otherwise."""
        width = int(view.shape[-1])
        return identity(view + torch.linspace(0.0, 1.0, width))

    mirrored = Views(InferenceSettings(flip=True))(lopsided, frames).full()
    torch.testing.assert_close(mirrored, frames + (ramp + ramp.flip(-1)) / 2, rtol=0, atol=1e-6)
    half, double = (Views(InferenceSettings(scales=(scale,)))(Blurred(), frames).full() for scale in (0.5, 2.0))
    both = Views(InferenceSettings(scales=(0.5, 2.0)))(Blurred(), frames).full()
    torch.testing.assert_close(both, (half + double) / 2, rtol=0, atol=1e-6)
    assert (half - double).abs().max() > 0.05


def test_a_whole_pass_is_the_networks_own_answer() -> None:
    frames = picture(40, 40)
    answer = identity(frames)
    assert Views()(lambda _: answer, frames) is answer
    assert (WHOLE.forwards((40, 40)), WHOLE.passes((40, 40))) == (1, 1.0)


def test_moments_of_several_passes_are_those_of_all_values() -> None:
    """Against statistics of all views in one heap."""
    frames, inference = picture(70, 90), slide(tile=[48, 64], scales=[0.5, 1.0], flip=True)
    heap: list[Tensor] = []

    def one_pass(view: Tensor) -> tuple[Segmentation, list[tuple[Tensor, Tensor]]]:
        heap.append(view[0].flatten(1))
        variance, mean = torch.var_mean(heap[-1], dim=1, correction=0)
        return identity(view), [(mean, variance)]

    answer, moments = Views(inference).answer(one_pass, frames)
    values = torch.cat(heap, dim=1)
    assert answer.forwards == len(heap) == inference.forwards((70, 90))
    ((mean, variance),) = moments
    torch.testing.assert_close(mean, values.mean(1), rtol=0, atol=1e-6)
    torch.testing.assert_close(variance, values.var(1, correction=0), rtol=0, atol=1e-6)


def test_a_tile_is_the_shorter_side_unless_given_and_grows_with_the_frame() -> None:
    assert slide().boxes((256, 512), 1.0, (256, 512))[0] == (0, 0, 256, 256)
    assert slide().view_sizes((512, 256)) == [(256, 256)]
    inference = slide(tile="64x96", scales=[0.5, 1.0, 2.0])
    assert inference.view_sizes((200, 300)) == [(64, 96), (64, 96), (128, 192)]
    assert [parse_tile(text) for text in ("64", "64x96", 64, [64, 96])] == [(64, 64), (64, 96), (64, 64), (64, 96)]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"mode": "tiles"}, "mode: unknown value 'tiles' (known: slide, whole)"),
        ({"tile": 64}, "tile: cuts frames only in mode slide"),
        ({"overlap": 0.5}, "overlap: cuts frames only in mode slide"),
        ({"mode": "slide", "tile": "64x"}, "tile: expected a number such as 512, or HEIGHTxWIDTH"),
        ({"mode": "slide", "tile": 16}, "tile: expected sides of 32 to 8192 pixels, got 16x16"),
        ({"mode": "slide", "tile": [64, 64, 64]}, "tile: "),
        ({"mode": "slide", "overlap": 1.0}, "overlap: "),
        ({"scales": []}, "scales: expected one scale or several"),
        ({"scales": [1.0, 1.0]}, "scales: expected one scale or several that differ"),
        ({"scales": [0.0]}, "scales.0: must be at least 0.1"),
        ({"scales": 2.0}, "scales: "),
        ({"flip": "both"}, "flip: "),
    ],
)
def test_bad_values_are_one_clear_line(keys: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(InferenceSettings, from_mapping(keys, "run"))
    assert len(error.value.lines) == 1, error.value.lines
    assert said in error.value.lines[0]
